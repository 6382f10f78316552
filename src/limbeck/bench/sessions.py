"""ONNX Runtime and OpenVINO, as functions of numpy arrays. Nothing here imports PyTorch, so that a process that runs
an exported model takes the memory that it would take in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.onnx_sessions import open_session

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A model file that is ready: `run` gives its outputs in their order, `precision` is what the runtime says it
    computes in (empty where the file decides)."""

    runtime: str
    run: Callable[[Arrays], Sequence[NDArray[Any]]]
    precision: str = ""


def onnxruntime_session(path: Path, *, device: str, threads: int) -> Session:
    """`path` in ONNX Runtime, one operator after another, on `threads` threads or on a GPU (`cuda`)."""
    import onnxruntime

    session = open_session(path, threads=threads, device=device)
    return Session(f"onnxruntime {onnxruntime.__version__}", lambda arrays: session.run(None, dict(arrays)))


def openvino_session(path: Path, *, threads: int, precision: str, shapes: Mapping[str, Sequence[int]]) -> Session:
    """`path` in OpenVINO on the processor, compiled for inputs of `shapes`; `precision` (`f32`) is what it is asked to
    compute in, empty: what it chooses."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape({name: list(shape) for name, shape in shapes.items()})
    wanted = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    compiled = core.compile_model(model, "CPU", {**settings, "INFERENCE_NUM_THREADS": threads, **wanted})
    request = compiled.create_infer_request()

    def run(arrays: Arrays) -> list[NDArray[Any]]:
        found = request.infer(dict(arrays), share_inputs=True, share_outputs=True)
        return [np.asarray(found[index]) for index in range(len(compiled.outputs))]

    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    named = {"f32": "fp32", "f16": "fp16"}.get(chosen, chosen)
    return Session(f"openvino {openvino.__version__.partition('-')[0]}", run, named)
