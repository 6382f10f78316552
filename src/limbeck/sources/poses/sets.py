"""Pose sets: whole batches of crops around people or animals, with their joints, in a view that a key fixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.pictures import Placement
from limbeck.sources.pixels import normalise
from limbeck.sources.poses.annotations import Floats, Integers, Poses
from limbeck.sources.poses.pictures import Pictures
from limbeck.sources.poses.skeletons import Skeleton
from limbeck.sources.poses.views import PoseView, coloured, placed
from limbeck.sources.viewed import ViewedSet
from limbeck.sources.views import keys
from limbeck.types import UNLABELLED, Preprocessing

MeasuredBy = str | tuple[int, int]
"""What distances are measured by: `box`, `joints`, or the places of two joints; see `limbeck.metrics.poses`."""

ANNOTATED = 1
"""The label of a pose whose joints are known."""


class PoseSet(ViewedSet):
    """One split of poses, each the crop around its box, given a batch at a time.

    A batch is `inputs` float32 (batch, channels, height, width) normalised; `keypoints` float32 (batch, joints, 3): x
    and y in pixels of the input, the middle of the first being (0, 0), and 1 where the joint is annotated and in the
    crop, else all 0; `labels` (batch,) int64, 1 where joints are annotated at all and -1 where they are not; `ids` and
    `views` (batch,) int64 as of an ImageSet.

    Args:
        poses: of all splits that share pictures, or of this one.
        at: (n,) int64, which of `poses` are in the set; none that is ignored.
        pictures: the pictures of `poses`.
        padding: how much larger a crop is than its box.
        measured_by: what the distances of joints are measured by.

    Raises:
        LimbeckError: the set is empty.
    """

    def __init__(
        self,
        poses: Poses,
        at: Integers,
        pictures: Pictures,
        skeleton: Skeleton,
        preprocessing: Preprocessing,
        *,
        padding: float = 1.25,
        measured_by: MeasuredBy = "box",
        name: str = "poses",
    ) -> None:
        super().__init__(torch.from_numpy(poses.ids[at]), name)
        self.poses = poses
        self.skeleton = skeleton
        self.classes = skeleton.joints
        self.preprocessing = preprocessing
        self.padding = padding
        self.measured_by = measured_by
        self.at = at
        self.labels = torch.full((len(at),), ANNOTATED)
        self.view: PoseView | None
        self.pictures = pictures

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        chosen = torch.as_tensor(indices)
        at, ids, labels, number = self.at[chosen.numpy()], self.ids[chosen], self.labels[chosen], self.view_number
        drawn = keys(self.seed, number, ids.numpy())
        place = placed(self.poses.boxes[at], self.preprocessing.size, self.padding, self.view, drawn)
        pixels = self._cut(at, place)
        if self.view is not None:
            pixels = coloured(pixels, self.view, drawn)
        return {
            "inputs": normalise(pixels, self.preprocessing),
            "keypoints": self._joints(at, place) * (labels != UNLABELLED).view(-1, 1, 1),
            "labels": labels,
            "ids": ids,
            "views": torch.full((len(at),), number),
        }

    def _cut(self, at: Integers, place: Placement) -> Tensor:
        return self.pictures.cut(self.poses.rows[at], place.matrices, place.size, place.factors)

    def _joints(self, at: Integers, place: Placement) -> Tensor:
        """(batch, joints, 3) float32 in the crop."""
        height, width = place.size
        xyv = self.poses.joints[at]
        xy, known = place.to_crop(xyv[..., :2]), xyv[..., 2] > 0
        order = np.where(place.mirrored[:, None], np.array(self.skeleton.mirrored), np.arange(len(self.skeleton)))
        xy, known = np.take_along_axis(xy, order[..., None], 1), np.take_along_axis(known, order, 1)
        inside = ((xy >= -0.5) & (xy <= np.array([width, height]) - 0.5)).all(-1)
        seen = known & inside
        return torch.from_numpy(np.concatenate([xy * seen[..., None], seen[..., None]], 2).astype(np.float32))

    def prepared_as(self) -> dict[str, Any]:
        """How the crops are prepared, as plain values."""
        plain = asdict(self.preprocessing) | {"padding": self.padding}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    def in_pictures(self, joints: NDArray[np.floating[Any]]) -> Floats:
        """Joints (n, joints, 2) in pixels of the inputs of all samples, without a view, in pixels of their pictures."""
        return self._placed(self.at).to_picture(joints.astype(np.float64))

    def _placed(self, at: Integers) -> Placement:
        return placed(self.poses.boxes[at], self.preprocessing.size, self.padding)

    def references(self) -> dict[str, NDArray[Any]]:
        """The truth in pixels of the pictures, as `limbeck.metrics.TruePoses` takes it; it does not hide labels.

        First the samples in their order, then all that is ignored in their pictures.
        """
        poses = self.poses
        also = np.flatnonzero(poses.ignored & np.isin(poses.rows, poses.rows[self.at]))
        every = np.concatenate([self.at, also])
        ignored = np.arange(len(every)) >= len(self.at)
        return {
            "joints": poses.joints[every],
            "boxes": poses.boxes[every],
            "areas": poses.areas[every],
            "pictures": poses.rows[every],
            "ignored": ignored,
            "crowds": poses.crowds[every] & ignored,
        }

    def shown(self, index: int, side: int) -> tuple[NDArray[np.uint8], Placement]:
        """A sample's crop for people to look at, uint8 (height, width, 3), `side` pixels on its longer side, and where
        it lies in the picture."""
        height, width = self.preprocessing.size
        size = (round(height * side / max(height, width)), round(width * side / max(height, width)))
        at = self.at[index : index + 1]
        place = placed(self.poses.boxes[at], size, self.padding)
        pixels = self._cut(at, place)[0].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), place

    def picture(self, index: int) -> str:
        """What errors call a sample's picture."""
        return self.poses.images.name(int(self.poses.rows[self.at[index]]))

    def subset(self, indices: NDArray[np.int64] | Tensor | Sequence[int], name: str | None = None) -> PoseSet:
        """The samples at these positions; pictures are shared, ids stay. Raises LimbeckError when there is none."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        if len(chosen) == 0:
            raise LimbeckError(f"{name or self.name}: the split is empty; it needs at least one sample")
        return self._changed(
            at=self.at[chosen.numpy()], ids=self.ids[chosen], labels=self.labels[chosen], name=name or self.name
        )

    def with_labels(self, mask: NDArray[np.bool_] | Tensor) -> PoseSet:
        """The same samples with the joints hidden where `mask` (n,) is False; their boxes stay known."""
        shown = torch.as_tensor(mask, dtype=torch.bool)
        return self._changed(labels=torch.where(shown, self.labels, torch.tensor(UNLABELLED)))

    def with_preprocessing(self, preprocessing: Preprocessing) -> PoseSet:
        """The same samples normalised otherwise. Raises LimbeckError for another number of channels."""
        if preprocessing.channels != self.preprocessing.channels:
            raise LimbeckError(
                f"{self.name}: pictures have {self.preprocessing.channels} channels, the preprocessing wants "
                f"{preprocessing.channels}; load the data with these"
            )
        return self._changed(preprocessing=preprocessing)
