"""How fast a model is on this machine, whatever runs it: PyTorch, ONNX Runtime or OpenVINO.

machine.py       what it is measured on        targets.py    what runs the model, as `onnxruntime:cpu:1`
subjects.py      a model by folder, file, name  inputs.py     what it is fed
runners.py       a model made ready to run      sessions.py   ONNX Runtime and OpenVINO, without PyTorch
timing.py        who runs when                  steadiness.py what may be said of the times
parity.py        are the answers the same       measure.py    all of it: rows
memory.py, energy.py                            what else it takes
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.bench.machine import processor
    from limbeck.bench.measure import bench
    from limbeck.bench.runners import Runner, eager, latency
    from limbeck.bench.subjects import Subject, open_subject
    from limbeck.bench.targets import Target

_HOMES = {
    "Runner": "runners",
    "Subject": "subjects",
    "Target": "targets",
    "bench": "measure",
    "eager": "runners",
    "latency": "runners",
    "open_subject": "subjects",
    "processor": "machine",
}

__all__ = ["Runner", "Subject", "Target", "bench", "eager", "latency", "open_subject", "processor"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: the process that measures memory must not load PyTorch for it."""
    if name in _HOMES:
        return getattr(import_module(f"limbeck.bench.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'limbeck.bench' has no attribute {name!r}")
