"""A module as an .onnx file, for runtimes that read one."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models import forward_of
from limbeck.types import Batch


class _Graph(nn.Module):
    """A model as a function of its inputs in order, which gives its signals in order."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The tensors that the model gives."""
        return tuple(forward_of(self.model)(dict(zip(self._names, inputs, strict=True))).values())


def to_onnx(module: nn.Module, batch: Batch, path: Path, name: str) -> Path:
    """Writes `module` to `path` for inputs of exactly the shapes of `batch`, with torch.onnx.export.

    Raises:
        LimbeckError: torch cannot export it, or a package is missing.
    """
    names = tuple(batch)
    with torch.no_grad():
        outputs = tuple(forward_of(module)(batch))
    graph = _Graph(module, names).eval()
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                graph, tuple(batch.values()), str(path),
                input_names=list(names), output_names=[f"{each}_out" if each in names else each for each in outputs],
                dynamo=True, verbose=False,
            )  # fmt: skip
    except ModuleNotFoundError as error:
        raise LimbeckError(f'{name}: to export it needs {error.name}: pip install "limbeck[onnx]"') from None
    except Exception as error:  # the exporter raises whatever its steps raise
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise LimbeckError(
            f"{name}: torch.onnx.export cannot write it as ONNX ({first.strip()[:200]}); measure it with eager or "
            "compiled, or give an .onnx file of it"
        ) from None
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress, warnings and advice to itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
