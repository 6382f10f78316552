"""A recipe's run: teacher, students alone and distilled over seeds, measured, reported, and resumable."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from limbeck import report
from limbeck.chains import chain_entries, module_of, rehearse_chain, untrained_student
from limbeck.compare import ALONE, DISTILLED, Candidate, chain_claims, claims, measure, versions
from limbeck.deployed import costs_of, int8_candidates, keep_teacher, notes_on_int8, rehearse_export, ship, write_cards
from limbeck.errors import LimbeckError
from limbeck.files import staged_folder
from limbeck.int8_learning import learn_int8, rehearse_int8
from limbeck.processes import processes
from limbeck.recipe import QuantizeRecipe, Recipe
from limbeck.recipe.shipping import AWARE
from limbeck.results import Claim, Results, Row
from limbeck.session import (
    Say,
    Session,
    Taught,
    claim,
    open_data,
    open_teacher,
    preview_teacher,
    training_split,
)
from limbeck.students import Entry, candidates, chain_notes, lineup, rehearse, train_all
from limbeck.tasks import TaskData
from limbeck.teachers import Teacher

RESULTS = "results.json"
REPORT = "report.html"

KEYS: dict[str, Any] = {
    "seeds": None,
    "methods": {},
    "compare": [],
    "steps": [],
    "on": Recipe.model_fields["on"].default,
    "quantize": QuantizeRecipe().model_dump(mode="json"),
}
"""What a finished run must have in common with what is asked for, and what runs had before they knew it."""


def run(recipe: Recipe, folder: Path, *, trust_code: bool = False, say: Say = print) -> Results:
    """Runs a recipe in `folder`, going on where an earlier run of the same recipe stopped.

    Raises:
        LimbeckError: the folder holds a run of another recipe, or the recipe cannot be run (data, models, classes).
    """
    main = processes().is_main_process
    say = say if main else silent
    recipe = recipe.model_copy(update={"methods": {}})  # what a comparison trains is nothing to a run
    if main:
        claim(folder, recipe)
    done = finished(folder, recipe)
    if done is not None:
        say(f"{folder}: already complete; nothing to do (delete the folder to run it again)")
        return done
    with collected_notes() as notes:
        data = open_data(recipe, say)
        for line in _describe(recipe, data):
            notes.append(line)
            say(line)
        session = Session(recipe, data, folder, trust_code, say)
        taught, settings = preview_teacher(session), recipe.variants().items()
        for _, variant in settings:
            rehearse(session, variant, taught.teacher)
        session = _rehearsed(session, taught, notes)
        taught = taught if taught.ready else open_teacher(session)
        entries = [each for name, variant in settings for each in lineup(session, taught.teacher, variant, name)]
        chained = chain_entries(session, taught.teacher) if recipe.chains else []
        train_all(session, [*entries, *chained])
        if not main:
            return Results(recipe.resolved(), versions(), [])
        _publish_student(session, list(candidates(folder, entries, trust_code)), taught.teacher)
        names = [chain.name for chain in session.chains]

        def claimed(rows: Sequence[Row]) -> list[Claim]:
            trained = [row for row in rows if row.name not in names or row.name in (ALONE, DISTILLED)]
            return claims(trained, session.task.claimed) + chain_claims(rows, names, session.task.claimed)

        return account(session, [*entries, *chained], taught, notes, claimed)


def _rehearsed(session: Session, taught: Taught, notes: list[str]) -> Session:
    """Tries what the rows for shipping will need before anything is trained. Of `all` those that cannot be made are
    left out, with a note.

    Raises:
        LimbeckError: a row that the recipe names cannot be made.
    """
    recipe, teacher = session.recipe, taught.teacher
    if not recipe.chains:
        return session
    aware = [chain for chain in recipe.chains if chain.int8 == AWARE]
    if aware and processes().num_processes > 1:
        raise LimbeckError(f"compare: {aware[0].name} learns in one process; start it without accelerate launch")
    left_out: dict[str, str] = {}
    starts = {"student": untrained_student(session, teacher)}
    for chain in recipe.chains:
        try:
            if chain.of_teacher:
                module_of(session, teacher)
            rehearse_chain(session, teacher, chain, starts)
            if chain.int8 == AWARE:
                rehearse_int8(session, starts["student"])
        except LimbeckError as error:
            if recipe.compare != "all":
                raise
            left_out[chain.name] = str(error)
    rehearse_export(session, list(starts.values()))
    for why in dict.fromkeys(left_out.values()):
        line = f"left out: {', '.join(name for name, each in left_out.items() if each == why)}: {why}"
        notes.append(line)
        session.say(line)
    session = replace(session, left_out=frozenset(left_out))
    if any(chain.of_teacher for chain in session.chains):
        keep_teacher(session, teacher)
    return session


def account(
    session: Session,
    entries: Sequence[Entry],
    taught: Taught,
    notes: list[str],
    claims_of: Callable[[Sequence[Row]], list[Claim]],
) -> Results:
    """Measures what the trainings of a run have left, and writes its report and, last, its results."""
    recipe, folder, data = session.recipe, session.folder, session.data
    for line in chain_notes(folder, entries):
        notes.append(line)
        session.say(line)
    shipped = ship(session, entries, partial(learn_int8, session, taught.teacher)) if recipe.chains else []
    costs = costs_of(session, shipped) if shipped else None
    session.say("reading the test split, once, with every model")
    measured = [*candidates(folder, entries, session.trust_code), *int8_candidates(session, shipped)]
    rows = measure(
        session.task, measured, taught.teacher, data.test, folder,
        predict=partial(session.task.predict, settings=recipe.data), teacher_cost=taught.cost,
        teacher_history=taught.history, workers=recipe.train.workers, costs=costs,
    )  # fmt: skip
    for line in notes_on_int8(session, shipped, rows):
        notes.append(line)
        session.say(line)
    results = Results(recipe.resolved(), versions(), rows, claims_of(rows), list(dict.fromkeys(notes)))
    report.write(results, folder, folder / REPORT)
    results.write(folder / RESULTS)
    write_cards(shipped)
    return results


def _publish_student(session: Session, candidates: Sequence[Candidate], teacher: Teacher) -> None:
    """Copies the distilled student that validation likes best, of any generation, to `folder/student`, with what it
    needs beside it."""
    names = [each for each in candidates if each.name.startswith(DISTILLED) and "@" not in each.name]
    best = max(
        (each for each in names if each.checkpoint == "last"),
        key=lambda each: session.selected.rank(session.reached(each.history)),
    )
    folder = session.folder
    source = folder / "models" / f"{best.name}-{best.seed}" / best.checkpoint
    with staged_folder(folder / "student") as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)
        session.task.beside(best.load(), teacher, session.data, staging)


def finished(folder: Path, recipe: Recipe) -> Results | None:
    """The results of a complete run of as many seeds and the same methods, or None."""
    path = folder / RESULTS
    if not path.exists() or not (folder / REPORT).exists():
        return None
    results = Results.read(path)
    wanted = recipe.resolved()
    same = all(results.recipe.get(key, old) == wanted[key] for key, old in KEYS.items())
    return results if same else None


def _describe(recipe: Recipe, data: TaskData) -> list[str]:
    """What the student will see, in a line a setting."""
    lines = []
    for setting, variant in recipe.variants().items():
        text = variant.kind.describe(training_split(variant, data, 0), data)
        lines.append(f"training data{f' ({setting})' if setting else ''}: {text}")
    return lines


@contextmanager
def collected_notes() -> Iterator[list[str]]:
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


def silent(_line: str) -> None:
    """Other processes of a distributed run say nothing."""
