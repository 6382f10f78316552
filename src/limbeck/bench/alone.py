"""A process that loads one model, runs it, and says how much memory that took: `python -m limbeck.bench.alone JOB`.

JOB is a JSON file; see `limbeck.bench.memory`. An exported model is run without PyTorch, as it would be in use.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(job: dict[str, Any]) -> dict[str, int]:
    """Runs a job and gives `peak`, the most resident memory of this process while it loaded and ran the model, and
    `before`, what the libraries alone took."""
    load = _module(job) if job["kind"] == "module" else _file(job)
    before = _resident()
    if RESET.exists():
        RESET.write_text("5")  # forgets the peak of the imports
    run = load()
    for _ in range(job["passes"]):
        run()
    return {"peak": _peak(), "before": before}


def _file(job: dict[str, Any]) -> Callable[[], Callable[[], object]]:
    import numpy as np

    from limbeck.bench.sessions import onnxruntime_session, openvino_session

    __import__(job["package"])
    arrays = dict(np.load(job["arrays"]))

    def load() -> Callable[[], object]:
        path, threads = Path(job["path"]), job["threads"]
        if job["package"] == "onnxruntime":
            session = onnxruntime_session(path, device="cpu", threads=threads)
        else:
            shapes = {name: array.shape for name, array in arrays.items()}
            session = openvino_session(path, threads=threads, precision=job["precision"], shapes=shapes)
        return lambda: session.run(arrays)

    return load


def _module(job: dict[str, Any]) -> Callable[[], Callable[[], object]]:
    import torch

    from limbeck.models import forward_of

    torch.set_num_threads(job["threads"])

    def load() -> Callable[[], object]:
        # Written by the process that started this one.
        module, batch = torch.load(job["path"], weights_only=False)
        forward = forward_of(module)
        run = torch.compile(forward, dynamic=False) if job["compiled"] else forward

        def once() -> object:
            with torch.inference_mode():
                return run(batch)

        return once

    return load


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    """Not getrusage's on Linux: what a process had before it became this program counts there."""
    if STATUS.exists():
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import psutil

    told = psutil.Process().memory_info()
    return int(getattr(told, "peak_wset", told.rss))


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
