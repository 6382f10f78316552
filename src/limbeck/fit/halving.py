"""Successive halving: how many candidates are left after each round, and how long each trains in it.

Every round trains anew, each candidate for twice as long as in the round before and with a whole schedule, so that
those that are compared have all come to the end of one (Jamieson and Talwalkar 2016, arXiv:1502.07943).
"""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST = 8
"""A round trains for at least this part of the whole: what learns slowly would leave too early."""


@dataclass(frozen=True, slots=True)
class Round:
    """`entering` candidates train for `steps`, and the best `leaving` go on."""

    entering: int
    leaving: int
    steps: int


def halving(candidates: int, steps: int) -> list[Round]:
    """The rounds of so many candidates, of which the last has one that trains for all `steps`.

    >>> [(each.entering, each.leaving, each.steps) for each in halving(5, 800)]
    [(5, 3, 100), (3, 2, 200), (2, 1, 400), (1, 1, 800)]
    """
    rounds, left = [], candidates
    entering = []
    while left > 1:
        entering.append(left)
        left = (left + 1) // 2
    for index, count in enumerate(entering):
        part = min(SHORTEST, 2 ** (len(entering) - index))
        rounds.append(Round(count, (count + 1) // 2, max(1, steps // part)))
    return [*rounds, Round(1, 1, steps)]
