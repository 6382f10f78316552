"""Image sets: whole batches of labelled images, in a view and a mixture that the sample's key fixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.checks import labels_in_range
from limbeck.errors import LimbeckError
from limbeck.sources.mixing import Mixing, Pool, mixed_labels, mixing_keys
from limbeck.sources.pixels import Images, normalise
from limbeck.sources.viewed import ViewedSet
from limbeck.sources.views import View, keys
from limbeck.types import UNLABELLED, Preprocessing


@runtime_checkable
class Prepared(Protocol):
    """A split that knows how its samples reach a model."""

    def prepared_as(self) -> dict[str, Any]:
        """The preparation as plain values: two splits that say the same give the same for one sample."""


class ImageSet(ViewedSet):
    """One split of labelled images, given a batch at a time.

    A batch is `inputs` float32 (batch, channels, height, width) normalised; `labels` (batch,) int64 with -1
    where unlabelled; `ids` (batch,) int64, the sample's lasting name, the same in every split, subset and
    order; and `views` (batch,) int64, the number of the view that the inputs are in (0 without augmentation).
    The inputs are a pure function of seed, view number and id: an answer kept under (id, view) stays true. With
    mixing, `labels` are float32 (batch, classes), the share of each class, a row of -1 where either sample is
    unlabelled. Give `collate_samples` to a DataLoader as `collate_fn`.

    `labels` and `ids` are (n,) int64 and say what is in the set; `rows` (n,) int64 says where in `images`
    each one is (in order, if not given). Raises LimbeckError when the set is empty or a label is out of range.
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
                f"{name}: expected a label and an id for each image, got {len(rows)} images, {len(labels)} labels "
                f"and {len(ids)} ids"
            )
        labels_in_range(labels, len(classes), name)
        super().__init__(ids, name, view, seed)
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.labels = labels.long()
        self.mixing: Mixing | None = None
        self.view: View | None
        self._images = images
        self._rows = rows
        self._pool: Pool | None = None

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        at = torch.as_tensor(indices)
        number = self.view_number
        rows, labels, ids = self._rows[at], self.labels[at], self.ids[at]
        if self.mixing is None or self._pool is None:
            inputs = self._seen(rows, ids, number)
        else:
            drawn = mixing_keys(keys(self.seed, number, ids.numpy()))
            partners = self._pool.partners(drawn)
            both = self._seen(
                torch.cat([rows, self._pool.rows[partners]]), torch.cat([ids, self._pool.ids[partners]]), number
            )
            inputs, shares = self.mixing(both[: len(at)], both[len(at) :], drawn)
            labels = mixed_labels(labels, self._pool.labels[partners], shares, len(self.classes))
        return {"inputs": inputs, "labels": labels, "ids": ids, "views": torch.full((len(at),), number)}

    def _seen(self, rows: Tensor, ids: Tensor, number: int) -> Tensor:
        """The normalised inputs of `rows` (batch,), whose names are `ids` (batch,), in one view."""
        if self.view is None:
            return self._images.normalised(rows, self.preprocessing)
        viewed = self.view(self._images.take(rows), keys(self.seed, number, ids.numpy()))
        return normalise(viewed, self.preprocessing)

    def prepared_as(self) -> dict[str, Any]:
        """How the pixels are prepared, as plain values."""
        plain = asdict(self.preprocessing)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    def pixels(self, indices: NDArray[np.int64] | Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) of these positions, without view and normalisation."""
        return self._images.take(self._rows[torch.as_tensor(indices)])

    def with_mixing(
        self, mixing: Mixing | None, pool: NDArray[np.int64] | Tensor | Sequence[int] | None = None
    ) -> ImageSet:
        """The same samples, each mixed with a partner from `pool`; None mixes no more.

        `pool` holds ids of this set, all of them if not given. Subsets made later draw from the same pool. What
        is kept under (id, view) stays true as long as the pool holds the same ids: to replay answers on data to
        which samples were added, give the ids that the answers were made with. Raises LimbeckError for an id that
        is not in the set.
        """
        if mixing is None:
            return self._changed(mixing=None, _pool=None)
        wanted = self.ids if pool is None else torch.as_tensor(pool)
        return self._changed(mixing=mixing, _pool=Pool.of(wanted, self.ids, self._rows, self.labels, self.name))

    def without_view(self) -> ImageSet:
        """The same samples as they are, neither augmented nor mixed, for evaluation."""
        return self._changed(view=None, mixing=None, _pool=None, _count=None, _pinned=None)

    def with_preprocessing(self, preprocessing: Preprocessing) -> ImageSet:
        """The same samples normalised for another model. Raises LimbeckError when it asks for another shape."""
        if (preprocessing.size, preprocessing.channels) != (self.preprocessing.size, self.preprocessing.channels):
            raise LimbeckError(
                f"{self.name}: images are {self.preprocessing.channels}×{self.preprocessing.size}, the preprocessing "
                f"wants {preprocessing.channels}×{preprocessing.size}; load the data with that size"
            )
        return self._changed(preprocessing=preprocessing)

    def subset(self, indices: NDArray[np.int64] | Tensor | Sequence[int], name: str | None = None) -> ImageSet:
        """The samples at these positions; pixels are shared, ids stay. Raises LimbeckError when there is none."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        name = name or self.name
        if len(at) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one sample")
        return self._changed(_rows=self._rows[at], labels=self.labels[at], ids=self.ids[at], name=name)

    def with_labels(self, mask: NDArray[np.bool_] | Tensor) -> ImageSet:
        """The same samples with the labels hidden (-1) where `mask` (n,) is False, as partners too."""
        shown = torch.as_tensor(mask, dtype=torch.bool)
        pool = None if self._pool is None else self._pool.without_labels(self.ids[~shown])
        return self._changed(labels=torch.where(shown, self.labels, torch.tensor(UNLABELLED)), _pool=pool)
