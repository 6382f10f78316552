"""Who runs when: models take turns in random order, so that a slow moment of the machine meets all of them alike.

A turn is one pass that is not counted, which brings the weights back into the caches and lets the threads of whoever
ran before come to rest, and then as many counted passes as a turn has room for.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

Clock = Callable[[], float]

Rounds = list[list[float]]
"""The counted passes of a model in milliseconds, a list a round."""

TURN_SECONDS = 0.01
TURN_PASSES = 50
"""A turn ends after about so long, or so many passes, whichever comes first."""

WARM_WINDOW, WARM_CHANGE, WARM_PASSES = 5, 0.05, 50
"""A model is warm when the median of a window of passes is within this share of the window's before it."""


def warm_up(run: Callable[[], object], *, seconds: float, clock: Clock = time.perf_counter) -> int:
    """Runs until the times no longer change, for at most `seconds` or `WARM_PASSES`, and at least twice; how often."""
    taken: list[float] = []
    start = clock()
    while len(taken) < WARM_PASSES:
        begin = clock()
        run()
        taken.append(clock() - begin)
        if len(taken) >= 2 * WARM_WINDOW:
            before = statistics.median(taken[-2 * WARM_WINDOW : -WARM_WINDOW])
            now = statistics.median(taken[-WARM_WINDOW:])
            if abs(now - before) <= WARM_CHANGE * before:
                break
        if len(taken) >= 2 and clock() - start > seconds:
            break
    return len(taken)


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    rounds: int,
    least: int = 1,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, Rounds]:
    """The times of each of `runs`, which take turns in an order that is drawn anew each round.

    Args:
        seconds: about how long to measure each of them.
        rounds: how many turns each has at most.
        least: how many it has at least, however long they take.
    """
    times: dict[str, Rounds] = {name: [] for name in runs}
    draw = random.Random(seed)
    names = list(runs)
    start = clock()
    for done in range(1, rounds + 1):
        draw.shuffle(names)
        for name in names:
            times[name].append(_turn(runs[name], clock))
        if done >= least and clock() - start > seconds * len(names):
            break
    return times


def _turn(run: Callable[[], object], clock: Clock) -> list[float]:
    run()
    taken: list[float] = []
    start = now = clock()
    while not taken or (now - start < TURN_SECONDS and len(taken) < TURN_PASSES):
        begin = now
        run()
        now = clock()
        taken.append(1000 * (now - begin))
    return taken
