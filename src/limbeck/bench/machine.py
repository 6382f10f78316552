"""What a time was measured on: the processor, and which of its instructions make low precision fast."""

from __future__ import annotations

import platform
from pathlib import Path

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


def _line(key: str) -> str:
    """The first value of `key` in the system's account of its processors; empty where there is none."""
    if not CPUINFO.exists():
        return ""
    for line in CPUINFO.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
