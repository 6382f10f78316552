"""What is said of times, and when it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from limbeck.bench.steadiness import FEWEST, WIDEST, spread, summary, withheld


def normal(rounds: int, deviation: float, passes: int = 1, seed: int = 0) -> list[list[float]]:
    """Rounds around 10 ms, whose passes are all the same."""
    draw = np.random.default_rng(seed)
    return [[float(value)] * passes for value in draw.normal(10.0, deviation, rounds)]


def test_numbers_of_known_times() -> None:
    """Seconds for milliseconds, a throughput of one sample, or another percentile."""
    found = summary([[float(value)] for value in range(1, 102)], batch=4)
    assert found["p50"] == 51.0
    assert (found["p95"], found["p99"], found["min"]) == (96.0, 100.0, 1.0)
    assert found["throughput"] == pytest.approx(1000 * 4 / 51)
    assert (found["rounds"], found["passes"]) == (101, 101)


def test_the_spread_is_that_of_the_median() -> None:
    """Against the normal distribution's known standard error of a median, 1.2533 σ / √n."""
    expected = 2 * 1.96 * 1.2533 * 0.5 / np.sqrt(400) / 10
    found = np.mean([spread(normal(400, 0.5, seed=seed)) for seed in range(8)])
    assert found == pytest.approx(expected, rel=0.2)


def test_longer_measuring_narrows_it() -> None:
    """The remedy that the refusal names must be one."""
    assert spread(normal(1600, 3.0)) < 0.65 * spread(normal(400, 3.0))


def test_passes_of_one_round_are_no_independent_evidence() -> None:
    """Fifty passes in one slow moment would make a guess look certain."""
    assert spread(normal(40, 3.0, passes=50)) == pytest.approx(spread(normal(40, 3.0)), rel=0.25)


def test_a_steady_median_is_quoted() -> None:
    """A refusal of what is fine."""
    found = summary(normal(200, 0.3), batch=1)
    assert found["stable"] is True
    assert "unsteady" not in found
    assert withheld(found) == found


def test_an_unsteady_one_is_refused_and_says_what_to_do() -> None:
    """A machine that is busy half of the time: the median is one or the other by chance."""
    draw = np.random.default_rng(0)
    rounds = [[value * (1 + index // 10 % 2)] for index, value in enumerate(draw.normal(10.0, 0.1, 60))]
    found = summary(rounds, batch=1)
    assert found["spread"] > WIDEST
    assert found["stable"] is False
    kept = withheld(found)
    assert not kept.keys() & {"p50", "p95", "p99", "min", "throughput"}
    assert "close other programs" in kept["refused"]
    assert "--seconds" in kept["refused"]


def test_too_few_rounds() -> None:
    """Seven equal times look certain; nothing is known of another moment."""
    assert summary([[10.0]] * FEWEST, batch=1)["stable"] is True
    found = withheld(summary([[10.0]] * (FEWEST - 1), batch=1))
    assert found["stable"] is False
    assert found["spread"] is None
    assert "too few" in found["refused"]


def test_it_is_the_same_in_every_call() -> None:
    """A verdict by chance: the same times are once quoted and once refused."""
    rounds = normal(50, 2.0)
    assert spread(rounds) == spread(rounds)
