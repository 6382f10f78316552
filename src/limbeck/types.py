"""The words that every layer shares: batch, signal, output, preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

UNLABELLED = -1
"""The class index of a sample without a label. Supervised terms skip it, distilling terms use it."""

Batch = Mapping[str, Tensor]
"""What a data loader gives: `inputs` (batch, …), `labels` (batch,) int64 with -1 where unlabelled, and whatever
else the models take by name."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """Logits that are never written down: `softcap(scale · (hidden @ weight.T + bias))`, one row an item.

    `hidden` (items, width), `weight` (vocabulary, width), `bias` (vocabulary,) or None. `softcap` c bends logits to
    c · tanh(z / c), after the scale.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


def dense_logits(head: LinearHead) -> Tensor:
    """The logits of a head, (items, vocabulary), written down."""
    logits = torch.nn.functional.linear(head.hidden, head.weight, head.bias)
    if head.scale != 1.0:
        logits = logits * head.scale
    return logits if head.softcap is None else torch.tanh(logits / head.softcap) * head.softcap


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The k largest of a teacher's probabilities at `temperature`, and what is left of the mass.

    `ids` (items, k) int64; `log_probs` (items, k), in nats, under the softmax over the whole vocabulary; `log_tail`
    (items,), the logarithm of the mass outside `ids` (−inf where none is left).
    """

    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """Draws from a teacher's distribution at `temperature`: an unbiased estimate of its probabilities.

    `ids` (items, k) int64, which may repeat; `shares` (items, k), which add up to 1: of k draws each has 1 / k;
    `entropy` (items,): the distribution's own, in nats.
    """

    ids: Tensor
    shares: Tensor
    entropy: Tensor
    temperature: float = 1.0


Target = Tensor | LinearHead | TopK | Sampled
"""What a teacher's logits may come as."""


@dataclass(frozen=True, slots=True)
class Signal(Mapping[str, Tensor]):
    """Named tensors that a model gives for a batch (`logits`, `layer3`, …), each with an optional mask.

    A mask is boolean, has the leading dimensions of its tensor, and is True where an item counts. `targets` holds
    logits that are not a dense tensor.
    """

    tensors: Mapping[str, Tensor]
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    targets: Mapping[str, LinearHead | TopK | Sampled] = field(default_factory=dict)

    def target(self, name: str) -> Target:
        """The signal in whichever form it came."""
        return self.targets[name] if name in self.targets else self.tensors[name]

    def __getitem__(self, name: str) -> Tensor:
        if name in self.targets:
            raise KeyError(f"{name} came as {type(self.targets[name]).__name__}, not as a tensor; see Signal.target")
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class Output(NamedTuple):
    """What a Distiller gives for a batch: the loss to minimise, the student's logits (None where they were only made
    in chunks), each term before its weight."""

    loss: Tensor
    logits: Tensor | None
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
