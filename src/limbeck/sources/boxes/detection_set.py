"""Pictures with boxes: whole batches, in a view in which boxes have moved with their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.errors import LimbeckError
from limbeck.pictures import Fit
from limbeck.sources.boxes.canvas import scales_of
from limbeck.sources.boxes.found import Found
from limbeck.sources.boxes.moves import BoxView, cut_off
from limbeck.sources.boxes.regions import Regions
from limbeck.sources.pixels import Images, normalise
from limbeck.sources.viewed import ViewedSet
from limbeck.sources.views import keys
from limbeck.types import UNLABELLED, Preprocessing

PADDING, CROWD = -1, -2
"""Classes of what is no object: a row that fills a batch up, and a region to be ignored."""

Taking = Literal["unlabelled", "all"]


class DetectionSet(ViewedSet):
    """One split of pictures with boxes, given a batch at a time.

    A batch is `inputs` float32 (batch, 3, height, width) normalised; `boxes` float32 (batch, most, 4) xyxy in pixels of
    the input, padded with zeros; `box_classes` (batch, most) int64, -1 for padding and -2 for a region to be ignored;
    `box_scores` float32 (batch, most), 1 for what people drew, a teacher's own score for what it found, 0 for padding;
    `labels` (batch,) int64, how many boxes a picture has, -1 where nobody said what is in it; `ids` and `views`
    (batch,) int64. There is room for one box at least. Give `collate_samples` to a DataLoader as `collate_fn`.

    Args:
        images: pictures of one size, by row.
        regions: what is in each row's picture, in pixels of the picture as it is on disk.
        sizes: (rows, 2) int64, heights and widths of the pictures on disk.
        labels: (n,) int64, -1 where a picture has no annotation, else how many boxes; None for as many as there are.
        ids: (n,) int64, the lasting names of the pictures.
        fit: how pictures were brought to their size.
        rows: (n,) int64, which row each picture is; in order, if not given.
    """

    def __init__(
        self,
        images: Images,
        regions: Regions,
        sizes: Tensor,
        ids: Tensor,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        *,
        fit: Fit = "letterbox",
        labels: Tensor | None = None,
        rows: Tensor | None = None,
        view: BoxView | None = None,
        seed: int = 0,
        name: str = "pictures",
    ) -> None:
        super().__init__(ids, name, view, seed)
        if not len(images) == len(regions) == len(sizes):
            raise LimbeckError(
                f"{name}: expected as many pictures as annotations and sizes, got {len(images)}, {len(regions)} and "
                f"{len(sizes)}"
            )
        self.view: BoxView | None
        self.classes = tuple(classes)
        self.preprocessing = preprocessing
        self.fit: Fit = fit
        self.sizes = sizes
        self._images = images
        self._rows = torch.arange(len(images)) if rows is None else rows
        self.labels = regions.counts()[self._rows] if labels is None else labels.long()
        self._drawn = regions
        self._scales = scales_of(sizes, preprocessing.size, fit)
        self._placed = regions.scaled(self._scales)
        self._found: Regions | None = None
        self._found_rows = torch.full_like(self.labels, -1)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        at = torch.as_tensor(indices)
        rows, ids, labels, number = self._rows[at], self.ids[at], self.labels[at], self.view_number
        regions = [self._shown(index) for index in at.tolist()]
        boxes = [each.boxes for each in regions]
        if self.view is None:
            inputs = self._images.normalised(rows, self.preprocessing)
        else:
            # What people drew decides what a view shows, not what is told of it.
            guides = [self._placed.of(row).boxes for row in rows.tolist()]
            seen, boxes = self.view(self._images.take(rows), boxes, keys(self.seed, number, ids.numpy()), guides)
            inputs = normalise(seen, self.preprocessing)
        corners, classes, scores = [], [], []
        for place, (each, moved) in enumerate(zip(regions, boxes, strict=True)):
            cut, ignored = (moved, each.crowds) if self.view is None else cut_off(moved, self.preprocessing.size)
            left = (cut[:, 2:] > cut[:, :2]).all(1)
            kinds = each.classes.masked_fill(each.crowds | ignored, CROWD)[left]
            corners.append(cut[left])
            classes.append(kinds)
            scores.append(each.scores[left])
            if labels[place] != UNLABELLED:
                labels[place] = int((kinds >= 0).sum())
        return {
            "inputs": inputs,
            "boxes": _padded(corners, 0.0),
            "box_classes": _padded(classes, PADDING),
            "box_scores": _padded(scores, 0.0),
            "labels": labels,
            "ids": ids,
            "views": torch.full((len(at),), number),
        }

    def _shown(self, index: int) -> Regions:
        """What a batch says is in a picture, in pixels of the input."""
        if self._found is not None and int(self._found_rows[index]) >= 0:
            return self._found.of(int(self._found_rows[index]))
        drawn = self._placed.of(int(self._rows[index]))
        return drawn if self.labels[index] != UNLABELLED else drawn.none()

    def truth(self, index: int) -> Regions:
        """What people drew into a picture, in its own pixels, whether it is shown or not."""
        return self._drawn.of(int(self._rows[index]))

    def size(self, index: int) -> tuple[int, int]:
        """The height and width of a picture as it is on disk."""
        height, width = self.sizes[int(self._rows[index])].tolist()
        return height, width

    def restored(self, index: int, boxes: Tensor) -> Tensor:
        """Boxes (boxes, 4) xyxy in pixels of the input, in those of the picture on disk, cut off at its edges."""
        height, width = self.size(index)
        scales = self._scales[int(self._rows[index])].to(boxes.dtype).repeat(2)
        return (boxes / scales).clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))

    def placed_box(self, index: int, boxes: Tensor) -> Tensor:
        """Boxes (boxes, 4) xyxy in pixels of the picture on disk, in those of the input."""
        return boxes * self._scales[int(self._rows[index])].to(boxes.dtype).repeat(2)

    def pixels(self, indices: NDArray[np.int64] | Tensor) -> Tensor:
        """uint8 (batch, 3, height, width) of these positions, without view and normalisation."""
        return self._images.take(self._rows[torch.as_tensor(indices)])

    def prepared_as(self) -> dict[str, Any]:
        """How the pixels are prepared, as plain values."""
        plain = asdict(self.preprocessing)
        return {name: list(each) if isinstance(each, tuple) else each for name, each in plain.items()} | {
            "fit": self.fit
        }

    def without_view(self) -> Self:
        """The same pictures as they are."""
        return self._changed(view=None, _count=None, _pinned=None)

    def with_preprocessing(self, preprocessing: Preprocessing) -> Self:
        """The same pictures normalised for another model. Raises LimbeckError when it asks for another size."""
        if (preprocessing.size, preprocessing.channels) != (self.preprocessing.size, 3):
            raise LimbeckError(
                f"{self.name}: pictures are 3×{self.preprocessing.size}, the preprocessing wants "
                f"{preprocessing.channels}×{preprocessing.size}; load the data with that size"
            )
        return self._changed(preprocessing=preprocessing)

    def subset(self, indices: NDArray[np.int64] | Tensor | Sequence[int], name: str | None = None) -> Self:
        """The pictures at these positions; pixels are shared, ids stay. Raises LimbeckError when there is none."""
        at, name = torch.as_tensor(indices, dtype=torch.int64), name or self.name
        if len(at) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one sample")
        per_picture = {key: getattr(self, key)[at] for key in ("ids", "labels", "_rows", "_found_rows")}
        return self._changed(name=name, **per_picture)

    def with_labels(self, mask: NDArray[np.bool_] | Tensor) -> Self:
        """The same pictures, with nobody having said what is in those where `mask` (n,) is False."""
        shown = torch.as_tensor(mask, dtype=torch.bool)
        return self._changed(labels=torch.where(shown, self.labels, torch.tensor(UNLABELLED)))

    def with_found(self, found: Found, pictures: Taking = "unlabelled") -> Self:
        """The same pictures, with the boxes that a teacher found in the place of what people drew: in those of which
        nobody said what is in them, or in `all`. What was not found in one of them is taken to be not there.

        Raises:
            LimbeckError: the teacher was not asked about one of these pictures.
        """
        asked = (self.labels == UNLABELLED) if pictures == "unlabelled" else torch.ones(len(self), dtype=torch.bool)
        place = {each: row for row, each in enumerate(found.ids.tolist())}
        at = torch.tensor([place.get(each, -1) for each in self.ids.tolist()])
        if bool((asked & (at < 0)).any()):
            missing = int(self.ids[asked & (at < 0)][0])
            raise LimbeckError(
                f"{self.name}: no boxes were found for the picture {missing}; let the teacher look again"
            )
        counts = found.regions.counts()[at.clamp(min=0)]
        return self._changed(
            labels=torch.where(asked, counts, self.labels),
            _found=found.regions,
            _found_rows=torch.where(asked, at, torch.tensor(-1)),
        )


def _padded(rows: list[Tensor], filling: float) -> Tensor:
    """(batch, most, …) from (boxes, …) for each picture, with room for one at least."""
    padded: Tensor = pad_sequence(rows, batch_first=True, padding_value=filling)
    if padded.shape[1] > 0:
        return padded
    return padded.new_full((len(rows), 1, *padded.shape[2:]), filling)
