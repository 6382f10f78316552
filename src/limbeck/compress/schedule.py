"""Pruning in rounds, with distilling between them: how much each round removes."""

from __future__ import annotations

from limbeck.errors import LimbeckError


def rounds(ratio: float, count: int) -> list[float]:
    """What each of `count` rounds removes of what the last one left, so that `ratio` of all is gone at the end.

    Every round removes the same share: after k of n, (1 − ratio)^(k / n) is left.

    >>> [round(each, 3) for each in rounds(0.75, 2)]
    [0.5, 0.5]

    Raises:
        LimbeckError: ratio is not above 0 and below 1, or count below 1.
    """
    if not 0 < ratio < 1 or count < 1:
        raise LimbeckError(f"rounds: expected a ratio above 0 and below 1 and 1 round or more, got {ratio} and {count}")
    return [1 - (1 - ratio) ** (1 / count)] * count
