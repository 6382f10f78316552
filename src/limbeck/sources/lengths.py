"""The order of training samples that differ in length: those of a batch are about as long, so that little is padded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Sampler

POOL = 50
"""Batches that are cut from one sorted pool: enough that padding is rare, few enough that batches stay mixed."""


@runtime_checkable
class HasLengths(Protocol):
    """A data set that knows how long its samples are, (n,); those of a batch are padded to the longest."""

    @property
    def lengths(self) -> Tensor: ...


class ByLength(Sampler[int]):
    """A new order in each epoch, in which every `batch_size` samples in a row are about equally long.

    The samples are shuffled, cut into pools of `POOL` batches, each pool is sorted by length and cut into batches, and
    the full batches are shuffled. Which samples share a batch, and when it comes, is drawn again in each epoch; samples
    that fill no batch come last. The order is a function of `seed` and the epoch alone, so that a resumed training, or
    one on several processes, has the same.

    Args:
        lengths: of the samples, (n,).
        batch_size: samples of a step, over all processes and accumulated batches.
    """

    def __init__(self, lengths: Tensor, batch_size: int, *, seed: int = 0) -> None:
        self._lengths, self._batch_size, self._seed = lengths, batch_size, seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        draws = torch.Generator().manual_seed((self._seed << 20) + self._epoch)
        order = torch.randperm(len(self), generator=draws)
        pools = order.split(POOL * self._batch_size)
        by_length = torch.cat([pool[self._lengths[pool].argsort(stable=True)] for pool in pools])
        # Equal lengths keep the shuffled order, so data of one length is shuffled as ever.
        full = len(self) // self._batch_size
        # The samples too many are any, not the longest, which would otherwise never be seen where they are dropped.
        rest = torch.randperm(len(self), generator=draws)[: len(self) - full * self._batch_size]
        left = torch.ones(len(self), dtype=torch.bool).index_fill(0, rest, False)
        batches = by_length[left].view(full, self._batch_size)[torch.randperm(full, generator=draws)]
        yield from torch.cat([batches.flatten(), by_length[~left]]).tolist()
