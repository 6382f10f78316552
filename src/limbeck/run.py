"""A recipe's run: teacher, students alone and distilled over seeds, measured, reported, and resumable."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from limbeck import report
from limbeck.compare import Candidate, alone_terms, claims, measure, setting_name, versions
from limbeck.distiller import Distiller
from limbeck.files import read_json, staged_folder
from limbeck.models import load
from limbeck.processes import processes
from limbeck.recipe import Recipe, build_terms
from limbeck.results import Results
from limbeck.session import RECORD, Say, Session, claim, open_data, open_teacher, training_split, validation_accuracy
from limbeck.sources import Data, ImageSet, describe
from limbeck.tasks import TASKS
from limbeck.teachers import Teacher

RESULTS = "results.json"
REPORT = "report.html"


def run(recipe: Recipe, folder: Path, *, trust_code: bool = False, say: Say = print) -> Results:
    """Runs a recipe in `folder`, going on where an earlier run of the same recipe stopped.

    Raises:
        LimbeckError: the folder holds a run of another recipe, or the recipe cannot be run (data, models, classes).
    """
    state = processes()
    main = state.is_main_process
    say = say if main else _silent
    if main:
        claim(folder, recipe)
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
    example = split.__getitems__(list(range(min(2, len(split)))))
    return Distiller(student, teacher, terms, example=example, shortcuts=shortcuts)


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
