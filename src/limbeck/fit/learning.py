"""Candidates distilled: one training each round, and how long that is going to take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.files import read_json
from limbeck.fit.budget import Budget
from limbeck.fit.halving import Round
from limbeck.fit.ladder import Rung, untrained, wanted_of
from limbeck.session import RECORD, Session, Taught, training_split
from limbeck.students import Entry, distiller_of, place_of, same_teacher, train_all
from limbeck.teachers import Teacher


def announce(
    session: Session, taught: Taught, rungs: Sequence[Rung], plan: Sequence[Round], tried: int, within: int,
    budget: Budget,
) -> None:  # fmt: skip
    """Says what is going to happen and about how long it takes."""
    session.say(f"{within} files of {tried} candidates (each in fp32, and in int8 where it can be) keep {budget}")
    if not rungs:
        session.say("of these nothing has to be trained: it is the teacher itself")
        return
    seconds = [_step_seconds(session, taught.teacher, rung) for rung in rungs]
    mean = sum(seconds) / len(seconds)
    total = sum(each.entering * each.steps * (mean if each.entering > 1 else max(seconds)) for each in plan)
    rounds = ", ".join(f"{each.entering} × {each.steps:,} steps" for each in plan)
    training = "" if taught.ready else ", without the teacher's own training"
    session.say(f"distilling {', '.join(rung.name for rung in rungs)}: {rounds}; about {_duration(total)}{training}")


def _step_seconds(session: Session, teacher: Teacher, rung: Rung) -> float:
    """How long a step of training takes."""
    recipe = entry_of(session, teacher, rung, 1).recipe
    split = training_split(recipe, session.data, 0)
    distiller = distiller_of(untrained(session, teacher, rung), teacher, recipe, split)
    batch = split.__getitems__(list(range(min(len(split), session.recipe.train.batch_size))))
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        distiller(batch).loss.backward()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def halved(
    session: Session, teacher: Teacher, rungs: Sequence[Rung], plan: Sequence[Round]
) -> tuple[dict[str, float], dict[str, int]]:
    """What each rung reached on validation in its last round, and after how many steps."""
    values: dict[str, float] = {}
    steps: dict[str, int] = {}
    alive = list(rungs)
    for number, each in enumerate(plan, 1):
        session.say(f"round {number} of {len(plan)}: {len(alive)} for {each.steps:,} steps")
        for rung in alive:
            values[rung.name], steps[rung.name] = learned(session, teacher, rung, each.steps), each.steps
        alive = sorted(alive, key=lambda rung: -session.selected.rank(values[rung.name]))[: each.leaving]
    return values, steps


def learned(session: Session, teacher: Teacher, rung: Rung, steps: int) -> float:
    """What a rung reaches on validation after so many steps; it is trained where it was not before."""
    entry = entry_of(session, teacher, rung, steps)
    train_all(session, [entry])
    value = session.reached(read_json(place_of(session.folder, entry.name, 0) / RECORD)["history"])
    if value is None:
        raise LimbeckError(f"{entry.name}: was not evaluated, so nobody can say whether it is better than others")
    return value


def entry_of(session: Session, teacher: Teacher, rung: Rung, steps: int, *, alone: bool = False) -> Entry:
    """The training of a rung for so many steps, taught or on labels alone."""
    recipe = session.recipe
    train = replace(recipe.train, steps=steps)
    recipe = recipe.model_copy(update={"student": rung.student or recipe.student, "train": train})
    start = None if rung.student is not None else partial(_started, session, teacher, rung)
    same = partial(same_teacher, teacher)
    name = f"{rung.name}{'-alone' if alone else ''}-{steps}"
    taught = None if alone else same
    return Entry(name, recipe, taught, partial(same, 0), family=rung.name, start=start, wanted=wanted_of(session, rung))


def _started(session: Session, teacher: Teacher, rung: Rung, _seed: int) -> nn.Module:
    return untrained(session, teacher, rung)
