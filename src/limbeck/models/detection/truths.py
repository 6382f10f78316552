"""The boxes of a batch as the libraries' losses take them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PADDING, CROWD = -1, -2
"""Classes of what is no box: a row that fills the batch up, and a region of a crowd, of which nothing is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Truths:
    """The boxes of each picture, and which pictures have an annotation.

    Attributes:
        boxes: for each picture (found, 4), xyxy in pixels, of more than no width and height.
        classes: for each picture (found,) int64.
        crowds: for each picture (regions, 4), to be ignored.
        annotated: the numbers of the pictures that have an annotation, ascending.
    """

    boxes: list[Tensor]
    classes: list[Tensor]
    crowds: list[Tensor]
    annotated: list[int]


def truths_of(boxes: Tensor, box_classes: Tensor, annotated: Tensor | None) -> Truths:
    """The boxes of a batch: `boxes` (batch, most, 4) xyxy in pixels, `box_classes` (batch, most) int64 with -1 where a
    row is padding and -2 where it is a crowd, `annotated` (batch,) boolean, None where all pictures are."""
    extended = (boxes[..., 2:] > boxes[..., :2]).all(-1)
    kept, crowds = (box_classes >= 0) & extended, (box_classes == CROWD) & extended
    known = list(range(len(boxes))) if annotated is None else torch.nonzero(annotated)[:, 0].tolist()
    return Truths(
        boxes=[each[inside].float() for each, inside in zip(boxes, kept, strict=True)],
        classes=[each[inside] for each, inside in zip(box_classes, kept, strict=True)],
        crowds=[each[inside].float() for each, inside in zip(boxes, crowds, strict=True)],
        annotated=known,
    )
