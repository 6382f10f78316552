"""A recipe's run: teacher, students alone and distilled over seeds, measured, reported, and resumable."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from accelerate import PartialState
from torch import nn

from limbeck import report
from limbeck.checks import LimbeckError
from limbeck.compare import Candidate, alone_terms, claims, measure, setting_name, versions
from limbeck.distiller import Distiller
from limbeck.files import read_json, staged_folder, write_json, write_text
from limbeck.models import ModelSpec, build, load, read_card, save
from limbeck.models.saved import is_saved
from limbeck.recipe import ModelRecipe, Recipe, TeacherRecipe, build_terms, build_view, expected_preprocessing
from limbeck.results import Results
from limbeck.sources import Data, ImageSet, describe
from limbeck.sources import load as load_data
from limbeck.sources.splits import labelled_mask
from limbeck.tasks import TASKS
from limbeck.teachers import Ensemble, Live, Onnx, Teacher, adapter
from limbeck.training import TrainConfig, Trained, train
from limbeck.types import Preprocessing

Say = Callable[[str], None]

RESULTS = "results.json"
REPORT = "report.html"
RECIPE = "recipe.yaml"
RECORD = "record.json"


@dataclass(frozen=True, slots=True)
class Session:
    """What every step of a run needs: the recipe, its data with all labels, the run folder, and whom to tell."""

    recipe: Recipe
    data: Data
    folder: Path
    trust_code: bool = False
    say: Say = print

    def build(self, wanted: ModelRecipe) -> nn.Module:
        """A recipe's model, for the data's classes, channels and size."""
        given = self.data.train.preprocessing
        return build(
            _spec(wanted),
            num_classes=len(self.data.classes),
            in_channels=given.channels,
            image_size=given.size,
            trust_code=self.trust_code,
        )

    def train(
        self, unit: str, distiller: Distiller, split: ImageSet, config: TrainConfig, seed: int, label: str
    ) -> Trained:
        """Trains with checkpoints under the run folder, and goes on from the last one."""
        return train(
            distiller,
            split,
            self.data.validation,
            config,
            seed=seed,
            folder=self.folder / "work" / unit,
            label=label,
            metrics=TASKS[self.recipe.task].training_metrics,
            logs=self.folder / "logs" / unit,
        )

    def keep(self, unit: str, place: Path, wanted: ModelRecipe, trained: Trained, label: str) -> None:
        """Writes a finished training, models and record, whole or not at all; then its checkpoints can go."""
        if PartialState().is_main_process:
            with staged_folder(place) as staging:
                self._save(staging / "last", wanted, trained, label)
                if trained.selected is not None:
                    trained.module.load_state_dict(trained.selected)
                    self._save(staging / "selected", wanted, trained, label)
                cost = {"train_seconds": trained.seconds, "peak_memory_bytes": trained.peak_memory}
                write_json(staging / RECORD, {"cost": cost, "history": trained.history})
            shutil.rmtree(self.folder / "work" / unit, ignore_errors=True)
            accuracy = validation_accuracy(trained.history)
            reached = f"validation accuracy {100 * accuracy:.2f} % " if accuracy is not None else ""
            self.say(f"{label}: {reached}in {trained.seconds:.1f} s")
        PartialState().wait_for_everyone()

    def _save(self, place: Path, wanted: ModelRecipe, trained: Trained, label: str) -> None:
        save(
            trained.module,
            place,
            spec=_spec(wanted),
            classes=self.data.classes,
            preprocessing=self.data.train.preprocessing,
            task=self.recipe.task,
            about={"recipe": self.recipe.name, "model": label, "checkpoint": place.name},
        )


@dataclass(frozen=True, slots=True)
class Taught:
    """A recipe's teacher, and what is known of its training in this run."""

    teacher: Teacher
    cost: dict[str, float]
    history: list[dict[str, float]]


def run(recipe: Recipe, folder: Path, *, trust_code: bool = False, say: Say = print) -> Results:
    """Runs a recipe in `folder`, going on where an earlier run of the same recipe stopped.

    Raises:
        LimbeckError: the folder holds a run of another recipe, or the recipe cannot be run (data, models, classes).
    """
    state = PartialState()
    main = state.is_main_process
    say = say if main else _silent
    if main:
        _claim(folder, recipe)
    done = _finished(folder, recipe)
    if done is not None:
        say(f"{folder}: already complete; nothing to do (delete the folder to run it again)")
        return done
    with _notes() as notes:
        data = open_data(recipe, say)
        for line in _describe(recipe, data):
            notes.append(line)
            say(line)
        session = Session(recipe, data, folder, trust_code, say)
        for variant in recipe.variants().values():
            session.build(variant.student)  # a mistake in it is better found before a teacher is trained
        taught = open_teacher(session)
        for setting, variant in recipe.variants().items():
            for seed in range(recipe.seeds):
                for kind in ("alone", "distilled"):
                    _train_student(replace(session, recipe=variant), taught.teacher, kind, setting, seed)
        if not main:
            return Results(recipe.resolved(), versions(), [])
        say("reading the test split, once, with every model")
        candidates = list(_candidates(recipe, folder, trust_code))
        rows = measure(
            TASKS[recipe.task], candidates, taught.teacher, data.test, data.classes, folder,
            teacher_cost=taught.cost, teacher_history=taught.history, workers=recipe.train.workers,
        )  # fmt: skip
        results = Results(recipe.resolved(), versions(), rows, claims(rows), list(dict.fromkeys(notes)))
    _publish_student(candidates, folder)
    report.write(results, folder, folder / REPORT)
    results.write(folder / RESULTS)
    return results


def open_data(recipe: Recipe, say: Say) -> Data:
    """The recipe's data, with all its labels."""
    wanted = recipe.data
    say(f"data: {wanted.source}")
    return load_data(
        wanted.source,
        size=wanted.size,
        validation=wanted.validation,
        image_column=wanted.image_column,
        label_column=wanted.label_column,
    )


def training_split(recipe: Recipe, data: Data, seed: int) -> ImageSet:
    """The training split as the student sees it: labels hidden as the recipe says, augmented."""
    split = data.train
    wanted = recipe.data.labelled
    if wanted != "all":
        mask = labelled_mask(split.labels.numpy(), split.ids.numpy(), len(data.classes), wanted)
        split = split.with_labels(mask)
    view = build_view(recipe.data.augment, data.train.preprocessing.size[0], "data.augment")
    return split.with_view(view, seed)


def open_teacher(session: Session) -> Taught:
    """The recipe's teacher: loaded, or trained on all labels of the training split and kept in the run folder."""
    wanted = session.recipe.teacher
    if len(wanted) == 1:
        return _open_one(session, wanted[0], "teacher")
    taught = [_open_one(session, each, f"teacher-{index}") for index, each in enumerate(wanted)]
    cost = {key: sum(each.cost.get(key, 0.0) for each in taught) for each in taught for key in each.cost}
    return Taught(Ensemble([each.teacher for each in taught]), cost, [])


def _open_one(session: Session, wanted: TeacherRecipe, name: str) -> Taught:
    if wanted.train is not None:
        return _trained_teacher(session, wanted, wanted.train, name)
    given = session.data.train.preprocessing
    if wanted.model.endswith(".onnx"):
        return Taught(Onnx(wanted.model, adapt=adapter(given, expected_preprocessing(wanted, given))), {}, [])
    return Taught(_ready_teacher(session, wanted), {}, [])


def _spec(wanted: ModelRecipe) -> ModelSpec:
    return ModelSpec(wanted.model, dict(wanted.options))


def _ready_teacher(session: Session, wanted: TeacherRecipe) -> Teacher:
    given = session.data.train.preprocessing
    expected = expected_preprocessing(wanted, given)
    path = Path(wanted.model)
    if path.is_dir() and is_saved(path):
        card = read_card(path)
        expected = expected or card.preprocessing
        same_classes(card.classes, session.data.classes, str(path))
    own = expected or given
    model = build(
        _spec(wanted),
        num_classes=len(session.data.classes),
        in_channels=own.channels,
        image_size=own.size,
        trust_code=session.trust_code,
    )
    if expected is None and wanted.model.startswith("timm:") and wanted.options.get("pretrained"):
        config = timm.data.resolve_model_data_config(model)
        channels, height, width = config["input_size"]
        expected = Preprocessing((height, width), channels, tuple(config["mean"]), tuple(config["std"]))
    return Live(model, adapt=adapter(given, expected), shortcuts=session.recipe.train.shortcuts)


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
        model = session.build(wanted)
        split = session.data.train
        augment = session.recipe.data.augment if wanted.augment is None else wanted.augment
        split = split.with_view(build_view(augment, split.preprocessing.size[0], "teacher.augment"), seed=0)
        trained = session.train(name, Distiller(model, shortcuts=config.shortcuts), split, config, 0, name)
        session.keep(name, place, wanted, trained, name)
    record = read_json(place / RECORD)
    teacher = Live(load(place / "last", trust_code=session.trust_code), shortcuts=session.recipe.train.shortcuts)
    return Taught(teacher, record["cost"], record["history"])


def _train_student(session: Session, teacher: Teacher, kind: str, setting: str, seed: int) -> None:
    """One training of a student; `session.recipe` is the setting's."""
    recipe, name = session.recipe, setting_name(kind, setting)
    unit = f"{name}-{seed}"
    place = session.folder / "models" / unit
    if (place / RECORD).exists():
        return
    torch.manual_seed(seed)
    student = session.build(recipe.student)
    split = training_split(recipe, session.data, seed)
    distiller = _distiller(kind, student, teacher, recipe, split)
    trained = session.train(unit, distiller, split, recipe.train, seed, f"{name} {seed + 1}/{recipe.seeds}")
    session.keep(unit, place, recipe.student, trained, f"{name}, seed {seed}")


def _distiller(kind: str, student: nn.Module, teacher: Teacher, recipe: Recipe, split: ImageSet) -> Distiller:
    terms, shortcuts = build_terms(recipe.terms), recipe.train.shortcuts
    if kind == "alone":
        return Distiller(student, None, alone_terms(terms), shortcuts=shortcuts)
    example = split.without_view().__getitems__(list(range(min(2, len(split)))))
    return Distiller(student, teacher, terms, example=example, shortcuts=shortcuts)


def validation_accuracy(history: Sequence[dict[str, float]]) -> float | None:
    """The last validation accuracy of a training, or None."""
    values = [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry]
    return values[-1] if values else None


def _candidates(recipe: Recipe, folder: Path, trust_code: bool) -> Iterator[Candidate]:
    for setting in recipe.variants():
        for kind in ("alone", "distilled"):
            name = setting_name(kind, setting)
            for seed in range(recipe.seeds):
                place = folder / "models" / f"{name}-{seed}"
                record = read_json(place / RECORD)
                for checkpoint in ("last", "selected"):
                    if (place / checkpoint).is_dir():
                        model = load(place / checkpoint, trust_code=trust_code)
                        yield Candidate(name, seed, checkpoint, model, cost=record["cost"], history=record["history"])


def _publish_student(candidates: Sequence[Candidate], folder: Path) -> None:
    """Copies the distilled student that validation likes best to `folder/student`."""
    distilled = [each for each in candidates if each.name == "distilled" and each.checkpoint == "last"]
    best = max(distilled, key=lambda each: validation_accuracy(each.history) or 0.0)
    source = folder / "models" / f"{best.name}-{best.seed}" / best.checkpoint
    with staged_folder(folder / "student") as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)


def _claim(folder: Path, recipe: Recipe) -> None:
    """Makes the folder this recipe's; another recipe's folder is an error that names the first difference.

    A folder in which nothing was trained yet, because the recipe had a mistake, is taken over.
    """
    path = folder / RECIPE
    resolved = recipe.resolved()
    if path.exists() and any(each != path for each in folder.iterdir()):
        try:
            old = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            raise LimbeckError(f"{path}: unreadable; delete the run folder {folder} and run again") from None
        difference = _difference(old, resolved)
        if difference:
            raise LimbeckError(
                f"{folder} holds a run of another recipe ({difference}); "
                "choose another folder with --folder, or delete this one"
            )
    elif folder.exists() and any(each != path for each in folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty and holds no limbeck run; choose another folder with --folder")
    write_text(path, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first difference between two recipes, seeds aside: more seeds only add to a run."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            if not path and key in ("seeds", "about"):
                continue
            found = _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return ""
    return "" if old == new else f"{path}: {old!r} there, {new!r} now"


def _finished(folder: Path, recipe: Recipe) -> Results | None:
    path = folder / RESULTS
    if not path.exists() or not (folder / REPORT).exists():
        return None
    results = Results.read(path)
    return results if results.recipe.get("seeds") == recipe.seeds else None


def _describe(recipe: Recipe, data: Data) -> list[str]:
    """What the student will see, in a line a setting."""
    lines = []
    for setting, variant in recipe.variants().items():
        split = training_split(variant, data, 0)
        balance = describe(split.labels.numpy(), data.classes)
        lines.append(f"training data{f' ({setting})' if setting else ''}: {balance.text}")
    return lines


@contextmanager
def _notes() -> Iterator[list[str]]:
    """Collects limbeck's warnings while a run goes on, for the report."""
    notes: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(f"{record.levelname.lower()}: {record.getMessage()}")

    handler = Collect(logging.WARNING)
    logger = logging.getLogger("limbeck")
    logger.addHandler(handler)
    try:
        yield notes
    finally:
        logger.removeHandler(handler)


def _silent(_line: str) -> None:
    """Other processes of a distributed run say nothing."""
