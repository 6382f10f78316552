"""What a time was measured on: the processor, and which of its instructions make low precision fast."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import psutil

CPUINFO = Path("/proc/cpuinfo")

FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16")
"""The flags that decide how fast fp32, bf16 and int8 are, of x86 and of Arm."""


def processor() -> str:
    """The name of this machine's processor."""
    return _line("model name") or platform.processor() or platform.machine()


def flags() -> str:
    """Which of `FLAGS` the processor has, with spaces between; empty where the system does not say."""
    has = set((_line("flags") or _line("Features")).split())
    return " ".join(flag for flag in FLAGS if flag in has)


class Others:
    """How many processors other programs used on average since this was made: what a steady time does not show."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def used(self) -> float:
        """From 0 to the number of processors, to a hundredth."""
        seconds = time.perf_counter() - self._start
        others = (_busy() - self._busy) - (_own() - self._own)
        return round(max(0.0, others / seconds), 2)


def _busy() -> float:
    """Seconds that all processors together have worked."""
    told = psutil.cpu_times()
    return float(sum(getattr(told, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal")))


def _own() -> float:
    """Seconds of it that were this process's."""
    told = psutil.Process().cpu_times()
    return float(told.user + told.system)


def _line(key: str) -> str:
    """The first value of `key` in the system's account of its processors; empty where there is none."""
    if not CPUINFO.exists():
        return ""
    for line in CPUINFO.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
