"""Recipes: the typed YAML file of a run, read, checked, and changed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from limbeck.balance import Balancing
from limbeck.checks import LimbeckError, nearest
from limbeck.recipe.build import build_augmentation, build_codecs, build_terms
from limbeck.training import TrainConfig
from limbeck.types import Preprocessing

PACKAGED = Path(__file__).parents[1] / "recipes"
CHECKOUT = Path(__file__).parents[3] / "recipes"

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names that folders and rows can have."""

SHARED = ("name", "teacher", "seeds", "data.source", "data.size", "data.validation", "label")
"""What all settings of a recipe have in common: one teacher, one test split."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataRecipe(_Strict):
    """Which pictures, and how much of them is labelled.

    `labelled` keeps the labels of that many training samples (an integer: samples; below 1: a share; `all`).
    `augment` is `none`, `crop`, `crop-flip`, or a list of torchvision.transforms.v2 names with their options.
    """

    source: str
    size: int | None = Field(default=None, ge=1)
    labelled: Any = "all"
    validation: float = Field(default=0.1, gt=0, lt=1)
    augment: Any = "none"
    image_column: str | None = None
    label_column: str | None = None

    @field_validator("labelled")
    @classmethod
    def _count(cls, value: Any) -> int | float | str:
        if value == "all" or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
            return value  # type: ignore[no-any-return]
        raise ValueError(f"data.labelled: expected `all`, a number of samples or a share below 1, got {value!r}")

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: Any) -> Any:
        build_augmentation(value, 8, "data.augment")
        return value


class NormalizeRecipe(_Strict):
    """Channel means and standard deviations of pixels in 0…1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class ModelRecipe(_Strict):
    """A model by name (`conv-student`, `timm:NAME`, `hf:NAME`, a folder, …) with the options of its builder."""

    model: str
    options: dict[str, Any] = Field(default_factory=dict)


class TeacherRecipe(ModelRecipe):
    """A model that teaches. With `train` it is first trained in the run, on all labels of the training split.

    `normalize` and `size` tell how a ready-made teacher wants its pixels; by default as the student gets them, or as
    the saved folder or timm says. `store` is the folder of its label store: where `limbeck label` writes it, and what a
    run learns from once it is there; alone, without `model`, it must be there.
    """

    model: str = ""
    store: str | None = None
    train: TrainConfig | None = None
    augment: Any = None
    normalize: str | NormalizeRecipe | None = None
    size: int | None = Field(default=None, ge=1)

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: Any) -> Any:
        if value is not None:
            build_augmentation(value, 8, "teacher.augment")
        return value

    @model_validator(mode="after")
    def _something_to_teach_from(self) -> TeacherRecipe:
        if not self.model and self.store is None:
            raise ValueError("teacher: needs a model, a store, or both")
        return self

    @field_validator("normalize")
    @classmethod
    def _known(cls, value: str | NormalizeRecipe | None) -> str | NormalizeRecipe | None:
        if isinstance(value, str) and value not in NORMALIZATIONS:
            raise ValueError(f"unknown normalization {value!r}{nearest(value, NORMALIZATIONS)}")
        return value


class StartRecipe(_Strict):
    """Which of its teacher's layers a student starts from (see `limbeck.starting.copy_layers`), alone as well."""

    layers: Literal["every", "first", "last", "first-last"] | list[int] = "every"
    blocks: str = ""


class StudentRecipe(ModelRecipe):
    """The model that learns. With `start` its first weights are its teacher's."""

    start: StartRecipe | None = None


class AssistantRecipe(ModelRecipe):
    """A model that learns from the teacher, or from the assistant before it, and then teaches; on the student's budget
    where it has no `train` of its own."""

    train: TrainConfig | None = None


class LabelRecipe(_Strict):
    """What `limbeck label` stores of the teacher.

    `signals` are what to keep and how: a name (`logits`, or a module of the teacher) and its codec with options.
    `views` is how many augmented views of each training sample are stored, where `data.augment` is not `none`; epochs
    go through them in turn.
    """

    signals: dict[str, dict[str, Any]] = Field(default={"logits": {"codec": "dense"}}, min_length=1)
    views: int = Field(default=4, ge=1)
    batch_size: int = Field(default=256, ge=1)

    @field_validator("signals")
    @classmethod
    def _codecs(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        build_codecs(value)
        return value


class Recipe(_Strict):
    """A whole experiment. Every field but `name`, `data`, `teacher` and `student` has a default.

    `settings` are further experiments with the same teacher: a name, and the keys that it changes. `assistants` stand
    between teacher and student, largest first (Mirzadeh et al. 2020, arXiv:1902.03393); `generations` above 1 let each
    student teach the next (Furlanello et al. 2018, arXiv:1805.04770). `methods` are terms by the name of a method, for
    `limbeck compare` to take in the place of the table's.
    """

    name: str = Field(pattern=NAME)
    task: Literal["image-classification"] = "image-classification"
    about: str = ""
    data: DataRecipe
    teacher: list[TeacherRecipe] = Field(min_length=1)
    assistants: list[AssistantRecipe] = Field(default_factory=list)
    student: StudentRecipe
    generations: int = Field(default=1, ge=1)
    terms: list[dict[str, Any]] = Field(
        default=[{"loss": "supervised", "weight": 0.1}, {"loss": "kd", "weight": 0.9, "temperature": 4.0}],
        min_length=1,
    )
    balance: Balancing = "fixed"
    train: TrainConfig = TrainConfig()
    label: LabelRecipe = LabelRecipe()
    seeds: int = Field(default=3, ge=1)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    methods: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"teacher: expected keys such as {{model: {value}}}, got only {value!r}")
        return [value] if isinstance(value, Mapping) else value

    @field_validator("terms")
    @classmethod
    def _terms(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        build_terms(value)
        return value

    @field_validator("methods")
    @classmethod
    def _methods(cls, value: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        for name, terms in value.items():
            if not re.fullmatch(NAME, name) or name in ("teacher", "alone", "distilled"):
                raise LimbeckError(f"methods.{name}: expected a name of letters, digits, dots, - and _ of its own")
            try:
                build_terms(terms)
            except LimbeckError as error:
                raise LimbeckError(f"methods.{name}: {error}") from None
        return value

    def variants(self) -> dict[str, Recipe]:
        """The experiment itself under the name "", then each of `settings`."""
        variants = {"": self}
        for name, changes in self.settings.items():
            plain = self.model_dump(mode="json", exclude={"settings"})
            variants[name] = _validated(_changed(plain, changes), f"settings.{name}")
            for fixed in SHARED:
                mine, theirs = (_at(each.resolved(), fixed) for each in (self, variants[name]))
                if mine != theirs:
                    raise LimbeckError(f"settings.{name}: {fixed} is shared by all settings; make it another recipe")
        return variants

    def resolved(self) -> dict[str, Any]:
        """Everything, defaults included, as plain values."""
        return self.model_dump(mode="json")


def read_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """A Recipe from the path of a YAML file or the name of a shipped recipe, with `key.path=value` overrides.

    Raises:
        LimbeckError: no such recipe, not YAML, an unknown key (with the nearest known one), or a wrong value.
    """
    path = _find(source)
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
    except UnicodeDecodeError:
        raise LimbeckError(f"{path}: not a text file; a recipe is YAML in UTF-8") from None
    except yaml.YAMLError as error:
        raise LimbeckError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise LimbeckError(f"{path}: a recipe is a mapping of keys such as data, teacher, student; got {data!r:.60}")
    changes: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise LimbeckError(f"override {override!r}: expected key=value, such as train.epochs=20")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise LimbeckError(f"override {override!r}: the value is not valid YAML; quote it") from None
    recipe = _validated(_changed(data, changes), str(path))
    recipe.variants()
    return recipe


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with limbeck: name to file."""
    folder = PACKAGED if PACKAGED.is_dir() else CHECKOUT
    return {path.stem: path for path in sorted(folder.glob("*/*.yaml"))}


def expected_preprocessing(teacher: TeacherRecipe, given: Preprocessing) -> Preprocessing | None:
    """How the teacher wants its pixels according to the recipe; None where the recipe says nothing."""
    if teacher.normalize is None and teacher.size is None:
        return None
    size = (teacher.size, teacher.size) if teacher.size is not None else given.size
    if teacher.normalize is None:
        return dataclasses.replace(given, size=size)
    if isinstance(teacher.normalize, str):
        mean, std = NORMALIZATIONS[teacher.normalize]
    else:
        mean, std = teacher.normalize.mean, teacher.normalize.std
    if len(mean) != len(std) or len(mean) not in (1, 3):
        raise LimbeckError(f"teacher.normalize: mean and std need 1 or 3 values each, got {len(mean)} and {len(std)}")
    return Preprocessing(size=size, channels=len(mean), mean=mean, std=std)


def _find(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if source in shipped:
        return shipped[source]
    if path.suffix in (".yaml", ".yml") or path.parent != Path("."):
        raise LimbeckError(f"{source}: no such recipe file")
    raise LimbeckError(f"no recipe file or shipped recipe {source!r}{nearest(source, shipped)}")


def _at(data: Mapping[str, Any], path: str) -> Any:
    place: Any = data
    for key in path.split("."):
        place = place[key]
    return place


def _apart(value: Any) -> Any:
    """A copy in which no two places are one object, as YAML anchors make them."""
    if isinstance(value, Mapping):
        return {key: _apart(each) for key, each in value.items()}
    return [_apart(each) for each in value] if isinstance(value, list | tuple) else value


def _changed(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `data` with values at dotted paths replaced; a number in a path indexes a list."""
    result: dict[str, Any] = _apart(dict(data))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place: Any = result
        for key in parents:
            if isinstance(place, list) and key.isdigit() and int(key) < len(place):
                place = place[int(key)]
            elif isinstance(place, dict):
                place = place.setdefault(key, {})
            else:
                raise LimbeckError(f"{path}: there is nothing at {key!r} to change")
        if isinstance(place, list) and last.isdigit() and int(last) < len(place):
            place[int(last)] = value
        elif isinstance(place, dict):
            place[last] = value
        else:
            raise LimbeckError(f"{path}: there is nothing at {last!r} to change")
    return result


def _validated(data: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        messages = dict.fromkeys(_message(each) for each in error.errors())
        raise LimbeckError(f"{where}: {'; '.join(list(messages)[:3])}") from None


def _message(error: Any) -> str:
    """One clause for a pydantic error: where, what, and the nearest key for an unknown one."""
    place = [str(part) for part in error["loc"]]
    path = ".".join(place)
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{path}: unknown key{nearest(place[-1], _known_keys(place[:-1]))}"
    if error["type"] == "missing":
        return f"{path}: missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":  # limbeck's own, which say where and what they got
        return message if message.startswith((f"{place[0]}.", path)) else f"{path}: {message}"
    return f"{path}: {message[0].lower()}{message[1:]}, got {error['input']!r:.80}"


def _known_keys(place: Sequence[str]) -> list[str]:
    """The keys that a recipe may have at a place."""
    known: dict[str, type[BaseModel | TrainConfig]] = {
        "": Recipe, "data": DataRecipe, "teacher": TeacherRecipe, "student": StudentRecipe, "train": TrainConfig,
        "normalize": NormalizeRecipe, "label": LabelRecipe, "assistants": AssistantRecipe, "start": StartRecipe,
    }  # fmt: skip
    named = [part for part in place if not part.isdigit()]
    model = known.get(named[-1] if named else "", Recipe)
    if issubclass(model, TrainConfig):
        return [field.name for field in dataclasses.fields(model)]
    return list(model.model_fields)
