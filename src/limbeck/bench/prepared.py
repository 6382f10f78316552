"""A subject on a target: from what a model is to a runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from limbeck.bench.machine import processor
from limbeck.bench.onnx_files import read_onnx
from limbeck.bench.runners import Answers, Runner, compiled, eager, on_cuda, torch_threads
from limbeck.bench.sessions import Session, onnxruntime_session, openvino_session
from limbeck.bench.subjects import Subject
from limbeck.bench.targets import PYTORCH, Target
from limbeck.errors import LimbeckError
from limbeck.models import forward_of
from limbeck.types import Batch

INSTALL = {"onnxruntime": "onnx", "openvino": "openvino"}
"""The extra that has a runtime."""


def runner_of(subject: Subject, target: Target, batch: int, threads: int, file: Callable[[], Path]) -> Runner:
    """`subject` ready to run on `target`; `file` gives the .onnx file of a module where the runtime reads one.

    Raises:
        LimbeckError: the runtime is missing, cannot load the model, or runs no files.
    """
    made = subject.inputs(batch)
    if target.runtime in PYTORCH:
        if subject.module is None:
            raise LimbeckError(
                f"{subject.name}: {target.runtime} runs PyTorch models, this is an .onnx file; measure it on "
                "onnxruntime or openvino"
            )
        module = subject.module
        if target.device == "cuda":
            module, made = on_cuda(module, made)
        with torch_threads(threads):
            prepare = eager if target.runtime == "eager" else compiled
            return prepare(module, forward_of(module), made, threads=threads)
    path = subject.file or file()
    session = opened(subject.name, target, path, threads, made)
    arrays = _fed(path, made)
    return Runner(
        runtime=session.runtime,
        device=processor() if target.device == "cpu" else _gpu(),
        precision=_precision(subject, session),
        threads=threads,
        batch=batch,
        run=lambda: session.run(arrays),
        read=lambda outputs: [each.copy() for each in outputs],
    )


def opened(name: str, target: Target, path: Path, threads: int, made: Batch) -> Session:
    """The .onnx file at `path` in the target's runtime, for inputs like those `made`."""
    package = target.runtime.partition("-")[0]
    try:
        if package == "onnxruntime":
            return onnxruntime_session(path, device=target.device, threads=threads)
        precision = "f32" if target.runtime.endswith("fp32") else ""
        shapes = {key: value.shape for key, value in _fed(path, made).items()}
        return openvino_session(path, threads=threads, precision=precision, shapes=shapes)
    except ImportError:
        raise LimbeckError(f'{target}: needs {package}: pip install "limbeck[{INSTALL[package]}]"') from None
    except LimbeckError:
        raise
    except Exception as error:  # OpenVINO has classes of its own
        raise LimbeckError(f"{name}: {package} cannot load it ({_line(error)})") from None


def _fed(path: Path, made: Batch) -> dict[str, Any]:
    """The inputs that the file has; an exporter leaves out those that the model does not read."""
    return {each.name: made[each.name].numpy() for each in read_onnx(path).inputs}


def _precision(subject: Subject, session: Session) -> str:
    """The file's precision, unless the runtime computes floating point in another."""
    stored = subject.precision or "fp32"
    if not session.precision or session.precision in stored or session.precision == "dynamic":
        return stored
    return session.precision if stored == "fp32" else f"{stored}, else {session.precision}"


def answers_of(runner: Runner, name: str) -> Answers:
    """What a runner answers.

    Raises:
        LimbeckError: it fails while it runs, as some files do that were loaded.
    """
    try:
        with torch_threads(runner.threads):
            return runner.read(runner.run())
    except Exception as error:  # each runtime has classes of its own, and so has what compiles
        raise LimbeckError(f"{name}: {runner.runtime} loads it and fails while it runs it ({_line(error)})") from None


def _gpu() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cuda"


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
