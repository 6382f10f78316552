"""What the benchmarks share: interleaved timing, a table, and a JSON file."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from limbeck.bench import processor


def interleaved(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round: one after another within a round, so that a slow moment of the machine meets
    all of them. The first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            taken = run()
            if round_:
                seconds[name].append(taken)
    return seconds


def timed(step: Callable[[], object], count: int) -> float:
    """Seconds a call of `step`, over `count` calls."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def ratio(seconds: Mapping[str, list[float]], ours: str, bare: str) -> float:
    """The median over rounds of ours ÷ bare."""
    return statistics.median(a / b for a, b in zip(seconds[ours], seconds[bare], strict=True))


def machine(threads: int) -> str:
    """The machine in a line, with torch's threads set."""
    torch.set_num_threads(threads)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return f"{device}, torch {torch.__version__}, {threads} threads, fp32"


def write(path: Path, result: Any) -> None:
    """Writes the figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
