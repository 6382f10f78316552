"""What a time was measured on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from limbeck.bench import machine
from limbeck.bench.machine import Others
from limbeck.bench.measure import disturbed
from limbeck.results import Row

INFO = """processor\t: 0
model name\t: Some CPU @ 2 GHz: fast
flags\t\t: fpu avx2 avx512_vnni amx_int8 avx2x

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


def test_name_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that only begins alike, or a name cut at its colon."""
    (tmp_path / "cpuinfo").write_text(INFO)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor() == "Some CPU @ 2 GHz: fast"
    assert machine.flags() == "avx2 avx512_vnni amx_int8"


def test_without_an_account_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems other than Linux."""
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert machine.processor()
    assert machine.flags() == ""


def test_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is measured would disturb itself."""
    seen = {"busy": 100.0, "own": 10.0, "now": 0.0}
    monkeypatch.setattr(machine, "_busy", lambda: seen["busy"])
    monkeypatch.setattr(machine, "_own", lambda: seen["own"])
    monkeypatch.setattr(time, "perf_counter", lambda: seen["now"])
    others = Others()
    seen.update(busy=108.0, own=14.0, now=4.0)
    assert others.used() == 1.0


def test_another_program_is_seen() -> None:
    """Against a program that works for a second; the system counts in hundredths."""
    others = Others()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert others.used() > 0


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A steady time of a machine that is always busy would pass for the model's."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    def row(threads: int, others: float) -> Row:
        return Row("a", 0, "last", {}, {}, {"threads": threads, "others": others})

    assert disturbed([row(1, 0.9)]) == ""
    assert "up to 1.9 of 2 processors" in disturbed([row(1, 1.9), row(2, 0.3)])
    assert disturbed([Row("refused", 0, "last", {}, {}, {"threads": 1})]) == ""
