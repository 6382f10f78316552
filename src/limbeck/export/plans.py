"""What is exported of a model: its graphs, real inputs for them, and what a reader of the artifact has to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.artifact import PictureCard, TokenCard
from limbeck.models import forward_of
from limbeck.types import Batch

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """One graph: `module` is called with the tensors of `inputs`, which names them, and gives a tuple of `outputs`.

    `free` names the dimensions that may be of any size, by tensor and place; the first of every tensor is the batch.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    free: Mapping[str, Mapping[int, str]]

    def __call__(self, feeds: Batch) -> dict[str, Tensor]:
        """What PyTorch gives for the inputs."""
        return dict(zip(self.outputs, self.module(*(feeds[name] for name in self.inputs)), strict=True))


class Judge(Protocol):
    """How outputs are compared."""

    def __call__(self, expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        """How many predictions are the same, of how many."""


def as_they_are(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[Arrays, Arrays]:
    """All values of all outputs."""
    return expected, found


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is exported of a model, and how that is checked.

    Attributes:
        parts: the graphs, in the order in which they run; what one gives, the next may take.
        take: from places of the data to a batch of inputs.
        count: how many samples the data have.
        data: their name.
        judge: how many predictions of two outputs are the same.
        predictions: what a prediction is, for people: `classes`, `boxes`.
        compared: the values that count of the expected and the found outputs, in the same order.
    """

    parts: tuple[Part, ...]
    take: Callable[[Sequence[int]], Batch]
    count: int
    data: str
    judge: Judge
    predictions: str
    classes: tuple[str, ...] = ()
    pixels: PictureCard | None = None
    tokens: TokenCard | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    compared: Callable[[Arrays, Arrays, Arrays], tuple[Arrays, Arrays]] = as_they_are


class Signals(nn.Module):
    """A model called with tensors by place, which gives a tuple of its signals: what an exporter takes."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._run = forward_of(model)
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The signals in the order of the outputs."""
        signal = self._run(dict(zip(self._inputs, tensors, strict=True)))
        return tuple(signal[name] for name in self._outputs)


def of_signals(model: nn.Module, inputs: Mapping[str, Mapping[int, str]], outputs: Sequence[str]) -> Part:
    """The whole model as one graph; `inputs` names the free dimensions of each."""
    return Part("model", Signals(model, tuple(inputs), outputs).eval(), tuple(inputs), tuple(outputs), inputs)


def given_signals(model: nn.Module, feeds: Batch) -> frozenset[str]:
    """The names of what a model gives for a batch."""
    with torch.inference_mode():
        return frozenset(forward_of(model)(feeds))


def same_rows(expected: NDArray[Any], found: NDArray[Any]) -> tuple[int, int]:
    """How many of (n, …) rows are equal."""
    alike = (expected == found).reshape(len(expected), -1).all(1)
    return int(np.count_nonzero(alike)), len(alike)
