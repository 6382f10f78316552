"""A module as a temporary .onnx file, for runtimes that read one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.export.graphs import need_libraries, write_graph
from limbeck.export.plans import of_signals
from limbeck.models import forward_of
from limbeck.types import Batch


def to_onnx(module: nn.Module, batch: Batch, path: Path, name: str) -> Path:
    """Writes `module` to `path` for inputs of exactly the shapes of `batch`.

    Raises:
        LimbeckError: it cannot be exported, or a package is missing.
    """
    need_libraries()
    with torch.no_grad():
        outputs = tuple(forward_of(module)(batch))
    part = of_signals(module, {each: {} for each in batch}, outputs)
    try:
        write_graph(part, batch, path, static=True)
    except LimbeckError as error:
        raise LimbeckError(f"{name}: {error}; measure it with eager or compiled, or give an .onnx file of it") from None
    return path
