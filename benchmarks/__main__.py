"""All of speed and memory as one table and one JSON file: `make bench`.

    python -m benchmarks [--json FILE]

Runs step_time, memory and store_io, each in a process of its own with its defaults, then prints every figure that has a
ratio: what limbeck takes divided by what bare PyTorch takes in the same run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import write

PARTS = ("step_time", "memory", "store_io")


def figures(part: str, found: dict[str, Any]) -> list[tuple[str, float, float | None]]:
    """What is measured, the ratio, and what to stay below where that is set."""
    if part == "step_time":
        return [
            (f"step: {job}, {name}", value, row["bars"][name])
            for job, row in found["jobs"].items()
            for name, value in row["ratios"].items()
        ]
    if part == "memory":
        own = {way: row for way, row in found["ways"].items() if row["peak_ratio"] != 1.0}
        peaks = [(f"memory of the loss: {way}", row["peak_ratio"], 0.125) for way, row in own.items()]
        return peaks + [(f"time of the loss: {way}", row["time_ratio"], 1.1) for way, row in own.items()]
    return [(f"reading: {case}", row["read_ratio"], None) for case, row in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/all.json"))
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in PARTS:
            path = Path(folder) / f"{part}.json"
            subprocess.run([sys.executable, "-m", f"benchmarks.{part}", "--json", str(path)], check=True)
            found[part] = json.loads(path.read_text(encoding="utf-8"))
            print()
    print(f"{'limbeck ÷ bare PyTorch':72}{'ratio':>8}{'bar':>8}")
    for part, result in found.items():
        for name, value, bar in figures(part, result):
            print(f"{name:72}{value:8.2f}" + (f"{bar:8.2f}" if bar is not None else ""))
    write(options.json, found)


if __name__ == "__main__":
    main()
