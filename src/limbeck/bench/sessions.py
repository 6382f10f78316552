"""ONNX Runtime and OpenVINO, as functions of numpy arrays. Nothing here imports PyTorch or anything of limbeck, so that
a process that runs an exported model takes the memory that it would take in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Its threads would wait busily for the next call, on the processors of the model whose turn it is.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"this build of ONNX Runtime has no {provider}; install onnxruntime-gpu")
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
