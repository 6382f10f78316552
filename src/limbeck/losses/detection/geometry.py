"""Overlaps of boxes, (…, 4) xyxy."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7
"""Added to areas by which something is divided, as in torchvision."""


def overlaps(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of boxes, (…), and its generalized form, which falls further the farther apart boxes are
    that do not meet; shapes are broadcast. Boxes turned inside out have no area.

    Rezatofighi et al. 2019, "Generalized Intersection over Union", arXiv:1902.09630.
    """
    shared = _area(torch.maximum(ours[..., :2], theirs[..., :2]), torch.minimum(ours[..., 2:], theirs[..., 2:]))
    union = _area(ours[..., :2], ours[..., 2:]) + _area(theirs[..., :2], theirs[..., 2:]) - shared
    around = _area(torch.minimum(ours[..., :2], theirs[..., :2]), torch.maximum(ours[..., 2:], theirs[..., 2:]))
    iou = shared / (union + EPSILON)
    return iou, iou - (around - union) / (around + EPSILON)


def _area(low: Tensor, high: Tensor) -> Tensor:
    size = (high - low).clamp(min=0.0)
    return size[..., 0] * size[..., 1]
