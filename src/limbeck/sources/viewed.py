"""What all sets of pictures share: samples with lasting names, in a view that a number fixes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self, SupportsIndex

import torch
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.errors import LimbeckError


def _shared_zero() -> Tensor:
    return torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-any-return]


class ViewedSet(Dataset[dict[str, Tensor]], ABC):
    """Samples with `ids` (n,) int64, given a batch at a time, that may be seen through a `view`.

    What a batch holds is a pure function of the seed, the view's number and the sample's id. `mixing` is what mixes a
    sample with another, None in sets that do not mix.
    """

    def __init__(self, ids: Tensor, name: str, view: Any = None, seed: int = 0) -> None:
        if len(ids) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one sample")
        self.ids = ids.long()
        self.name = name
        self.view = view
        self.seed = seed
        self.mixing: Any = None
        self._count: int | None = None
        self._pinned: int | None = None
        # In shared memory, so that workers that live through all epochs see set_epoch too.
        self._epoch = _shared_zero()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index.__index__()]).items()}

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""

    @property
    def epoch(self) -> int:
        """The epoch that `set_epoch` has set last, 0 before."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Changes the view, in worker processes as well. A set without augmentation is the same in every epoch."""
        self._epoch.fill_(epoch)

    @property
    def view_count(self) -> int | None:
        """How many views a sample has: 1 without augmentation; None where each epoch shows a fresh one."""
        return 1 if self.view is None and self.mixing is None else self._count

    @property
    def view_number(self) -> int:
        """The number of the view that batches are now in."""
        if self._pinned is not None:
            return self._pinned
        count = self.view_count
        return self.epoch if count is None else self.epoch % count

    def with_view(self, view: Any, seed: int | None = None, count: int | None = None) -> Self:
        """The same samples seen through a view, starting at epoch 0.

        `seed` None keeps the set's own. With a `count`, epoch e shows view e modulo `count`, so that each sample
        has that many views; None shows a fresh one in every epoch. Both hold for mixing too. Raises LimbeckError
        for a count below 1.
        """
        if count is not None and count < 1:
            raise LimbeckError(f"{self.name}: expected a count of at least 1 view, got {count}; None is one an epoch")
        return self._changed(view=view, seed=self.seed if seed is None else seed, _count=count, _pinned=None)

    def in_view(self, number: int) -> Self:
        """The same samples in one view, whatever the epoch. Raises LimbeckError for a view that they do not have."""
        count = self.view_count
        if number < 0 or (count is not None and number >= count):
            have = "0 or above" if count is None else f"0 to {count - 1}"
            raise LimbeckError(
                f"{self.name}: expected a view from {have}, got {number}; with_view sets how many views there are"
            )
        return self._changed(_pinned=number)

    def _changed(self, **changes: object) -> Self:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        changed._epoch = _shared_zero()
        return changed
