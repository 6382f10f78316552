"""Recipes: what is read, what is changed on the command line, and what each mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.errors import LimbeckError
from limbeck.losses import DKD, KD, Standardized
from limbeck.recipe import Recipe, TeacherRecipe, build_terms, read_recipe, shipped_recipes
from limbeck.tasks.image_classification import expected_preprocessing
from limbeck.types import Preprocessing

MINIMAL = "name: mine\ndata: {source: digits}\nteacher: {model: conv-teacher}\nstudent: {model: conv-student}\n"


TERMS = "terms: [{loss: supervised}, {loss: kd, temperature: 3}]\n"


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


@pytest.fixture
def with_terms(tmp_path: Path) -> Path:
    path = tmp_path / "terms.yaml"
    path.write_text(MINIMAL + TERMS, encoding="utf-8")
    return path


def test_defaults(minimal: Path) -> None:
    """A default that drifts would silently change every recipe that relies on it."""
    recipe = read_recipe(str(minimal))
    supervised, kd = build_terms(recipe.terms)
    assert (supervised.weight, kd.weight) == (0.1, 0.9)
    assert isinstance(kd.loss, KD)
    assert kd.loss.temperature == 4.0
    assert (recipe.seeds, recipe.data.validation, recipe.data.labelled) == (3, 0.1, "all")
    assert [teacher.model for teacher in recipe.teacher] == ["conv-teacher"]


def test_resolved_reads_back(minimal: Path) -> None:
    """A run folder's recipe.yaml must be the recipe: nothing lost, nothing of another type."""
    recipe = read_recipe(str(minimal), ["train.learning_rate=1e-3", "settings.few={data.labelled: 20}"])
    assert Recipe.model_validate(recipe.resolved()) == recipe


def test_overrides_reach_every_depth(minimal: Path) -> None:
    """An override that lands elsewhere, or stays text, runs another experiment than the user asked for."""
    recipe = read_recipe(
        str(minimal),
        ["train.epochs=7", "teacher.train.epochs=2", "terms=[{loss: kd}]", "terms.0.temperature=2", "seeds=5"],
    )
    assert (recipe.train.epochs, recipe.seeds, recipe.terms) == (7.0, 5, [{"loss": "kd", "temperature": 2}])
    assert recipe.teacher[0].train is not None
    assert recipe.teacher[0].train.epochs == 2.0


def test_number_written_as_yaml_text(with_terms: Path) -> None:
    """YAML 1.1 reads 1e-3 as text; it must become the number all the same."""
    changes = ["train.learning_rate=1e-3", "terms.1.temperature=2e0", "terms.1.weight=5e-1"]
    recipe = read_recipe(str(with_terms), changes)
    assert recipe.train.learning_rate == 0.001
    [_, kd] = build_terms(recipe.terms)
    assert isinstance(kd.loss, KD)
    assert (kd.loss.temperature, kd.weight) == (2.0, 0.5)


def test_settings_change_only_what_they_name(minimal: Path) -> None:
    """A setting that shares or loses state with the main experiment would compare two different things."""
    recipe = read_recipe(str(minimal), ["data.labelled=50", "settings.all={data.labelled: all}"])
    variants = recipe.variants()
    assert {name: variant.data.labelled for name, variant in variants.items()} == {"": 50, "all": "all"}
    assert variants["all"].train == recipe.train
    assert variants["all"].settings == {}


def test_shipped_recipes_are_valid() -> None:
    """A shipped recipe that does not read fails in the first minute of a new user."""
    assert "digits" in shipped_recipes()
    for name in shipped_recipes():
        assert read_recipe(name).name == name


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.epoch=3", ["train.epoch: unknown key", "did you mean 'epochs'"]),
        ("teacher.train.epoch=3", ["teacher.0.train.epoch: unknown key", "did you mean 'epochs'"]),
        ("data.labeled=3", ["data.labeled: unknown key", "did you mean 'labelled'"]),
        ("sedes=3", ["sedes: unknown key", "did you mean 'seeds'"]),
        ("student.modle=x", ["student.modle: unknown key", "did you mean 'model'"]),
        ("settings.few={data.labeled: 3}", ["settings.few: data.labeled", "did you mean 'labelled'"]),
        ("settings.few={seeds: 7}", ["settings.few: seeds is shared"]),
        ("settings.few={teacher: {model: x}}", ["settings.few: teacher is shared"]),
        ("terms.1.loss=kdd", ["terms.1.loss: unknown loss 'kdd'", "did you mean 'kd'"]),
        ("terms.1.temprature=3", ["terms.1.temprature: unknown key", "did you mean 'temperature'"]),
        ("terms.1.temperature=-3", ["terms.1", "temperature", "positive", "-3"]),
        ("terms.1.weight=much", ["terms.1.weight: expected a number", "'much'"]),
        ("terms.5.weight=1", ["terms.5.weight: there is nothing at '5'"]),
        ("terms=[{weight: 1}]", ["terms.0: needs `loss: NAME`", "kd"]),
        ("terms=[]", ["terms", "at least 1"]),
        ("train.epochs=many", ["train.epochs", "number", "'many'"]),
        ("train.epochs=-1", ["train.epochs must be above 0"]),
        ("train.optimizer=adam", ["train.optimizer", "'adamw' or 'sgd'", "'adam'"]),
        ("seeds=0", ["seeds", "greater than or equal to 1", "got 0"]),
        ("task=dreaming", ["task", "image-classification", "'dreaming'"]),
        ("name=a/b", ["name", "'a/b'"]),
        ("name.x=3", ["name.x: there is nothing at 'x'"]),
        ("data.labelled=0", ["data.labelled: expected", "got 0"]),
        ("data.augment=crops", ["data.augment", "'crops'", "did you mean 'crop'"]),
        ("data.augment=[RandomCorp]", ["data.augment", "'RandomCorp'", "did you mean 'RandomCrop'"]),
        ("data.augment=[3]", ["data.augment", "transform's name", "got 3"]),
        ("data.augment=[{RandomCrop: 3}]", ["data.augment", "RandomCrop: {option: value}", "got 3"]),
        ("data.augment=[{RandomCrop: {sise: 3}}]", ["data.augment: RandomCrop", "'sise'"]),
        ("teacher=conv-teacher", ["teacher: expected keys", "{model: conv-teacher}"]),
        ("teacher.normalize=imagnet", ["teacher.0.normalize", "did you mean 'imagenet'"]),
        ("epochs", ["override 'epochs'", "key=value"]),
        ("train.epochs=[1", ["override 'train.epochs=[1'", "not valid YAML"]),
    ],
)
def test_mistakes_name_where_and_the_nearest(with_terms: Path, override: str, parts: list[str]) -> None:
    """A mistake that passes silently, or is reported without its place, costs the user a run."""
    with pytest.raises(LimbeckError) as caught:
        read_recipe(str(with_terms), [override])
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert message.count("got") <= 1


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"name: [1\nfoo: : bar\n", "not valid YAML"),
        (b"- 1\n", "a recipe is a mapping"),
        (b"", "a recipe is a mapping"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"name: x\ndata: {source: digits}\n", "teacher: missing; student: missing"),
        (MINIMAL.encode() + b"1: 3\n", "keys should be strings"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, part: str) -> None:
    """What is no recipe must be said of the file, in one line, whatever YAML's own message looks like."""
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(LimbeckError) as caught:
        read_recipe(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_recipes(tmp_path: Path) -> None:
    """A misspelt shipped recipe gets the nearest one, a missing file its path."""
    with pytest.raises(LimbeckError, match="'digitz'; did you mean 'digits'"):
        read_recipe("digitz")
    with pytest.raises(LimbeckError, match=r"nowhere\.yaml: no such recipe file"):
        read_recipe(str(tmp_path / "nowhere.yaml"))


def test_expected_preprocessing() -> None:
    """A teacher's normalisation mixed up with the student's gives a teacher that guesses."""
    given = Preprocessing((8, 8), 1, (0.3,), (0.4,))

    def of(**keys: object) -> Preprocessing | None:
        teacher = TeacherRecipe.model_validate({"model": "m", **keys})
        return expected_preprocessing(teacher.normalize, teacher.size, given)

    assert of() is None
    assert of(size=16) == Preprocessing((16, 16), 1, (0.3,), (0.4,))
    assert of(normalize="inception", size=32) == Preprocessing((32, 32), 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert of(normalize={"mean": [0.1], "std": [0.2]}) == Preprocessing((8, 8), 1, (0.1,), (0.2,))
    with pytest.raises(LimbeckError, match=r"teacher\.normalize: mean and std need 1 or 3 values each, got 3 and 1"):
        of(normalize={"mean": [0.1, 0.1, 0.1], "std": [0.2]})


def test_an_override_does_not_follow_an_anchor() -> None:
    """Five steps for the teacher that become five steps for the students, as both sections are one YAML anchor."""
    recipe = read_recipe("cifar100-resnet32x4-resnet8x4", ["teacher.train.epochs=5"])
    assert recipe.teacher[0].train is not None
    assert recipe.teacher[0].train.epochs == 5
    assert recipe.train.epochs == 240


def test_a_loss_that_wraps_another() -> None:
    """`loss` names the loss itself, so that what it wraps could not be said."""
    (term,) = build_terms([{"loss": "standardized", "of": {"loss": "dkd", "beta": 2.0}}])
    assert isinstance(term.loss, Standardized)
    assert isinstance(term.loss.loss, DKD)
    assert term.loss.loss.beta == 2.0
    with pytest.raises(LimbeckError, match=r"terms\.0\.of: unknown key for loss 'kd'"):
        build_terms([{"loss": "kd", "of": {"loss": "dkd"}}])
