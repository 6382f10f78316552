"""`limbeck label`, and runs that learn from what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import limbeck
from limbeck.cli import app
from limbeck.errors import LimbeckError
from limbeck.recipe import read_recipe
from limbeck.run import run
from limbeck.store import LabelStore
from limbeck.stores import compare_with_teacher, inspect_store, label_recipe

RECIPE: dict[str, Any] = {
    "name": "stored",
    "data": {"source": "digits", "labelled": 200, "augment": [{"RandomCrop": {"size": 8, "padding": 1}}, "MixUp"]},
    "teacher": {"model": "dense-teacher", "train": {"epochs": 3}, "store": "labels"},
    "student": {"model": "dense-student"},
    "train": {"epochs": 2, "threads": 1},
    "label": {"views": 2},
    "seeds": 1,
}


def quiet(_line: str) -> None:
    pass


def recipe_at(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    content = {**RECIPE, "teacher": {**RECIPE["teacher"], "store": str(folder / "labels")}, **changes}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    return result.exit_code, " ".join((result.output + (result.stderr if result.stderr else "")).split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a labelled recipe and its run folder `out`."""
    folder = tmp_path_factory.mktemp("stored")
    label_recipe(read_recipe(str(recipe_at(folder))), folder / "out", say=quiet)
    return folder


def test_the_store_of_a_recipe(place: Path) -> None:
    """A store that lacks a view, or the test split that the report reads."""
    store = LabelStore.open(place / "labels")
    train, test = 1294, 359
    assert store.manifest.records == 2 * train + test
    assert store.manifest.plan.teacher == "dense-teacher"
    assert store.manifest.plan.views is not None
    assert store.manifest.plan.views.mixing == "Mixup(alpha=1.0)"


def test_a_run_learns_from_it(place: Path) -> None:
    """A run that trains or runs the teacher although its answers are there, or is not reported as one that did not."""
    lines: list[str] = []
    results = run(read_recipe(str(recipe_at(place))), place / "out", say=lines.append)
    assert any("label store" in line and "2,947 stored answers" in line for line in lines)
    alone = {row.name: row.metrics["accuracy"] for row in results.rows}
    assert alone["distilled"] > alone["alone"]
    assert alone["teacher"] > 0.4
    only = recipe_at(place, teacher={"store": str(place / "labels")}, name="only")
    again = run(read_recipe(str(only)), place / "only", say=quiet)
    same = {row.name: row.metrics["accuracy"] for row in again.rows}
    assert same["distilled"] == alone["distilled"]
    assert not (place / "only" / "teacher").exists()


def test_other_data_or_augmentation_is_refused(place: Path) -> None:
    """A recipe that was changed after its labels were written."""
    for change, message in (
        ("data.augment=crop", "holds PerSample.* and Mixup.*, the recipe asks for Crop"),
        ("data.augment=none", "the recipe asks for samples as they are"),
        (
            "data.validation=0.3",
            "287 of the 1,294 samples among which .* drew partners for mixing are not in",
        ),
        ("data.size=16", "was written for samples prepared with .* this data is prepared with"),
    ):
        with pytest.raises(LimbeckError, match=message):
            run(read_recipe(str(recipe_at(place)), [change]), place / "changed", say=quiet)


def test_another_teacher_in_the_run_folder(place: Path, tmp_path: Path) -> None:
    """A store whose teacher was trained again, with the new one behind it."""
    recipe = read_recipe(str(recipe_at(place)), ["teacher.train.epochs=1"])
    label_recipe(read_recipe(str(recipe_at(tmp_path)), ["teacher.train.epochs=1"]), tmp_path / "out", say=quiet)
    (tmp_path / "out" / "recipe.yaml").unlink()
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (tmp_path / "out" / "teacher").rename(run_folder / "teacher")
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.resolved()), encoding="utf-8")
    with pytest.raises(LimbeckError, match=r"is of 'dense-teacher' with weights \w+…, the teacher given has weights"):
        run(recipe, run_folder, say=quiet)


def test_without_a_store_the_teacher_is_live(tmp_path: Path) -> None:
    """An error, or silence, where the labels were not written yet."""
    lines: list[str] = []
    run(read_recipe(str(recipe_at(tmp_path))), tmp_path / "out", say=lines.append)
    assert any(line.startswith("no label store at") and "so the teacher runs live" in line for line in lines)
    with pytest.raises(LimbeckError, match="holds no label store"):
        run(read_recipe(str(recipe_at(tmp_path, teacher={"store": str(tmp_path / "no")}))), tmp_path / "x", say=quiet)
    with pytest.raises(LimbeckError, match="is only a label store"):
        label_recipe(read_recipe(str(recipe_at(tmp_path, teacher={"store": "no"}))), tmp_path / "y", say=quiet)


def test_the_command(tmp_path: Path) -> None:
    """A command that hides what it costs, or what is wrong."""
    path = recipe_at(tmp_path)
    code, said = call("label", path, "--folder", tmp_path / "out")
    assert code == 0, said
    assert "2,947 samples (views counted), about 0.2 MB" in said
    assert "samples at" in said
    code, said = call("label", "--inspect", tmp_path / "labels", path, "--folder", tmp_path / "out")
    # Options before arguments: the recipe is the first argument.
    assert code == 0, said
    for part in ("dense-teacher", "2,947", "bytes a record", "codec dense", "as they were written", "100.0 % of 256"):
        assert part in said, part
    shard = tmp_path / "labels" / "labels-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 4
    shard.write_bytes(content)
    code, said = call("label", "--inspect", tmp_path / "labels")
    assert code == 2
    assert "is corrupt (its SHA-256 is" in said
    assert "labels-00000.safetensors" in said.replace(" ", "")  # the table breaks a long path, and cuts nothing
    code, said = call("run", path, "--folder", tmp_path / "out")
    assert code == 2
    assert "labels-00000.safetensors: is corrupt" in said
    code, said = call("label")
    assert code == 2
    assert "give a recipe to label with, or --inspect PATH" in said
    code, said = call("label", "--inspect", tmp_path)
    assert code == 2
    assert "holds no label store" in said


def test_a_comparison_finds_another_teacher(place: Path, tmp_path: Path) -> None:
    """An inspection that agrees with anything."""
    store = LabelStore.open(place / "labels")
    recipe = read_recipe(str(recipe_at(place)))
    good = compare_with_teacher(recipe, place / "out", store)
    assert all(finding.ok for finding in good)
    assert any("KL of live from stored" in finding.text for finding in good)
    other = read_recipe(str(recipe_at(place)), ["teacher.train.epochs=1"])
    with_other = tmp_path / "out"
    label_recipe(read_recipe(str(recipe_at(tmp_path)), ["teacher.train.epochs=1"]), with_other, say=quiet)
    bad = compare_with_teacher(other, with_other, store)
    assert [finding.ok for finding in bad] == [False]
    assert "other weights" in bad[0].text
    nobody = compare_with_teacher(other, tmp_path / "nothing", store)
    assert "not looked at" in nobody[0].text
    assert [finding.topic for finding in inspect_store(store)][:3] == ["teacher", "records", "samples"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("label.signals={logits: {codec: topk}}", "label.signals.logits: unknown codec 'topk'; did you mean 'top-k'"),
        ("label.view=2", "label.view: unknown key; did you mean 'views'"),
        ("label.views=0", "label.views: input should be greater than or equal to 1"),
        ("data.augment=[{MixUp: {alpha: 0}}]", "alpha"),
        ("data.augment=[{MixUp: {beta: 1}}]", "data.augment: MixUp: "),
        ("data.augment=[MixUp, {RandomCrop: {size: 8}}]", "data.augment: MixUp and CutMix mix finished views; put one"),
        ("train.shortcuts=[fold]", "train.shortcuts"),
        ("teacher={train: {epochs: 1}}", "teacher: needs a model, a store, or both"),
    ],
)
def test_mistakes_in_a_recipe(tmp_path: Path, change: str, message: str) -> None:
    """A recipe that labels something else than it says."""
    with pytest.raises(LimbeckError) as caught:
        read_recipe(str(recipe_at(tmp_path)), [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_name_the_store(place: Path) -> None:
    """A report that does not say where its teacher's answers came from."""
    run(read_recipe(str(recipe_at(place))), place / "named", say=quiet)
    written = json.loads((place / "named" / "results.json").read_text(encoding="utf-8"))
    assert written["recipe"]["teacher"][0]["store"] == str(place / "labels")


SMALL = ("train.epochs=1", "teacher.train.epochs=2", "seeds=1", "settings={}")
TOP_K = "label.signals={logits: {codec: top-k, k: 5, temperature: 4}}"
SAMPLED = "label.signals={logits: {codec: sampled, draws: 8, temperature: 4}}"
ONLY_KD = "terms=[{loss: kd, temperature: 4}]"
HINT = "terms=[{loss: feature-mse, student: '1', teacher: '1'}]"


def digits(*changes: str) -> Any:
    return read_recipe("digits", [*SMALL, *changes])


def measured(folder: Path) -> dict[str, dict[str, float]]:
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    return {row["name"]: row["metrics"] for row in rows if row["checkpoint"] == "last"}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of digits with dense labels in it, and a live run's results beside it."""
    folder = tmp_path_factory.mktemp("dense") / "digits"
    label_recipe(digits(), folder, say=quiet)
    run(digits(), folder.parent / "live", say=quiet)
    return folder


@pytest.mark.parametrize("codec", [TOP_K, SAMPLED])
def test_a_run_from_less_than_all_logits(dense: Path, tmp_path: Path, codec: str) -> None:
    """A traceback, or a wrong number, where the test split is measured against what a codec did not keep."""
    store = f"teacher.store={tmp_path / 'labels'}"
    label_recipe(digits(codec, ONLY_KD, store), tmp_path / "run", say=quiet)
    run(digits(codec, ONLY_KD, store), tmp_path / "run", say=quiet)
    with_live = measured(tmp_path / "run")
    live = measured(dense.parent / "live")
    for name, value in live["teacher"].items():
        assert with_live["teacher"][name] == pytest.approx(value, abs=1e-4), name
    assert "teacher_kl" in with_live["distilled"]
    alone = f"teacher={{store: {tmp_path / 'labels'}}}"
    results = run(digits(codec, ONLY_KD, alone), tmp_path / "only", say=quiet)
    from_store = measured(tmp_path / "only")
    assert from_store["teacher"]["nll"] == pytest.approx(live["teacher"]["nll"], abs=2e-3)
    assert "teacher_kl" not in from_store["distilled"]
    assert any("keeps no whole distributions" in note for note in results.notes)
    if codec == TOP_K:
        assert from_store["teacher"].keys() == {"accuracy", "nll"}
        assert from_store["teacher"]["accuracy"] == pytest.approx(live["teacher"]["accuracy"])
        assert from_store["distilled"]["agreement"] == with_live["distilled"]["agreement"]
        assert from_store["distilled"]["both_right"] == with_live["distilled"]["both_right"]
    else:
        assert from_store["teacher"].keys() == {"nll"}
        assert "agreement" not in from_store["distilled"]
    assert (tmp_path / "only" / "report.html").is_file()


def test_a_run_on_stored_features_alone(dense: Path, tmp_path: Path) -> None:
    """A KeyError for logits that no term has asked the store for."""
    for keeps, known in (
        ("{logits: {codec: dense}, '1': {codec: features}}", True),
        ("{'1': {codec: features}}", False),
    ):
        place = tmp_path / str(known)
        models = ("teacher.model=dense-teacher", "student.model=dense-student")
        recipe = digits(f"label.signals={keeps}", HINT, *models, f"teacher.store={place / 'labels'}")
        label_recipe(recipe, place / "run", say=quiet)
        alone = digits(HINT, models[1], f"teacher={{store: {place / 'labels'}}}")
        run(alone, place / "only", say=quiet)
        assert ("accuracy" in measured(place / "only")["teacher"]) == known
        assert ("agreement" in measured(place / "only")["distilled"]) == known


def test_distil_from_a_store_of_training_data(tmp_path: Path) -> None:
    """`limbeck.distill` that asks a store of training data for the evaluation data, or a top-k store for all logits."""
    from limbeck import label
    from limbeck.models import ModelSpec, Shape, build
    from limbeck.sources import load
    from limbeck.store import TopKLogits
    from limbeck.training import TrainConfig

    data = load("digits")
    model = build(ModelSpec("dense-teacher"), Shape(10, 1, (8, 8)))
    small = data.train.subset(range(64))
    objective = [limbeck.Term(limbeck.losses.KD(temperature=1.0))]
    for codec in (TopKLogits(k=3), None):
        signals = {"logits": codec} if codec is not None else None
        store = label(model, small, tmp_path / str(codec), signals=signals, say=quiet)
        student = build(ModelSpec("dense-student"), Shape(10, 1, (8, 8)))
        found = limbeck.distill(
            store, student, small, data.test, objective=objective, seeds=1, config=TrainConfig(epochs=1)
        )
        assert "agreement" not in next(row for row in found.rows if row.name == "distilled").metrics
        assert next(row for row in found.rows if row.name == "teacher").metrics == {}


def test_the_documented_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/labels.md, one after the other, refused as those of another recipe."""
    monkeypatch.chdir(tmp_path)
    code, said = call("label", "digits", *SMALL, "data.augment=crop", "label.views=2")
    assert code == 0, said
    code, said = call("label", "--inspect", "runs/digits/labels", "digits", *SMALL, "data.augment=crop")
    assert code == 0, said
    assert "100.0 % of 256" in said
    there = ("digits", *SMALL, "data.augment=crop", "teacher.store=runs/digits/labels")
    code, said = call("run", *there)
    assert code == 0, said
    assert "label store runs/digits/labels, conv-teacher" in said
    code, said = call("run", *there)
    assert code == 0, said
    assert "already complete" in said


def test_students_of_one_folder_learn_from_one_thing(dense: Path, tmp_path: Path) -> None:
    """A run that mixes students of the live teacher with those of a store, or reports the one as the other."""
    from_store = digits(f"teacher.store={dense / 'labels'}")
    run(digits(), tmp_path / "live", say=quiet)
    for recipe in (from_store, from_store.model_copy(update={"seeds": 2})):
        with pytest.raises(LimbeckError, match=r"holds students that learned from the live teacher, and now .* label"):
            run(recipe, tmp_path / "live", say=quiet)
    label_recipe(digits(), tmp_path / "live", say=quiet)  # labels beside a run change nothing of it
    assert yaml.safe_load((tmp_path / "live" / "recipe.yaml").read_text())["teacher"][0]["store"] is None
    run(digits(), tmp_path / "live", say=quiet)
    # One recipe, before and after its store was written.
    later = digits(f"teacher.store={tmp_path / 'later'}")
    run(later, tmp_path / "first", say=quiet)
    label_recipe(later, tmp_path / "first", say=quiet)
    with pytest.raises(LimbeckError, match="learned from the live teacher"):
        run(later.model_copy(update={"seeds": 2}), tmp_path / "first", say=quiet)


def test_another_model_than_the_store_says(dense: Path, tmp_path: Path) -> None:
    """A run whose report names a teacher that never taught."""
    at = f"teacher.store={dense / 'labels'}"
    for change, named in (("teacher.model=dense-teacher", "dense-teacher"), ("teacher.options={width: 9}", "width=9")):
        with pytest.raises(LimbeckError, match=f"is of the teacher 'conv-teacher', the recipe's is .*{named}"):
            run(digits(change, at), tmp_path / named, say=quiet)
    store = LabelStore.open(dense / "labels")
    bad = compare_with_teacher(digits("teacher.model=dense-teacher"), dense, store)
    assert [finding.ok for finding in bad] == [False]


def test_an_inspection_judges_agreement(dense: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "ok" beside 0.0 % agreement: the same weights in a model that gives other answers."""
    store = LabelStore.open(dense / "labels")
    good = compare_with_teacher(digits(), dense, store)
    assert [finding.ok for finding in good] == [True, True]
    read = LabelStore.read
    monkeypatch.setattr(LabelStore, "read", lambda self, name, rows: -read(self, name, rows))
    assert [finding.ok for finding in compare_with_teacher(digits(), dense, store)] == [False, False]
    code, said = call("label", "--inspect", dense / "labels", "digits", *SMALL, "--folder", dense)
    assert code == 2
    assert "wrong agreement" in said


def table_at(folder: Path, names: list[str], rows: int) -> Path:
    """A table of `rows` digits with these class names; pixels and paths do not depend on either."""
    from PIL import Image
    from sklearn.datasets import load_digits

    pictures = load_digits()
    lines = ["path,label"]
    for index in range(rows):
        path = folder / f"{index}.png"
        if not path.exists():
            Image.fromarray((pictures.images[index] * 15).astype("uint8")).save(path)
        lines.append(f"{index}.png,{names[pictures.target[index]]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_classes_in_another_order(tmp_path: Path) -> None:
    """Labels of 'eight' taken for those of the digit 0, because a class number is all that is compared."""
    table = table_at(tmp_path, WORDS, 200)
    common = (f"data.source=table:{table}", "data.labelled=all")
    label_recipe(digits(*common), tmp_path / "run", say=quiet)
    table_at(tmp_path, [str(number) for number in range(10)], 200)
    only = digits(*common, f"teacher={{store: {tmp_path / 'run' / 'labels'}}}")
    with pytest.raises(LimbeckError, match="class 0 is 'eight' for the teacher and '0' in the data"):
        run(only, tmp_path / "only", say=quiet)
    with pytest.raises(LimbeckError, match="class 0 is 'eight' for the teacher and '0' in the data"):
        run(digits(*common), tmp_path / "run", say=quiet)
    store = LabelStore.open(tmp_path / "run" / "labels")
    assert [each.ok for each in compare_with_teacher(digits(*common), tmp_path / "run", store)] == [False]


@pytest.mark.parametrize(("augment", "rows"), [("none", 199), ("none", 201), ("crop", 199)])
def test_rows_added_and_removed(tmp_path: Path, augment: str, rows: int) -> None:
    """A store made useless by one row more or less, which changes the mean of the pixels; or by a training sample that
    came into the test split, of which the store holds other views."""
    table = table_at(tmp_path, WORDS, 200)
    common = (f"data.source=table:{table}", "data.labelled=all", f"data.augment={augment}")
    folder = tmp_path / "run"
    label_recipe(digits(*common), folder, say=quiet)
    table_at(tmp_path, WORDS, rows)
    run(digits(*common, f"teacher.store={folder / 'labels'}"), folder, say=quiet)
    card = json.loads((folder / "student" / "limbeck.json").read_text(encoding="utf-8"))
    kept = LabelStore.open(folder / "labels").manifest.plan.preprocessing
    assert kept is not None
    assert card["preprocessing"]["mean"] == kept["mean"]


def test_several_teachers_each_with_a_store(tmp_path: Path) -> None:
    """Stores that are written for several teachers and never read, or an error that names nothing."""
    each = [
        {"model": model, "train": {"epochs": 2}, "store": str(tmp_path / model)}
        for model in ("dense-teacher", "conv-teacher")
    ]
    both = f"teacher={json.dumps(each)}"
    plain = SMALL[:1] + SMALL[2:]
    stores = label_recipe(read_recipe("digits", [*plain, both]), tmp_path / "out", say=quiet)
    assert [store.manifest.plan.teacher for store in stores] == ["dense-teacher", "conv-teacher"]
    lines: list[str] = []
    run(read_recipe("digits", [*plain, both]), tmp_path / "out", say=lines.append)
    assert sum("label store" in line and "stored answers" in line for line in lines) == 2
    only = f"teacher={json.dumps([{'store': one['store']} for one in each])}"
    run(read_recipe("digits", [*plain, only]), tmp_path / "only", say=quiet)
    assert measured(tmp_path / "only")["teacher"] == pytest.approx(measured(tmp_path / "out")["teacher"])
    found = compare_with_teacher(read_recipe("digits", [*plain, both]), tmp_path / "out", stores[1])
    assert [finding.ok for finding in found] == [True, True]
    with pytest.raises(LimbeckError, match="2 teachers are averaged, which needs whole tensors of each"):
        label_recipe(read_recipe("digits", [*plain, both, TOP_K, ONLY_KD]), tmp_path / "no", say=quiet)


def test_labels_that_no_student_could_learn_from(tmp_path: Path) -> None:
    """A teacher trained and run over all data before a codec or a path is refused."""
    for change, message in (
        ("label.signals={logits: {codec: top-k, k: 5}}", "temperature is 4, but the codec 'top-k' stored .* at temp"),
        (
            "label.signals={'0': {codec: features}}",
            "needs the teacher's 'logits', of which label.signals keeps",
        ),
        (f"teacher.store={tmp_path / 'file'}", "is a file; give teacher.store the path of a folder"),
        (f"teacher.store={tmp_path / 'full'}", "full is not empty and holds no label store"),
        (f"teacher.store={tmp_path / 'file' / 'labels'}", "labels cannot be written there .not a directory"),
    ):
        (tmp_path / "file").touch()
        (tmp_path / "full").mkdir(exist_ok=True)
        (tmp_path / "full" / "mine").touch()
        with pytest.raises(LimbeckError, match=message):
            label_recipe(digits(change), tmp_path / "run", say=quiet)
        assert not (tmp_path / "run" / "teacher").exists()


def test_a_store_that_is_none(dense: Path, tmp_path: Path) -> None:
    """'no label store yet' of a path that holds a file, something else, or half a store."""
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "plan.json").write_text("{}")
    for name, message in (("file", "is a file; a label store is a folder"), ("full", "holds no label store"),
                          ("half", "labelling was not finished")):  # fmt: skip
        with pytest.raises(LimbeckError, match=message):
            run(digits(f"teacher.store={tmp_path / name}"), tmp_path / f"run-{name}", say=quiet)
