"""The energy that a pass takes, where the machine counts it: Intel's and AMD's RAPL, or a GPU's own counter.

Nothing is estimated from the time or a processor's data sheet: where there is no counter there is no number.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.bench.timing import Clock

POWERCAP = Path("/sys/class/powercap")

SECONDS = 1.0
"""How long a model runs for it at least: the counters go forward in steps of milliseconds."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A counter of joules that only grows; `source` is `rapl`, `nvml`, or `none`, which has no `read`.

    RAPL counts whole processors, whatever else runs on them.
    """

    source: str
    read: Callable[[], float] | None = None


def meter_of(device: str, folder: Path = POWERCAP) -> Meter:
    """The counter of a device (`cpu`, `cuda`), if this process may read one."""
    return _nvml() if device == "cuda" else _rapl(folder)


def joules_a_pass(
    run: Callable[[], object], meter: Meter, *, seconds: float = SECONDS, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """`energy_source`, and `joules` a pass where there is a counter; the model runs without pause for `seconds`."""
    if meter.read is None:
        return {"energy_source": meter.source}
    run()
    passes, start, before = 0, clock(), meter.read()
    while not passes or clock() - start < seconds:
        run()
        passes += 1
    return {"energy_source": meter.source, "joules": (meter.read() - before) / passes}


def _rapl(folder: Path) -> Meter:
    """The packages of all sockets together."""
    zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    counters = [_Counter(zone) for zone in zones if _readable(zone)]
    if not counters:
        return Meter("none")
    return Meter("rapl", lambda: sum(each.joules() for each in counters))


def _readable(zone: Path) -> bool:
    try:
        name = (zone / "name").read_text(encoding="utf-8").strip()
        int((zone / "energy_uj").read_text(encoding="utf-8"))
        int((zone / "max_energy_range_uj").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # on most systems only root may read it
        return False
    return name.startswith("package")


class _Counter:
    """One package's counter, which begins anew at its end."""

    def __init__(self, zone: Path) -> None:
        self._path = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text(encoding="utf-8"))
        self._last = self._read()
        self._total = 0

    def joules(self) -> float:
        """Since it was made."""
        now = self._read()
        self._total += (now - self._last) if now >= self._last else now + self._range - self._last
        self._last = now
        return self._total / 1e6

    def _read(self) -> int:
        return int(self._path.read_text(encoding="utf-8"))


def _nvml() -> Meter:
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no package, no driver, or a GPU that does not count: each has a class of its own
        return Meter("none")
    return Meter("nvml", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)
