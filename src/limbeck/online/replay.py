"""Samples that are learned from more than once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.online.sampling import Samples


class ReplayBuffer:
    """The latest sequences that a student drew, on the CPU.

    Args:
        size: how many; None keeps those of the last generation.
    """

    def __init__(self, size: int | None = None) -> None:
        self._size = size
        self._rows: deque[tuple[int, Tensor]] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, samples: Samples) -> None:
        """Takes in what was drawn; the oldest go."""
        if self._size is None:
            self._rows.clear()
        stops, prompts, ids = samples.stops.tolist(), samples.prompts.tolist(), samples.ids.cpu()
        self._rows.extend((prompts[row], ids[row, : stops[row]].clone()) for row in range(len(ids)))

    def draw(self, count: int, generator: torch.Generator) -> Samples:
        """`count` sequences at random: different ones where there are as many."""
        order = torch.randperm(len(self._rows), generator=generator).tolist()
        chosen = [self._rows[order[index % len(order)]] for index in range(count)]
        return _together(chosen)

    def state(self) -> Tensor:
        """All sequences as one row of whole numbers, int64."""
        parts = [torch.tensor([prompt, len(ids)]) for prompt, ids in self._rows]
        bodies = [ids for _, ids in self._rows]
        return torch.cat([each for pair in zip(parts, bodies, strict=True) for each in pair] or [torch.zeros(0).long()])

    def restore(self, state: Tensor) -> None:
        """Takes in what `state` gave, in place of what there is."""
        self._rows.clear()
        at = 0
        while at < len(state):
            prompt, length = state[at : at + 2].tolist()
            self._rows.append((prompt, state[at + 2 : at + 2 + length].clone()))
            at += 2 + length


def _together(rows: Sequence[tuple[int, Tensor]]) -> Samples:
    stops = torch.tensor([len(ids) for _, ids in rows])
    ids = torch.nn.utils.rnn.pad_sequence([ids for _, ids in rows], batch_first=True)
    return Samples(ids, torch.tensor([prompt for prompt, _ in rows]), stops)
