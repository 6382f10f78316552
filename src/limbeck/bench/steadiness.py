"""What may be said of measured times: a median, and how far another measurement's could be from it.

The spread is the width of the 95 % bootstrap interval of the median, divided by the median. Whole rounds are drawn, as
passes of one moment are alike, and a slow minute is no hundred independent slow passes. The interquartile range was the
alternative: it says how wide the times scatter, which `p95` and `p99` say too, and it does not shrink however long one
measures, so that it cannot say whether the median is known.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from limbeck.bench.timing import Rounds

WIDEST = 0.1
"""The widest spread with which a number is quoted."""

FEWEST = 8
"""The fewest rounds from which a spread can be told."""

DRAWS = 400
LARGEST = 4000
"""How often medians are drawn, and of how many passes at most, evenly thinned."""


def spread(rounds: Rounds, seed: int = 0) -> float:
    """The width of the 95 % interval of the median over the median; infinite for fewer than `FEWEST` rounds."""
    if len(rounds) < FEWEST:
        return float("inf")
    share = min(1.0, LARGEST / sum(map(len, rounds)))
    kept = [np.asarray(each[:: max(1, round(1 / share))]) for each in rounds]
    draw = np.random.default_rng(seed)
    medians = [
        np.median(np.concatenate([kept[index] for index in draw.integers(len(kept), size=len(kept))]))
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(medians, (0.025, 0.975))
    middle = float(np.median(np.concatenate(kept)))
    return float((high - low) / middle) if middle else float("inf")


def summary(rounds: Rounds, batch: int) -> dict[str, Any]:
    """`p50`, `p95`, `p99` and `min` in milliseconds a pass, `throughput` in samples a second by the median, `rounds`,
    `passes`, `spread` (None where there are too few rounds to tell) and `stable`: whether the median may be quoted. One
    that may not has `unsteady`, which says why and what to do."""
    times = np.concatenate([np.asarray(each) for each in rounds])
    p50, p95, p99 = (float(value) for value in np.quantile(times, (0.5, 0.95, 0.99)))
    wide = spread(rounds)
    found: dict[str, Any] = {
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "min": float(times.min()),
        "throughput": 1000 * batch / p50 if p50 else 0.0,
        "rounds": len(rounds),
        "passes": len(times),
        "spread": wide if np.isfinite(wide) else None,
        "stable": wide <= WIDEST,
    }
    return found if found["stable"] else found | {"unsteady": _why(wide, len(rounds))}


def _why(wide: float, rounds: int) -> str:
    if not np.isfinite(wide):
        return f"only {rounds} rounds, too few to tell a spread; measure for longer (limbeck bench --seconds)"
    return (
        f"the median is only known to within {wide:.1%} (at most {WIDEST:.0%} is quoted); close other programs, or "
        "measure for longer (limbeck bench --seconds)"
    )


QUOTED = ("p50", "p95", "p99", "min", "throughput")
"""The numbers that are not given where they are unsteady."""


def withheld(found: dict[str, Any]) -> dict[str, Any]:
    """A summary without its numbers where they may not be quoted: the reason is then `refused`."""
    if found["stable"]:
        return found
    kept = {key: value for key, value in found.items() if key not in (*QUOTED, "unsteady")}
    return kept | {"refused": found["unsteady"]}
