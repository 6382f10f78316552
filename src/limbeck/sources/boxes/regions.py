"""Boxes of many pictures in one table, and what is wrong with some of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError

Floats = NDArray[np.float64]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """What was written about a picture.

    Attributes:
        where: the file, and the place in it, as errors call it.
        boxes: (regions, 4) xyxy: the left, top, right and bottom edge, in pixels; of a `relative` annotation, shares of
            the picture's width and height.
        classes: (regions,), from 0 on.
        crowds: (regions,), whether it is a region of many objects, or one that nobody could tell: it is to be ignored.
        areas: (regions,) in square pixels, None where they are those of the boxes.
    """

    where: str
    boxes: Floats
    classes: NDArray[np.int64]
    crowds: NDArray[np.bool_]
    areas: Floats | None = None
    relative: bool = False


def annotation(
    where: str,
    boxes: Sequence[Sequence[float]],
    classes: Sequence[int],
    *,
    crowds: Sequence[bool] | None = None,
    areas: Sequence[float] | None = None,
    relative: bool = False,
) -> Annotation:
    """An Annotation from lists, which may be empty."""
    return Annotation(
        where,
        np.asarray(boxes, np.float64).reshape(-1, 4),
        np.asarray(classes, np.int64).reshape(-1),
        np.zeros(len(boxes), np.bool_) if crowds is None else np.asarray(crowds, np.bool_).reshape(-1),
        None if areas is None else np.asarray(areas, np.float64).reshape(-1),
        relative,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The boxes of pictures one after another: those of picture `i` are at `starts[i]` to `starts[i + 1]`.

    Attributes:
        starts: (pictures + 1,) int64.
        boxes: (regions, 4) float32 xyxy.
        classes: (regions,) int64, from 0 on.
        crowds: (regions,) boolean.
        areas: (regions,) float32, by which COCO tells small objects from large ones.
        scores: (regions,) float32: 1 for what people drew, a model's own for what it found.
    """

    starts: Tensor
    boxes: Tensor
    classes: Tensor
    crowds: Tensor
    areas: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def counts(self) -> Tensor:
        """How many objects each picture has, regions of crowds left out, (pictures,) int64."""
        before = torch.cat([torch.zeros(1, dtype=torch.int64), (~self.crowds).long().cumsum(0)])
        return before[self.starts[1:]] - before[self.starts[:-1]]

    def of(self, row: int) -> Self:
        """The regions of one picture."""
        start, stop = int(self.starts[row]), int(self.starts[row + 1])
        columns = (self.boxes, self.classes, self.crowds, self.areas, self.scores)
        return type(self)(torch.tensor([0, stop - start]), *(column[start:stop] for column in columns))

    def none(self) -> Self:
        """As many pictures with nothing in them."""
        columns = (self.boxes, self.classes, self.crowds, self.areas, self.scores)
        return type(self)(torch.zeros_like(self.starts), *(column[:0] for column in columns))

    def scaled(self, scales: Tensor) -> Self:
        """With the boxes of each picture multiplied by `scales` (pictures, 2), of x and of y."""
        factors = scales.float().repeat(1, 2).repeat_interleave(self.starts.diff(), dim=0)
        columns = (self.classes, self.crowds, self.areas, self.scores)
        return type(self)(self.starts, self.boxes * factors, *columns)


@dataclass(slots=True)
class _Count:
    """How many regions something is wrong with, and where the first was."""

    number: int = 0
    first: str = ""

    def add(self, number: int, where: str) -> None:
        self.first = self.first or (where if number else "")
        self.number += number

    def text(self, what: str) -> list[str]:
        return [f"{what}: {self.number:,} (first: {self.first})"] if self.number else []


@dataclass(slots=True)
class _Faults:
    flat: _Count = field(default_factory=_Count)
    outside: _Count = field(default_factory=_Count)
    over: _Count = field(default_factory=_Count)


def cleaned(annotations: Sequence[Annotation], sizes: Tensor, num_classes: int, name: str) -> Regions:
    """The regions of pictures of `sizes` (pictures, 2), height and width, in their pixels.

    Boxes are cut off at the edges of their picture. What has no width or height, or lies outside, is left out; how many
    that were is a warning.

    Raises:
        LimbeckError: a class is not one of `num_classes`, or a number is not finite.
    """
    faults, parts = _Faults(), []
    for each, (height, width) in zip(annotations, sizes.tolist(), strict=True):
        parts.append(_cleaned(each, height, width, num_classes, faults))
    dropped = [
        *faults.flat.text("left out as they have no width or height"),
        *faults.outside.text("left out as they lie outside their picture"),
        *faults.over.text("cut off at the edge of their picture"),
    ]
    if dropped:
        log.warning("%s: boxes %s", name, "; ".join(dropped))
    lengths = torch.tensor([len(part[1]) for part in parts], dtype=torch.int64)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    boxes, classes, crowds, areas = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Regions(
        starts,
        torch.from_numpy(boxes.astype(np.float32)),
        torch.from_numpy(classes),
        torch.from_numpy(crowds),
        torch.from_numpy(areas.astype(np.float32)),
        torch.ones(len(boxes)),
    )


def _cleaned(
    each: Annotation, height: int, width: int, num_classes: int, faults: _Faults
) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_], Floats]:
    """Boxes, classes, crowds and areas of one picture."""
    wrong = (each.classes < 0) | (each.classes >= num_classes)
    if wrong.any():
        raise LimbeckError(
            f"{each.where}: class {int(each.classes[wrong][0])} is out of range; there are {num_classes} classes, 0 to "
            f"{num_classes - 1}: correct it, or add the class to the list of names"
        )
    if not np.isfinite(each.boxes).all():
        at = int(np.flatnonzero(~np.isfinite(each.boxes).all(1))[0])
        raise LimbeckError(f"{each.where}: box {at} is not of finite numbers ({each.boxes[at].tolist()}); correct it")
    boxes = each.boxes * np.array([width, height] * 2) if each.relative else each.boxes
    flat = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    cut = np.clip(boxes, 0, np.array([width, height] * 2))
    outside = ~flat & ((cut[:, 2] <= cut[:, 0]) | (cut[:, 3] <= cut[:, 1]))
    kept = ~flat & ~outside
    # A box in shares of the picture may reach over its edge by rounding.
    over = kept & (np.abs(cut - boxes).max(1, initial=0.0) > (1.0 if each.relative else 0.0))
    for count, which in ((faults.flat, flat), (faults.outside, outside), (faults.over, over)):
        count.add(int(which.sum()), each.where)
    cut = cut[kept]
    areas = (cut[:, 2] - cut[:, 0]) * (cut[:, 3] - cut[:, 1]) if each.areas is None else each.areas[kept]
    return cut, each.classes[kept], each.crowds[kept], areas
