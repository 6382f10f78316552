"""Cross-head distillation: the student's head, half way, goes on in the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.detection.boxes import box_giou
from limbeck.losses.detection.localization import localization
from limbeck.losses.detection.quality import quality_focal
from limbeck.losses.numeric import not_negative, precise, unbuilt

EPSILON = 1e-6
"""Added to the student's deviation, as in the authors' code."""

SMALLEST_VARIANCE = 1e-24
"""Far below what EPSILON hides; keeps the root's slope finite where a channel never varies."""


@runtime_checkable
class HasTowers(Protocol):
    """A detector whose head has towers of blocks over the levels of a pyramid."""

    hold: int | None
    """After which block what it gives comes along as the signals `classification` and `regression`."""

    @property
    def positions(self) -> Sequence[int]:
        """Of each level."""

    @property
    def head(self) -> nn.Module: ...

    def crossed(self, classification: Tensor, regression: Tensor, start: int) -> Mapping[str, Tensor]:
        """What its head from block `start` on says of what another's blocks gave; its weights get no gradient."""


def cross_head(
    crossed_logits: Tensor,
    teacher_logits: Tensor,
    crossed_boxes: Tensor,
    teacher_boxes: Tensor,
    where: Tensor | None = None,
    *,
    classes: float = 1.0,
    boxes: float = 1.0,
) -> Tensor:
    """`classes` · `quality_focal` + `boxes` · `box_giou`, between what the teacher's head says of the student's
    features and what it says of its own.

    Args:
        crossed_logits: (batch, locations, classes), of the student's features.
        teacher_logits: the same shape; never receives a gradient.
        crossed_boxes: (batch, locations, 4), xyxy; or distributions of edges (batch, locations, 4, bins), which are
            compared by `localization` at temperature 1 instead.
        teacher_boxes: the same shape; never receives a gradient.
        where: (batch,) boolean, True where a picture counts; None where all do.
        classes, boxes: weights, not negative.

    Returns:
        (batch,), in float32 (float64 where the student is). Divisors couple the pictures of a batch.

    Raises:
        LimbeckError: shapes do not fit, or a weight is negative.

    Wang et al. 2023, "CrossKD: Cross-Head Knowledge Distillation for Object Detection", arXiv:2306.11369.
    """
    not_negative(classes, "cross_head classes")
    not_negative(boxes, "cross_head boxes")
    kinds = quality_focal(crossed_logits, teacher_logits, where, beta=1.0)
    if crossed_boxes.dim() == 4:
        places = localization(crossed_boxes, teacher_boxes, teacher_logits, where, temperature=1.0)
    else:
        places = box_giou(crossed_boxes, teacher_boxes, teacher_logits, where)
    return classes * kinds + boxes * places


def aligned_scale(student: Tensor, teacher: Tensor, positions: Sequence[int], where: Tensor | None = None) -> Tensor:
    """The student's features with the teacher's mean and deviation: of each channel and level, over the batch.

    Args:
        student: (batch, positions of all levels, channels).
        teacher: the same shape.
        positions: of each level.
        where: (batch,) boolean, True where a picture counts; None where all do.
    """
    same_shape(student, teacher, "cross_head, between what both heads hold")
    parts = zip(student.split(list(positions), 1), teacher.split(list(positions), 1), strict=True)
    return torch.cat([_rescaled(own, taught, where) for own, taught in parts], 1)


class CrossHead(Loss):
    """`cross_head`: what the block `after` of the student's head gives, at the teacher's scale, runs through the rest
    of the teacher's head.

    Both must be detectors with towers of convolutions (FCOS, RetinaNet) on the same strides, and the teacher must run
    beside the student. Where their heads have other widths, 1×1 convolutions are learned in between. To compare
    distributions of edges instead of boxes, name the teacher's signals `classification`, `regression`, `logits` and
    `distribution`.

    Args:
        classes, boxes: weights of both parts: 1 and 1 for RetinaNet, 0.4 and 0.75 for FCOS, 1 and 4 for distributions
            in the paper's code.
        after: blocks of the student's head that run first; 0 takes its pyramid.
    """

    name = "cross-head"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    student_signals = ("classification", "regression")
    teacher_signals = ("classification", "regression", "logits", "boxes")
    aligned = False

    def __init__(self, classes: float = 1.0, boxes: float = 1.0, after: int = 3) -> None:
        super().__init__()
        self.classes = not_negative(classes, "CrossHead classes")
        self.boxes = not_negative(boxes, "CrossHead boxes")
        if after != int(after) or after < 0:
            raise LimbeckError(f"CrossHead after: expected how many blocks run first, got {after}")
        self.after = int(after)
        self.widen: nn.ModuleList | None = None
        self._teacher: tuple[HasTowers, ...] = ()  # in a tuple, so that it is no part of this module

    def meet(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Asks both models for what their heads give half way."""
        models: dict[str, object] = {"student": student, "teacher": teacher}
        for who, model in models.items():
            if not isinstance(model, HasTowers):
                given = "none that runs" if model is None else type(model).__name__
                raise LimbeckError(
                    f"cross-head: needs a {who} whose head has towers of convolutions (fcos:…, retinanet:…), got "
                    f"{given}"
                )
            model.hold = self.after
            self._teacher = (model,)

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """1×1 convolutions from the student's width to the teacher's, where these differ."""
        if isinstance(student, tuple) and isinstance(teacher, tuple):
            pairs = list(zip(student[:2], teacher[:2], strict=True))
            here, there = pairs[0][0].shape[-1], pairs[0][1].shape[-1]
            layers = [nn.Linear(here, there) if here != there else nn.Identity() for _ in pairs]
            self.widen = nn.ModuleList(layers).to(student[0].device)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], where: Tensor | None = None) -> Tensor:
        """(batch,) from what both heads hold, (batch, positions, channels) of classes and of boxes, and the teacher's
        logits and boxes (or distributions)."""
        if self.widen is None or not self._teacher:
            raise unbuilt("CrossHead")
        other = self._teacher[0]
        held = []
        for layer, own, taught in zip(self.widen, student[:2], teacher[:2], strict=True):
            features = aligned_scale(layer(precise(own)), precise(taught.detach()), other.positions, where)
            held.append(features.relu() if self.after else features)
        crossed = other.crossed(held[0], held[1], self.after)
        places = crossed["distribution" if teacher[3].dim() == 4 else "boxes"]
        return cross_head(
            crossed["logits"], teacher[2], places, teacher[3], where, classes=self.classes, boxes=self.boxes
        )


def _rescaled(student: Tensor, teacher: Tensor, where: Tensor | None) -> Tensor:
    mean, deviation = _moments(student, where)
    wanted, spread = _moments(teacher, where)
    rescaled = (student - mean) / (deviation + EPSILON) * spread + wanted
    return rescaled if where is None else rescaled.masked_fill(~where[:, None, None], 0.0)


def _moments(features: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of (batch, positions, channels) over the pictures that count."""
    pictures: Tensor | int = len(features)
    if where is not None:
        features = features.masked_fill(~where[:, None, None], 0.0)
        pictures = where.sum()
    count = pictures * features.shape[1]
    mean = features.sum((0, 1)) / (count.clamp(min=1) if isinstance(count, Tensor) else count)
    centred = features - mean
    if where is not None:
        centred = centred.masked_fill(~where[:, None, None], 0.0)
    freedom = (count - 1).clamp(min=1) if isinstance(count, Tensor) else max(count - 1, 1)
    variance = centred.square().sum((0, 1)) / freedom
    return mean, variance.clamp(min=SMALLEST_VARIANCE).sqrt()
