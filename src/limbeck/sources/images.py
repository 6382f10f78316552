"""Image sets: whole batches from pixels in memory, or decoded on the way, in a view that a key fixes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms.v2 import functional

from limbeck.checks import LimbeckError, labels_in_range
from limbeck.sources.views import View, keys
from limbeck.types import UNLABELLED, Preprocessing

NORMALISED_LIMIT = 1_000_000_000
"""Bytes of float32 pixels up to which a set is normalised once instead of in every batch."""


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """`(pixels / 255 - mean) / std` as float32, from uint8 (batch, channels, height, width)."""
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, dtype=torch.float64).view(-1, 1, 1)
    # Two rounded steps: a fused one may round otherwise in the tail of a batch, and a sample's place must not
    # matter.
    return pixels.float().mul_((1 / (255 * std)).float()).add_((-mean / std).float())


def resize(pixels: Tensor, size: int) -> Tensor:
    """uint8 (…, height, width) with the shorter side brought to `size`, the middle (size, size) cut out."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    resized: Tensor = functional.center_crop(functional.resize(pixels, [size], antialias=True), [size, size])
    return resized


def _shared_zero() -> Tensor:
    return torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-any-return]


class Images(Protocol):
    """Images by row number, wherever they are."""

    @property
    def kept(self) -> bool:
        """Whether taking an image costs only a copy."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) of `rows` (batch,) int64."""

    def normalised(self, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 (batch, channels, height, width) of `rows`, normalised."""


class InMemory:
    """Images held as one uint8 tensor (n, channels, height, width)."""

    def __init__(self, pixels: Tensor) -> None:
        if pixels.ndim != 4 or pixels.dtype != torch.uint8:
            raise LimbeckError(
                f"images: expected uint8 (n, channels, height, width), got {pixels.dtype} "
                f"{tuple(pixels.shape)}; convert them first"
            )
        self.pixels = pixels
        self._normalised: tuple[Preprocessing, Tensor] | None = None

    @property
    def kept(self) -> bool:
        """True: taking an image costs only a copy."""
        return True

    def __len__(self) -> int:
        return len(self.pixels)

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker gets the small pixels, not the floats as well.
        return {**self.__dict__, "_normalised": None}

    def take(self, rows: Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) of `rows` (batch,) int64."""
        return self.pixels.index_select(0, rows)

    def normalised(self, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 (batch, channels, height, width) of `rows`; all are normalised once where memory allows."""
        if self._normalised is None or self._normalised[0] != preprocessing:
            # A worker would keep its own floats, once a worker; there the batch alone is cheaper.
            if 4 * self.pixels.numel() > NORMALISED_LIMIT or get_worker_info() is not None:
                return normalise(self.take(rows), preprocessing)
            self._normalised = (preprocessing, normalise(self.pixels, preprocessing))
        return self._normalised[1].index_select(0, rows)


class Resized:
    """Images in memory, resized when a batch takes them: for sizes at which all would not fit."""

    def __init__(self, pixels: Tensor, size: int) -> None:
        self.pixels = pixels
        self.size = size

    @property
    def kept(self) -> bool:
        """False: taking an image resizes it."""
        return False

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Tensor) -> Tensor:
        """uint8 (batch, channels, size, size) of `rows` (batch,) int64."""
        return resize(self.pixels.index_select(0, rows), self.size)

    def normalised(self, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 (batch, channels, size, size) of `rows`, normalised."""
        return normalise(self.take(rows), preprocessing)


class ImageSet(Dataset[dict[str, Tensor]]):
    """One split of labelled images, given a batch at a time.

    A batch is `inputs` float32 (batch, channels, height, width) normalised, `labels` (batch,) int64 with -1
    where unlabelled, and `ids` (batch,) int64: the sample's lasting name, the same in every split, subset and
    order. Give `collate_samples` to a DataLoader as `collate_fn`.

    `labels` and `ids` are (n,) int64 and say what is in the set; `rows` (n,) int64 says where in `images`
    each one is (in order, if not given). `seed` and the epoch choose the view. Raises LimbeckError when the
    set is empty or a label is out of range.
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        ids: Tensor,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        *,
        rows: Tensor | None = None,
        view: View | None = None,
        seed: int = 0,
        name: str = "images",
    ) -> None:
        rows = torch.arange(len(images)) if rows is None else rows
        if len(rows) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one sample")
        if not len(rows) == len(labels) == len(ids):
            raise LimbeckError(
                f"{name}: expected a label and an id for each image, got {len(rows)} images, {len(labels)} "
                "labels "
                f"and {len(ids)} ids"
            )
        labels_in_range(labels, len(classes), name)
        self.name = name
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.labels = labels.long()
        self.ids = ids.long()
        self.view = view
        self.seed = seed
        self._images = images
        self._rows = rows
        # In shared memory, so that workers that live through all epochs see set_epoch too.
        self._epoch = _shared_zero()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index.__index__()]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        at = torch.as_tensor(indices)
        rows, ids = self._rows[at], self.ids[at]
        if self.view is None:
            inputs = self._images.normalised(rows, self.preprocessing)
        else:
            viewed = self.view(self._images.take(rows), keys(self.seed, self.epoch, ids.numpy()))
            inputs = normalise(viewed, self.preprocessing)
        return {"inputs": inputs, "labels": self.labels[at], "ids": ids}

    @property
    def epoch(self) -> int:
        """The number of the view that batches are now in."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Changes the view, in worker processes as well. A set without a view is the same in every epoch."""
        self._epoch.fill_(epoch)

    def pixels(self, indices: NDArray[np.int64] | Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) of these positions, without view and normalisation."""
        return self._images.take(self._rows[torch.as_tensor(indices)])

    def with_view(self, view: View | None, seed: int | None = None) -> ImageSet:
        """The same samples seen through a view, starting at epoch 0; `seed` None keeps the set's own."""
        return self._changed(view=view, seed=self.seed if seed is None else seed)

    def without_view(self) -> ImageSet:
        """The same samples as they are, for evaluation."""
        return self._changed(view=None)

    def with_preprocessing(self, preprocessing: Preprocessing) -> ImageSet:
        """The same samples normalised for another model. Raises LimbeckError when it asks for another
        shape."""
        if (preprocessing.size, preprocessing.channels) != (
            self.preprocessing.size,
            self.preprocessing.channels,
        ):
            raise LimbeckError(
                f"{self.name}: images are {self.preprocessing.channels}×{self.preprocessing.size}, the "
                "preprocessing "
                f"wants {preprocessing.channels}×{preprocessing.size}; load the data with that size"
            )
        return self._changed(preprocessing=preprocessing)

    def subset(self, indices: NDArray[np.int64] | Tensor | Sequence[int], name: str | None = None) -> ImageSet:
        """The samples at these positions; pixels are shared, ids stay. Raises LimbeckError when there is
        none."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        name = name or self.name
        if len(at) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one sample")
        return self._changed(_rows=self._rows[at], labels=self.labels[at], ids=self.ids[at], name=name)

    def with_labels(self, mask: NDArray[np.bool_] | Tensor) -> ImageSet:
        """The same samples with the labels hidden (-1) where `mask` (n,) is False."""
        shown = torch.as_tensor(mask, dtype=torch.bool)
        return self._changed(labels=torch.where(shown, self.labels, torch.tensor(UNLABELLED)))

    def _changed(self, **changes: object) -> ImageSet:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        changed._epoch = _shared_zero()
        return changed
