"""Energy from counters, and none where there is no counter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.bench.energy import Meter, joules_a_pass, meter_of

RANGE = 1_000_000


def zone(folder: Path, number: int, name: str, microjoules: int) -> Path:
    """A counter as Linux shows it."""
    place = folder / f"intel-rapl:{number}"
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    return place


def test_no_counter_gives_no_number(tmp_path: Path) -> None:
    """An estimate that looks measured."""
    meter = meter_of("cpu", tmp_path)
    assert joules_a_pass(lambda: None, meter) == {"energy_source": "none"}


def test_a_counter_that_may_not_be_read(tmp_path: Path) -> None:
    """Only root may on most systems: a traceback. (A folder in its place, as tests may run as root.)"""
    place = zone(tmp_path, 0, "package-0", 5)
    (place / "energy_uj").unlink()
    (place / "energy_uj").mkdir()
    assert meter_of("cpu", tmp_path).source == "none"


def test_sockets_are_added_and_counters_wrap(tmp_path: Path) -> None:
    """One socket of two, the whole machine's `psys` counted again, or a negative energy after the counter's end."""
    first, second = zone(tmp_path, 0, "package-0", 900_000), zone(tmp_path, 1, "package-1", 0)
    zone(tmp_path, 2, "psys", 0)
    meter = meter_of("cpu", tmp_path)
    assert meter.source == "rapl"
    assert meter.read is not None
    (first / "energy_uj").write_text("100000")  # 200,000 more, over the end
    (second / "energy_uj").write_text("300000")
    assert meter.read() == pytest.approx(0.5)
    (first / "energy_uj").write_text("150000")
    assert meter.read() == pytest.approx(0.55)


def test_joules_of_a_pass() -> None:
    """The first pass's energy, or that of all passes together."""
    state = {"now": 0.0, "joules": 7.0}

    def run() -> None:
        state["now"] += 0.1
        state["joules"] += 2.5

    def of(key: str) -> Callable[[], float]:
        return lambda: state[key]

    found = joules_a_pass(run, Meter("rapl", of("joules")), seconds=1.0, clock=of("now"))
    assert found == {"energy_source": "rapl", "joules": pytest.approx(2.5)}
    assert state["now"] == pytest.approx(1.1, abs=0.11)
