"""Turns: who runs when, what is counted, and when it ends. On a clock that only the models move."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np
import pytest

from limbeck.bench.timing import TURN_PASSES, WARM_PASSES, interleave, warm_up


class Machine:
    """A clock, and models that take time on it; `slow` multiplies what they take from a moment on."""

    def __init__(self, slow_from: float = float("inf"), slow: float = 1.0) -> None:
        self.now = 0.0
        self.ran: list[str] = []
        self._from, self._slow = slow_from, slow

    def model(self, name: str, *seconds: float) -> Callable[[], None]:
        """Takes the given times one after another, the last of them from then on."""
        left = list(seconds)

        def run() -> None:
            self.ran.append(name)
            taken = left.pop(0) if len(left) > 1 else left[0]
            self.now += taken * (self._slow if self.now >= self._from else 1.0)

        return run

    def clock(self) -> float:
        """Seconds."""
        return self.now


def test_all_take_turns_in_changing_order() -> None:
    """One after another in blocks is no interleaving; always the same order has the same one run after the slow one."""
    machine = Machine()
    runs = {name: machine.model(name, 0.02) for name in "abc"}
    times = interleave(runs, seconds=100.0, rounds=30, clock=machine.clock)
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 30, "b": 30, "c": 30}
    turns = [machine.ran[start : start + 6] for start in range(0, len(machine.ran), 6)]
    # A turn is one pass that is not counted and one that is.
    assert all(sorted(turn) == sorted("aabbcc") and turn[0] == turn[1] and turn[2] == turn[3] for turn in turns)
    assert len({"".join(turn) for turn in turns}) > 2
    again = Machine()
    interleave({name: again.model(name, 0.02) for name in "abc"}, seconds=100.0, rounds=30, clock=again.clock)
    assert again.ran == machine.ran


def test_the_first_pass_of_a_turn_is_not_counted() -> None:
    """A cold cache would be measured as the model's time."""
    machine = Machine()
    times = interleave({"a": machine.model("a", 0.9, 0.02)}, seconds=100.0, rounds=2, clock=machine.clock)
    assert times["a"] == [[pytest.approx(20.0)], [pytest.approx(20.0)]]


def test_fast_models_run_more_often_a_turn() -> None:
    """One pass of microseconds a turn would be mostly the clock's."""
    machine = Machine()
    runs = {"fast": machine.model("fast", 1e-5), "slow": machine.model("slow", 0.004)}
    times = interleave(runs, seconds=100.0, rounds=3, clock=machine.clock)
    assert [len(each) for each in times["fast"]] == [TURN_PASSES] * 3
    assert [len(each) for each in times["slow"]] == [3] * 3


def test_a_slow_moment_meets_all_alike() -> None:
    """Measured one after another, the model whose turn comes in the slow half would look twice as slow."""
    machine = Machine(slow_from=1.0, slow=2.0)
    runs = {"a": machine.model("a", 0.01), "b": machine.model("b", 0.02)}
    times = interleave(runs, seconds=1.5, rounds=1000, clock=machine.clock)
    means = {name: float(np.mean(np.concatenate(rounds))) for name, rounds in times.items()}
    assert means["b"] / means["a"] == pytest.approx(2.0, rel=0.03)


def test_it_ends_with_the_time() -> None:
    """A budget that only holds for one model, or a slow model that is never measured."""
    machine = Machine()
    runs = {"a": machine.model("a", 0.02), "b": machine.model("b", 0.02)}
    interleave(runs, seconds=1.0, rounds=10_000, clock=machine.clock)
    assert 2.0 < machine.now < 2.2
    slow = Machine()
    times = interleave({"a": slow.model("a", 60.0)}, seconds=1.0, rounds=10, clock=slow.clock)
    assert times["a"] == [[pytest.approx(60_000.0)]]
    enough = interleave({"a": slow.model("a", 60.0)}, seconds=1.0, rounds=10, least=3, clock=slow.clock)
    assert len(enough["a"]) == 3


def test_warm_when_the_times_no_longer_fall() -> None:
    """A fixed number of passes is too few for one model and too many for another."""
    falling = Machine()
    passes = warm_up(falling.model("a", *(0.1 * 0.8**i for i in range(20)), 0.001), seconds=100.0, clock=falling.clock)
    assert 25 <= passes < WARM_PASSES
    steady = Machine()
    assert warm_up(steady.model("a", 0.01), seconds=100.0, clock=steady.clock) == 10


def test_warming_up_ends() -> None:
    """A model whose times never settle, and one that takes minutes."""
    restless = Machine()
    times = [0.01 * (1 + (i // 5) % 2) for i in range(200)]
    assert warm_up(restless.model("a", *times), seconds=100.0, clock=restless.clock) == WARM_PASSES
    slow = Machine()
    assert warm_up(slow.model("a", 60.0), seconds=1.0, clock=slow.clock) == 2


def test_turns_are_whole() -> None:
    """The passes of two models mixed within a turn would have each run in the other's cache."""
    machine = Machine()
    interleave({name: machine.model(name, 0.003) for name in "ab"}, seconds=100.0, rounds=1, clock=machine.clock)
    assert [len(list(group)) for _, group in groupby(machine.ran)] == [5, 5]
