"""What seeds say together: mean, spread, and the paired test behind every claim."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from limbeck.errors import LimbeckError
from limbeck.results import Claim

ROUNDING = 1e-9


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divided by n - 1); the deviation of one value is given as 0.

    Raises LimbeckError where there is no value.
    """
    if len(values) == 0:
        raise LimbeckError("mean and deviation: expected at least one value, got none; measure a seed first")
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


def paired(metric: str, a: str, b: str, values_a: Sequence[float], values_b: Sequence[float]) -> Claim:
    """Compares models `a` and `b` over seeds: values at one index come from one seed.

    `p` is of the two-sided paired t-test (Student 1908). It is None where the test says nothing: with fewer
    than two seeds, or where every seed differs by the same amount other than 0. Such a spread of exactly 0
    comes from a metric of few possible values (two seeds, each one test sample better), not from certainty,
    so it is never called p = 0. Where no seed differs at all, p is 1.

    Raises LimbeckError where the two have different numbers of seeds, none, or a value that is not finite.
    """
    if len(values_a) != len(values_b):
        raise LimbeckError(
            f"{metric}: expected as many seeds of {a} as of {b}, got {len(values_a)} and {len(values_b)}; "
            "run both with the same seeds"
        )
    mean_a, std_a = mean_std(values_a)
    mean_b, std_b = mean_std(values_b)
    left, right = np.asarray(values_a, dtype=np.float64), np.asarray(values_b, dtype=np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise LimbeckError(
            f"{metric}: a seed of {a} or {b} is not finite: its training diverged; leave it out or run it again"
        )
    return Claim(metric, a, b, mean_a, mean_b, std_a, std_b, _p_value(left, right), len(values_a))


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The confidence interval of a mean over seeds by Student's t distribution; None of fewer than two values."""
    if len(values) < 2:
        return None
    mean, std = mean_std(values)
    half = float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * std / math.sqrt(len(values))
    return mean - half, mean + half


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number, so that the chance of even one false claim among them stays what each says.

    A comparison without a p-value claims nothing, and still counts as one that was made.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6.
    """
    order = sorted(range(len(p_values)), key=lambda index: _or_one(p_values[index]))
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * _or_one(p_values[index])))
        corrected[index] = None if p_values[index] is None else largest
    return corrected


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p


def _p_value(left: np.ndarray, right: np.ndarray) -> float | None:
    if len(left) < 2:
        return None
    differences = left - right
    # Equal differences of unequal numbers part by a rounding, and the test would make certainty of that.
    rounding = ROUNDING * max(float(np.abs(left).max()), float(np.abs(right).max()))
    if float(np.ptp(differences)) <= rounding:
        return 1.0 if float(np.abs(differences).max()) <= rounding else None
    return float(stats.ttest_rel(left, right).pvalue)
