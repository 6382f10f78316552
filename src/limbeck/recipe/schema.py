"""Recipes: the typed YAML file of a run, read, checked, and changed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from limbeck.balance import Balancing
from limbeck.errors import LimbeckError, nearest
from limbeck.recipe.build import build_terms
from limbeck.recipe.parts import (
    AssistantRecipe,
    LabelRecipe,
    OnPolicyRecipe,
    PseudoBoxesRecipe,
    SequenceRecipe,
    StartRecipe,
    Strict,
    StudentRecipe,
    TeacherRecipe,
)
from limbeck.recipe.shipping import (
    ALL,
    ALONE,
    DISTILLED,
    Chain,
    FitRecipe,
    PruneRecipe,
    QuantizeRecipe,
    chain_of_steps,
    known_target,
    read_chain,
)
from limbeck.tasks import (
    IMAGE_CLASSIFICATION,
    LANGUAGE_MODELLING,
    OBJECT_DETECTION,
    TASKS,
    TRANSLATION,
    Settings,
    Task,
)
from limbeck.tasks.image_classification import NormalizeRecipe
from limbeck.training import TrainConfig

PACKAGED = Path(__file__).parents[1] / "recipes"
CHECKOUT = Path(__file__).parents[3] / "recipes"

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names that folders and rows can have."""

TEACHER_KEYS = frozenset().union(*(task.teacher_keys for task in TASKS.values()))
"""Keys of a teacher that only some tasks have."""

SHIPPING = ("compare", "steps", "prune", "quantize", "on", "fit")
"""What says which models are compared for shipping."""

SHARED = ("name", "task", "teacher", "seeds", "data.source", "data.size", "data.validation", "label", *SHIPPING)
"""What all settings of a recipe have in common: one teacher, one test split."""


class Recipe(Strict):
    """A whole experiment. Every field but `name`, `data`, `teacher` and `student` has a default.

    `settings` are further experiments with the same teacher: a name, and the keys that it changes. `assistants` stand
    between teacher and student, largest first (Mirzadeh et al. 2020, arXiv:1902.03393); `generations` above 1 let each
    student teach the next (Furlanello et al. 2018, arXiv:1805.04770). `methods` are terms by the name of a method, for
    `limbeck compare` to take in the place of the table's.

    `compare` names rows by what is done to a model (`pruned+distilled+int8`), or says `all`; `steps` is one such row
    in words (`[prune, distill, quantize]`); how they are made is said by `prune` and `quantize`. With either all rows
    are exported and measured `on` a target, such as `onnxruntime:cpu:1`.
    """

    name: str = Field(pattern=NAME)
    task: str = IMAGE_CLASSIFICATION.name
    about: str = ""
    data: SerializeAsAny[Settings]
    teacher: list[TeacherRecipe] = Field(min_length=1)
    assistants: list[AssistantRecipe] = Field(default_factory=list)
    student: StudentRecipe
    generations: int = Field(default=1, ge=1)
    terms: list[dict[str, Any]] = Field(min_length=1)
    balance: Balancing = "fixed"
    on_policy: OnPolicyRecipe | None = None
    sequence_level: SequenceRecipe | None = None
    pseudo_boxes: PseudoBoxesRecipe | None = None
    train: TrainConfig = TrainConfig()
    label: LabelRecipe = LabelRecipe()
    seeds: int = Field(default=3, ge=1)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    methods: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    compare: list[str] | Literal["all"] = Field(default_factory=list)
    steps: list[str] = Field(default_factory=list)
    prune: PruneRecipe = PruneRecipe()
    quantize: QuantizeRecipe = QuantizeRecipe()
    on: str = "onnxruntime:cpu:1"
    fit: FitRecipe = FitRecipe()

    @model_validator(mode="before")
    @classmethod
    def _of_its_task(cls, value: Any) -> Any:
        """What `data` may say, and the objective of a recipe that names none, are the task's."""
        if not isinstance(value, Mapping):
            return value
        name = value.get("task", IMAGE_CLASSIFICATION.name)
        if name not in TASKS:
            raise LimbeckError(f"task: unknown task {name!r}{nearest(str(name), TASKS)}")
        task, given = TASKS[name], dict(value)
        if isinstance(given.get("data"), Mapping):
            try:
                given["data"] = task.settings.model_validate(dict(given["data"]))
            except ValidationError as error:
                first = error.errors()[0]
                raise LimbeckError(_message({**first, "loc": ("data", *first["loc"])}, task)) from None
            given.setdefault("terms", [dict(term) for term in task.terms(given["data"])])
        return given

    @model_validator(mode="after")
    def _teachers_of_its_task(self) -> Recipe:
        for index, teacher in enumerate(self.teacher):
            for key in sorted(TEACHER_KEYS - self.kind.teacher_keys):
                if getattr(teacher, key) is not None:
                    raise LimbeckError(f"teacher.{index}.{key}: is not of the task {self.task}; leave it out")
            if teacher.augment is not None:
                try:
                    self.kind.settings.model_validate({**self.data.model_dump(), "augment": teacher.augment})
                except ValidationError as error:
                    message = _message(error.errors()[0], self.kind)
                    raise LimbeckError(message.replace("data.augment", f"teacher.{index}.augment", 1)) from None
        if self.on_policy is not None and self.task != LANGUAGE_MODELLING.name:
            raise LimbeckError(f"on_policy: is of language models; the task is {self.task}")
        if self.sequence_level is not None and self.task != TRANSLATION.name:
            raise LimbeckError(f"sequence_level: is of translations; the task is {self.task}")
        if self.pseudo_boxes is not None and self.task != OBJECT_DETECTION.name:
            raise LimbeckError(f"pseudo_boxes: is of object detection; the task is {self.task}")
        if self.chains and len(self.teacher) > 1:
            raise LimbeckError("compare: rows for shipping are of one teacher, and there are several; name one")
        if self.task == TRANSLATION.name and any(chain.int8 for chain in self.chains):
            raise LimbeckError(
                "compare: int8 is not measured of translations, which are written step by step; leave it out"
            )
        return self

    @property
    def kind(self) -> Task:
        """The recipe's task."""
        return TASKS[self.task]

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

    @field_validator("on")
    @classmethod
    def _on(cls, value: str) -> str:
        return known_target(value)

    @property
    def chains(self) -> list[Chain]:
        """The rows to compare for shipping, alone and distilled first; none where nothing is asked for."""
        names = ALL if self.compare == "all" else self.compare
        asked = [read_chain(name) for name in names]
        if self.compare == "all" and self.task == TRANSLATION.name:
            asked = [chain for chain in asked if not chain.int8]
        asked += [chain_of_steps(self.steps)] if self.steps else []
        return list(dict.fromkeys([Chain((ALONE,)), Chain((DISTILLED,)), *asked])) if asked else []

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
    """What is at a dotted path; None where a task has no such key."""
    place: Any = data
    for key in path.split("."):
        place = place.get(key)
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


def _message(error: Any, task: Task | None = None) -> str:
    """One clause for a pydantic error: where, what, and the nearest key for an unknown one."""
    place = [str(part) for part in error["loc"]]
    path = ".".join(place)
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{path}: unknown key{nearest(place[-1], _known_keys(place[:-1], task))}"
    if error["type"] == "missing":
        return f"{path}: missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":  # limbeck's own, which say where and what they got
        named = not place or message.startswith((f"{place[0]}.", path))
        return message if named else f"{path}: {message}"
    return f"{path}: {message[0].lower()}{message[1:]}, got {error['input']!r:.80}"


def _known_keys(place: Sequence[str], task: Task | None) -> list[str]:
    """The keys that a recipe may have at a place."""
    known: dict[str, type[BaseModel | TrainConfig]] = {
        "": Recipe, "data": (task or IMAGE_CLASSIFICATION).settings, "teacher": TeacherRecipe,
        "student": StudentRecipe, "train": TrainConfig,
        "normalize": NormalizeRecipe, "label": LabelRecipe, "assistants": AssistantRecipe, "start": StartRecipe,
        "on_policy": OnPolicyRecipe, "sequence_level": SequenceRecipe,
        "pseudo_boxes": PseudoBoxesRecipe, "prune": PruneRecipe, "quantize": QuantizeRecipe,
        "fit": FitRecipe, "students": StudentRecipe,
    }  # fmt: skip
    named = [part for part in place if not part.isdigit()]
    model = known.get(named[-1] if named else "", Recipe)
    if issubclass(model, TrainConfig):
        return [field.name for field in dataclasses.fields(model)]
    return list(model.model_fields)
