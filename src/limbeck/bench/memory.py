"""How much memory a model takes where it runs: measured in a fresh process that does nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.bench.onnx_files import read_onnx
from limbeck.bench.subjects import Subject
from limbeck.bench.targets import PYTORCH, Target
from limbeck.errors import LimbeckError
from limbeck.files import write_json
from limbeck.results import Measures

PASSES = 3
"""How often the model runs: the first pass makes buffers, the others show whether they are kept."""

PATIENCE = 600
"""Seconds that the process may take."""


def memory_of(subject: Subject, target: Target, batch: int, threads: int, file: Path | None) -> Measures:
    """`run_memory_bytes`: the most resident memory of a process that loads the model and runs it, its libraries
    included; `run_memory_model_bytes`: what of it came on top of the libraries. `file` is the .onnx file, if any.

    Raises:
        LimbeckError: the process failed, or the target is a GPU, whose memory no process has alone.
    """
    if target.device != "cpu":
        raise LimbeckError(f"{target}: memory is measured of models that run on the processor; leave --memory out")
    with tempfile.TemporaryDirectory(prefix="limbeck-") as name:
        folder = Path(name)
        job: dict[str, object] = {"passes": PASSES, "threads": threads}
        if target.runtime in PYTORCH:
            torch.save((subject.module, subject.inputs(batch)), folder / "module.pt")
            job |= {"kind": "module", "path": str(folder / "module.pt"), "compiled": target.runtime == "compiled"}
        else:
            assert file is not None
            made = subject.inputs(batch)
            arrays: dict[str, Any] = {of.name: made[of.name].numpy() for of in read_onnx(file).inputs}
            np.savez(folder / "arrays.npz", **arrays)
            job |= {
                "kind": "file", "path": str(file.resolve()), "arrays": str(folder / "arrays.npz"),
                "package": target.runtime.partition("-")[0], "precision": "f32" if "fp32" in target.runtime else "",
            }  # fmt: skip
        write_json(folder / "job.json", job)
        found = _ran(folder / "job.json", str(target))
    model = max(0, found["peak"] - found["before"])
    return {"run_memory_bytes": float(found["peak"]), "run_memory_model_bytes": float(model)}


def _ran(job: Path, what: str) -> dict[str, int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "limbeck.bench.alone", str(job)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise LimbeckError(f"{what}: memory was not measured: the process took more than {PATIENCE} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise LimbeckError(f"{what}: memory was not measured: the process failed ({last[0][:200]})")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found
