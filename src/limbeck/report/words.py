"""Numbers in words: shares, differences, p-values."""

from __future__ import annotations

from limbeck.measures import Measure, measure_of
from limbeck.results import Results
from limbeck.tasks import IMAGE_CLASSIFICATION, TASKS

SIGNIFICANCE = 0.05


def percent(share: float) -> str:
    """A share as a percentage of two or three figures."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def points(difference: float) -> str:
    """The size of a difference of fractions in percentage points."""
    value = abs(100 * difference)
    return f"{value:.2f} points" if value < 0.1 else f"{value:.1f} points"


def amount(measure: Measure, difference: float) -> str:
    """The size of a difference of a measure: `1.2 points`, or `0.34`."""
    return points(difference) if measure.share else f"{abs(difference):.3g}"


def signed(measure: Measure, difference: float) -> str:
    """A difference of a measure with its sign."""
    return f"{'−' if difference < 0 else '+'}{amount(measure, difference)}"


def main_measure(results: Results) -> Measure:
    """The measure by which the models of a run are judged."""
    task = TASKS.get(str(results.recipe.get("task")), IMAGE_CLASSIFICATION)
    kept = {key for row in results.rows for key in row.metrics}
    # Of several problems of one task (classes, several labels, a number) each has its own.
    return next((measure_of(key) for key in (task.main_metric, *task.claimed) if key in kept), task.main)


def p_value(p: float) -> str:
    """A p-value as papers print it."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < SIGNIFICANCE else f"p = {p:.2f}"
