"""From a recipe to what a run works with: its data, its teacher (alive or stored), and trainings that are kept."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from torch import nn
from transformers import TrainerCallback

from limbeck.compare import alone_terms
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.files import difference, read_json, staged_folder, write_json, write_text
from limbeck.measures import Measure, measure_of
from limbeck.models import ModelSpec, build, load, read_card, save, without_answers
from limbeck.models.saved import is_saved
from limbeck.processes import processes
from limbeck.recipe import TEACHER_KEYS, Chain, ModelRecipe, Recipe, TeacherRecipe, build_terms
from limbeck.recipe_stores import (
    TAUGHT,
    one_for_views,
    same_model,
    same_origins,
    store_of,
    stores_of,
    without_stores,
)
from limbeck.store import LabelStore
from limbeck.tasks import Opening, Say, Task, TaskData
from limbeck.teachers import Ensemble, Live, Onnx, Stored, Teacher, as_teacher
from limbeck.teachers.endpoint import is_endpoint
from limbeck.training import TrainConfig, Trained, train
from limbeck.types import Batch

RECORD = "record.json"
RECIPE = "recipe.yaml"
GROWS = ("seeds", "about", "compare", "steps", "quantize", "on", "fit")
"""What may change in a recipe without making another run of it: more seeds and more rows only add."""


@dataclass(frozen=True, slots=True)
class Session:
    """What every step of a run needs: the recipe, its data with all labels, the run folder, and whom to tell."""

    recipe: Recipe
    data: TaskData
    folder: Path
    trust_code: bool = False
    say: Say = print
    left_out: frozenset[str] = frozenset()

    @property
    def chains(self) -> list[Chain]:
        """The rows that the recipe compares for shipping, but those that are `left_out`, as they cannot be made."""
        return [chain for chain in self.recipe.chains if chain.name not in self.left_out]

    def samples(self, places: Sequence[int]) -> Batch:
        """Training samples as they are, without augmentation and without their answers."""
        return dict(without_answers(self.data.train.__getitems__(list(places))))

    @property
    def task(self) -> Task:
        """The recipe's task."""
        return self.recipe.kind

    @property
    def selected(self) -> Measure:
        """The validation measure that chooses a checkpoint."""
        return measure_of(self.task.selection(self.data))

    def reached(self, history: Sequence[Mapping[str, float]]) -> float | None:
        """The last value that a training's selection measure had on validation, or None."""
        key = f"eval_{self.selected.key}"
        values = [entry[key] for entry in history if key in entry]
        return values[-1] if values else None

    def build(self, wanted: ModelRecipe) -> nn.Module:
        """A recipe's model, as the data asks for it."""
        return build(_spec(wanted), self.task.shape(self.data), trust_code=self.trust_code)

    def train(
        self,
        unit: str,
        distiller: Distiller,
        split: Any,
        config: TrainConfig,
        seed: int,
        label: str,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> Trained:
        """Trains with checkpoints under the run folder, and goes on from the last one."""
        return train(
            distiller,
            split,
            config=config,
            seed=seed,
            folder=self.folder / "work" / unit,
            label=label,
            validate=lambda student: self.task.validate(student, self.data.validation, self.recipe.data),
            selection=self.selected.key,
            logs=self.folder / "logs" / unit,
            callbacks=callbacks,
        )

    def keep(self, unit: str, place: Path, wanted: ModelRecipe, trained: Trained, label: str) -> None:
        """Writes a finished training, models and record, whole or not at all; then its checkpoints can go."""
        if processes().is_main_process:
            with staged_folder(place) as staging:
                self.write_model(staging / "last", wanted, trained.module, label)
                if trained.selected is not None:
                    trained.module.load_state_dict(trained.selected)
                    self.write_model(staging / "selected", wanted, trained.module, label)
                cost = {"train_seconds": trained.seconds, "peak_memory_bytes": trained.peak_memory}
                write_json(staging / RECORD, {"cost": cost, "history": trained.history})
            shutil.rmtree(self.folder / "work" / unit, ignore_errors=True)
            value, measure = self.reached(trained.history), self.selected
            reached = f"validation {measure.title} {measure.text(value, 2)} " if value is not None else ""
            self.say(f"{label}: {reached}in {trained.seconds:.1f} s")
        processes().wait_for_everyone()

    def write_model(self, place: Path, wanted: ModelRecipe, module: nn.Module, label: str) -> None:
        """Saves a module that `wanted` builds as this run's model, with what its data say of it."""
        save(
            module,
            place,
            spec=_spec(wanted) if wanted.model else None,
            shape=self.task.shape(self.data),
            classes=self.data.classes,
            preprocessing=self.task.preparation(self.data),
            task=self.recipe.task,
            about={
                "recipe": self.recipe.name,
                "model": label,
                "checkpoint": place.name,
                "teacher": [each.model for each in self.recipe.teacher],
            },
            data=self.recipe.data.model_dump(mode="json"),
        )


@dataclass(frozen=True, slots=True)
class Taught:
    """A recipe's teacher, and what is known of its training in this run. One that is not `ready` has still to be
    trained: it is of the right shapes and costs, not of the right values."""

    teacher: Teacher
    cost: dict[str, float]
    history: list[dict[str, float]]
    ready: bool = True


def claim(folder: Path, recipe: Recipe, grows: Sequence[str] = GROWS, *, students: bool = True) -> None:
    """Makes the folder this recipe's; another recipe's folder is an error that names the first difference.

    Where and how labels are kept may differ, as this changes no teacher. With `students`, which are going to be trained
    there, what they learn from may not. A folder in which nothing was trained yet, because the recipe had a mistake, is
    taken over.
    """
    path = folder / RECIPE
    resolved = recipe.resolved()
    old = kept_recipe(folder)
    if old is not None:
        fixed = [
            {key: value for key, value in without_stores(each).items() if key not in grows} for each in (old, resolved)
        ]
        found = difference(fixed[0], fixed[1])
        if found:
            raise LimbeckError(
                f"{folder} holds a run of another recipe ({found}); "
                "choose another folder with --folder, or delete this one"
            )
    elif folder.exists() and any(each.name not in (RECIPE, TAUGHT) for each in folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty and holds no limbeck run; choose another folder with --folder")
    if students:
        same_origins(folder, recipe)
    if students or old is None:
        write_text(path, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))


def kept_recipe(folder: Path) -> dict[str, Any] | None:
    """The resolved recipe of a run folder in which something was trained, with today's defaults for keys that it did
    not know; None of other folders."""
    path = folder / RECIPE
    if not path.exists() or all(each.name in (RECIPE, TAUGHT) for each in folder.iterdir()):
        return None
    try:
        old = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError):
        raise LimbeckError(f"{path}: unreadable; delete the run folder {folder} and run again") from None
    try:
        return Recipe.model_validate(old).resolved()
    except ValidationError:
        return old


def open_data(recipe: Recipe, say: Say) -> TaskData:
    """The recipe's data, with all its labels, prepared as for its label store where there is one.

    Raises:
        LimbeckError: the data cannot be had or do not fit the terms, or what the task is measured by is not installed.
    """
    for module, extra in recipe.kind.needs.items():
        if importlib.util.find_spec(module) is None:  # found out now, not when the teacher is trained
            raise LimbeckError(
                f'{recipe.task} is measured by {module}, which is missing: pip install "limbeck[{extra}]"'
            )
    say(f"data: {recipe.data.source}")
    data = recipe.kind.load(recipe.data, Opening(stores_of(recipe), ready_made(recipe), say))
    recipe.kind.check(data, recipe.terms)
    return data


def ready_made(recipe: Recipe) -> list[str]:
    """The recipe's teachers that come with weights, and with all that belongs to these, by name."""
    return [wanted.model for wanted in recipe.teacher if wanted.model and wanted.options.get("pretrained", True)]


def training_split(recipe: Recipe, data: TaskData, seed: int) -> Any:
    """The training split as the student sees it: labels hidden as the recipe says, augmented.

    Where the teacher's labels are stored, the views are those that were labelled, in every seed.
    """
    return recipe.kind.training(recipe.data, data, seed, one_for_views(stores_of(recipe)))


def open_teacher(session: Session) -> Taught:
    """The recipe's teacher: loaded, or trained on all labels of the training split and kept in the run folder."""
    wanted = session.recipe.teacher
    taught = [_open_one(session, each, teacher_name(session.recipe, index)) for index, each in enumerate(wanted)]
    if len(taught) == 1:
        return taught[0]
    cost = {key: sum(each.cost.get(key, 0.0) for each in taught) for each in taught for key in each.cost}
    return Taught(Ensemble([each.teacher for each in taught]), cost, [])


def preview_teacher(session: Session) -> Taught:
    """The recipe's teacher, or untrained models in its place where the run has still to train it."""
    recipe = session.recipe
    waiting = [
        wanted.train is not None
        and not (session.folder / teacher_name(recipe, index) / RECORD).exists()
        and store_of(wanted) is None
        for index, wanted in enumerate(recipe.teacher)
    ]
    if not any(waiting):
        return open_teacher(session)
    teachers: list[Any] = [
        _untrained(session, wanted) if waits else _open_one(session, wanted, teacher_name(recipe, index)).teacher
        for index, (wanted, waits) in enumerate(zip(recipe.teacher, waiting, strict=True))
    ]
    return Taught(as_teacher(teachers[0] if len(teachers) == 1 else teachers), {}, [], ready=False)


def _as_seen(session: Session, wanted: TeacherRecipe) -> Session:
    """The session with its data as a teacher reads it that is trained on it."""
    return replace(session, data=session.task.seen_by(session.data, teacher_said(wanted)))


def _untrained(session: Session, wanted: TeacherRecipe) -> Teacher:
    """In the place of a teacher that has still to be trained."""
    model = _as_seen(session, wanted).build(wanted)
    return Live(model, adapt=session.task.adapter(session.data, model, teacher_said(wanted)))


def teacher_name(recipe: Recipe, index: int) -> str:
    """What one of a recipe's teachers is called in its run folder."""
    return f"teacher-{index}" if len(recipe.teacher) > 1 else "teacher"


def _open_one(session: Session, wanted: TeacherRecipe, name: str) -> Taught:
    store = store_of(wanted)
    if store is not None:
        return _stored(session, wanted, store, name)
    if wanted.store is not None:
        session.say(f"no label store at {wanted.store} yet, so the teacher runs live (`limbeck label` writes it)")
    return open_live(session, wanted, name)


def _stored(session: Session, wanted: TeacherRecipe, store: LabelStore, name: str) -> Taught:
    """The store as the teacher, with the live one for what it lacks, where that is ready without training."""
    plan = store.manifest.plan
    mine = session.data.train.prepared_as()
    if plan.preprocessing is not None and dict(plan.preprocessing) != mine:
        raise LimbeckError(
            f"the label store {store.folder} was written for samples prepared with {dict(plan.preprocessing)}, this "
            f"data is prepared with {mine}; restore the data, or label it again"
        )
    same_classes(plan.classes, session.data.classes, f"the label store {store.folder}")
    same_model(store, wanted)
    ready = (session.folder / name / RECORD).exists() if wanted.train is not None else bool(wanted.model)
    ready = ready and not is_endpoint(wanted.model)
    live = open_live(session, wanted, name) if ready else None
    session.say(f"{name}: label store {store.folder}, {plan.teacher}, {store.manifest.records:,} stored answers")
    cost, history = (live.cost, live.history) if live is not None else ({}, [])
    return Taught(Stored(store, live.teacher if live is not None else None), cost, history)


def open_live(session: Session, wanted: TeacherRecipe, name: str) -> Taught:
    """A teacher that runs: loaded, or trained first."""
    if is_endpoint(wanted.model):
        raise LimbeckError(
            f"{name}: {wanted.model} is asked once, by `limbeck label`, and students learn from what it said; name the "
            "folder of its labels in teacher.store, and run `limbeck label` with this recipe first"
        )
    if wanted.train is not None:
        return _trained_teacher(session, wanted, wanted.train, name)
    if wanted.model.endswith(".onnx"):
        adapt = session.task.adapter(session.data, None, teacher_said(wanted))
        return Taught(Onnx(wanted.model, adapt=adapt), {}, [])
    return Taught(_ready_teacher(session, wanted), {}, [])


def _spec(wanted: ModelRecipe) -> ModelSpec:
    return ModelSpec(wanted.model, dict(wanted.options))


def teacher_said(wanted: TeacherRecipe) -> dict[str, Any]:
    """What a recipe and a saved folder say of how a teacher wants its samples."""
    said: dict[str, Any] = {**wanted.options, "model": wanted.model}
    said |= {key: getattr(wanted, key) for key in TEACHER_KEYS}
    path = Path(wanted.model)
    if path.is_dir() and is_saved(path):
        said["preparation"] = read_card(path).preprocessing
    return said


def _ready_teacher(session: Session, wanted: TeacherRecipe) -> Teacher:
    said, path = teacher_said(wanted), Path(wanted.model)
    if path.is_dir() and is_saved(path):
        same_classes(read_card(path).classes, session.data.classes, str(path))
    else:
        said["as_it_is"] = True  # what it says of its classes, it was trained on
    shape = session.task.shape_of_teacher(session.data, said)
    model = build(_spec(wanted), shape, trust_code=session.trust_code)
    adapt = session.task.adapter(session.data, model, said)
    return session.task.bridged(Live(model, adapt=adapt, shortcuts=session.recipe.train.shortcuts), session.data, said)


def same_classes(teacher: Sequence[str], data: Sequence[str], where: str) -> None:
    """Raises LimbeckError unless the teacher's classes are the data's, in the data's order."""
    if not teacher or tuple(teacher) == tuple(data):
        return
    if len(teacher) != len(data):
        raise LimbeckError(
            f"{where}: the teacher knows {len(teacher)} classes, the data has {len(data)}; "
            "use the data it was trained on, or train a teacher on yours (teacher.train)"
        )
    at = next(index for index, (a, b) in enumerate(zip(teacher, data, strict=True)) if a != b)
    raise LimbeckError(
        f"{where}: the teacher's classes are not the data's in the same order: class {at} is {teacher[at]!r} for the "
        f"teacher and {data[at]!r} in the data; rename or reorder the data's classes"
    )


def _trained_teacher(session: Session, wanted: TeacherRecipe, config: TrainConfig, name: str) -> Taught:
    place = session.folder / name
    if not (place / RECORD).exists():
        torch.manual_seed(0)
        task, recipe = session.task, session.recipe
        own = _as_seen(session, wanted)
        split = task.teaching(recipe.data, own.data, wanted.augment)
        terms = alone_terms(build_terms(list(wanted.terms or task.terms(recipe.data))))
        example = split.__getitems__(list(range(min(2, len(split)))))
        distiller = Distiller(
            own.build(wanted), None, task.fitted(terms, split, None), example=example, shortcuts=config.shortcuts
        )
        own.keep(name, place, wanted, own.train(name, distiller, split, config, 0, name), name)
    same_classes(read_card(place / "last").classes, session.data.classes, str(place))
    record = read_json(place / RECORD)
    model = load(place / "last", trust_code=session.trust_code)
    said = {**teacher_said(wanted), "model": str(place / "last")}
    adapt = session.task.adapter(session.data, model, said)
    teacher = Live(model, adapt=adapt, shortcuts=session.recipe.train.shortcuts)
    return Taught(session.task.bridged(teacher, session.data, said), record["cost"], record["history"])
