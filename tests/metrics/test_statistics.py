"""The paired test against its formula and its degenerate cases."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from limbeck.errors import LimbeckError
from limbeck.metrics import holm, interval, mean_std, paired


def test_paired_t_by_its_formula() -> None:
    """An unpaired or a one-sided test in the paired one's place."""
    a, b = [0.91, 0.93, 0.92, 0.95], [0.90, 0.90, 0.91, 0.91]
    claim = paired("accuracy", "distilled", "alone", a, b)
    differences = [0.01, 0.03, 0.01, 0.04]
    mean = sum(differences) / 4
    std = math.sqrt(sum((d - mean) ** 2 for d in differences) / 3)
    p = 2 * stats.t.sf(abs(mean / (std / 2)), df=3)
    assert claim.p == pytest.approx(p)
    assert (claim.metric, claim.a, claim.b, claim.seeds) == ("accuracy", "distilled", "alone", 4)
    assert claim.mean_a - claim.mean_b == pytest.approx(mean)
    assert claim.std_a == pytest.approx(0.0170783, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        ([0.9], [0.8], None),
        ([0.9, 0.8, 0.7], [0.8, 0.7, 0.6], None),
        ([0.9, 0.8], [0.9, 0.8], 1.0),
    ],
    ids=["one seed", "the same gain in each seed", "no difference"],
)
def test_degenerate_spreads_claim_nothing(a: list[float], b: list[float], p: float | None) -> None:
    """p = 0 out of two seeds that happen to gain one test sample each, or a warning out of SciPy."""
    assert paired("accuracy", "a", "b", a, b).p == p


def test_mistakes_are_named() -> None:
    """Seeds paired with the wrong partner, or a diverged seed that silently makes the mean NaN."""
    with pytest.raises(LimbeckError, match="got 2 and 1"):
        paired("accuracy", "a", "b", [1.0, 2.0], [1.0])
    with pytest.raises(LimbeckError, match="not finite"):
        paired("nll", "a", "b", [1.0, math.nan], [1.0, 2.0])
    with pytest.raises(LimbeckError, match="at least one value"):
        mean_std([])


def test_one_value_has_no_spread() -> None:
    """NaN, which JSON cannot hold, as the deviation of one seed."""
    assert mean_std([0.5]) == (0.5, 0.0)


def test_holm_by_hand() -> None:
    """Corrections in the wrong order, not growing with p, or above 1."""
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1; none below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_a_comparison_without_a_p_value_still_counts() -> None:
    """Fewer comparisons than were made, so that chance passes for a gain."""
    assert holm([0.01, None, 0.02]) == [pytest.approx(0.03), None, pytest.approx(0.04)]


def test_interval_by_hand() -> None:
    """A normal interval in place of Student's, or the deviation in place of the mean's error."""
    # t(0.975, 2 degrees) = 4.302653 times 1 / √3.
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert interval([0.5]) is None
    assert interval([]) is None
