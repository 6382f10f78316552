"""Numbers in words: shares, differences, p-values."""

from __future__ import annotations

SIGNIFICANCE = 0.05


def percent(share: float) -> str:
    """A share as a percentage of two or three figures."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 1 else f"{value:.2g} %"


def points(difference: float) -> str:
    """The size of a difference of fractions in percentage points."""
    value = abs(100 * difference)
    return f"{value:.2f} points" if value < 0.1 else f"{value:.1f} points"


def signed_points(difference: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return f"{'−' if difference < 0 else '+'}{points(difference)}"


def p_value(p: float) -> str:
    """A p-value as papers print it."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < SIGNIFICANCE else f"p = {p:.2f}"
