"""What there is to say of a fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from limbeck.fit.budget import Budget
from limbeck.fit.finals import Final
from limbeck.fit.ladder import Rung
from limbeck.fit.measuring import FP32, Measured
from limbeck.report.table import bytes_text, scaled
from limbeck.report.tried import Tried
from limbeck.results import Results
from limbeck.session import Session


def tried(
    each: Measured, values: dict[str, float], steps: dict[str, int], rungs: dict[str, Rung], budget: Budget, best: Final
) -> Tried:
    """A line of the table of everything that was tried."""
    why, rung = each.why_not(budget), rungs[each.rung]
    value, had = values.get(each.rung), steps.get(each.rung, 0)
    if each.name == best.measured.name:
        return Tried(each.name, best.cost, best.value, had, "chosen", "chosen; its file was measured again")
    if why:
        role = "teacher" if rung.is_teacher else "over"
        return Tried(
            each.name, each.cost, value if each.precision == FP32 else None, had, role, f"over the budget: {why}"
        )
    if value is None:
        return Tried(each.name, each.cost, None, 0, "tried", "fits, and was not among the nearest to the budget")
    role = "teacher" if rung.is_teacher else "tried"
    shown = value if each.precision == FP32 else None
    fate = "fits; another did better on validation" if shown is not None else "fits; see its fp32 row"
    return Tried(each.name, each.cost, shown, had, role, fate)


def sentences(session: Session, best: Final, others: Sequence[Final], budget: Budget, results: Results) -> list[str]:
    """What was chosen, what it costs and scores, and what to know of it."""
    measure, cost = session.task.main, best.cost
    speed = f"{cost['latency']:.3g} ms, " if "latency" in cost else ""
    text = (
        f"{best.measured.name} is the best that keeps {budget} on {session.recipe.on}: {speed}"
        f"{bytes_text(cost['bytes'], None)} and {scaled(cost['flops'])} FLOPs a sample, measured on the file itself."
    )
    found = {row.name: row.metrics.get(measure.key) for row in results.rows}
    mine, theirs = found.get(best.measured.name), found.get("teacher")
    if mine is not None:
        beside = f"; the teacher has {measure.text(theirs, 2)}" if theirs is not None else ""
        text += f" On the test split it has {measure.title} {measure.text(mine, 2)}{beside}."
    missed = [each for each in others if budget.why_not(each.cost, headroom=0.0)]
    lines = [f"{each.measured.name} did not keep it when its file was measured again." for each in missed]
    return [text, "One seed: which candidate is best is measured on validation, and not tested.", *lines]


def limits(budget: Budget) -> dict[str, float]:
    """The budget by the names of costs."""
    return {name: value for name, value in asdict(budget).items() if value is not None}


def tests(session: Session, results: Results) -> list[tuple[str, str]]:
    """The main measure on the test split, by row."""
    measure = session.task.main
    return [(row.name, measure.text(row.metrics[measure.key], 2)) for row in results.rows if measure.key in row.metrics]
