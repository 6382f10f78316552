"""The words that every layer shares: batch, signal, output, preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

UNLABELLED = -1
"""The class index of a sample without a label. Supervised terms skip it, distilling terms use it."""

Batch = Mapping[str, Tensor]
"""What a data loader gives: `inputs` (batch, …), `labels` (batch,) int64 with -1 where unlabelled, and whatever
else the models take by name."""


@dataclass(frozen=True, slots=True)
class Signal(Mapping[str, Tensor]):
    """Named tensors that a model gives for a batch (`logits`, `layer3`, …), each with an optional mask.

    A mask is boolean, has the leading dimensions of its tensor, and is True where an item counts.
    """

    tensors: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class Output(NamedTuple):
    """What a Distiller gives for a batch: the loss to minimise, the student's logits, each term before its weight."""

    loss: Tensor
    logits: Tensor
    terms: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How pixels reach a model: `x = (pixels / 255 - mean) / std`, resized to `size`, with `channels` channels.

    `mean` and `std` have one value a channel; `size` is (height, width) in pixels.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
