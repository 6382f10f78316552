"""Losses between boxes of the same location."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from limbeck.losses.base import Loss, LossInput
from limbeck.losses.detection.confidence import confidence, counted, over_objects, same_locations
from limbeck.losses.detection.geometry import overlaps


def box_iou(
    student_boxes: Tensor, teacher_boxes: Tensor, teacher_logits: Tensor, where: Tensor | None = None
) -> Tensor:
    """Σ over locations of w · (1 − IoU), divided by Σ w of the whole batch; w is the teacher's best score.

    Args:
        student_boxes: (batch, locations, 4), xyxy.
        teacher_boxes: the same shape; never receives a gradient.
        teacher_logits: (batch, locations, classes), before the sigmoid.
        where: (batch,) boolean, True where a picture counts; None where all do.

    Returns:
        (batch,), in float32 (float64 where the student is). The divisor, at least 1, couples the pictures of a batch.

    Raises:
        LimbeckError: shapes do not fit, because the locations are others.

    Wang et al. 2023, "CrossKD", arXiv:2306.11369 (the weights of its regression branch); Yu et al. 2016, "UnitBox",
    arXiv:1608.01471 (the loss).
    """
    return _weighted(student_boxes, teacher_boxes, teacher_logits, where, "box_iou", 0)


def box_giou(
    student_boxes: Tensor, teacher_boxes: Tensor, teacher_logits: Tensor, where: Tensor | None = None
) -> Tensor:
    """Σ over locations of w · (1 − GIoU), divided by Σ w of the whole batch; w is the teacher's best score.

    Args:
        student_boxes: (batch, locations, 4), xyxy.
        teacher_boxes: the same shape; never receives a gradient.
        teacher_logits: (batch, locations, classes), before the sigmoid.
        where: (batch,) boolean, True where a picture counts; None where all do.

    Returns:
        (batch,), in float32 (float64 where the student is). The divisor, at least 1, couples the pictures of a batch.

    Raises:
        LimbeckError: shapes do not fit, because the locations are others.

    Wang et al. 2023, "CrossKD", arXiv:2306.11369 (the weights of its regression branch); Rezatofighi et al. 2019,
    "Generalized Intersection over Union", arXiv:1902.09630 (the loss).
    """
    return _weighted(student_boxes, teacher_boxes, teacher_logits, where, "box_giou", 1)


class BoxIoU(Loss):
    """`box_iou`."""

    name = "box-iou"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    student_signals = "boxes"
    teacher_signals = ("boxes", "logits")
    aligned = False

    def forward(self, student: Tensor, teacher: Sequence[Tensor], where: Tensor | None = None) -> Tensor:
        """(batch,) from boxes (batch, locations, 4), and the teacher's boxes and logits."""
        return box_iou(student, teacher[0], teacher[1], where)


class BoxGIoU(Loss):
    """`box_giou`."""

    name = "box-giou"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    student_signals = "boxes"
    teacher_signals = ("boxes", "logits")
    aligned = False

    def forward(self, student: Tensor, teacher: Sequence[Tensor], where: Tensor | None = None) -> Tensor:
        """(batch,) from boxes (batch, locations, 4), and the teacher's boxes and logits."""
        return box_giou(student, teacher[0], teacher[1], where)


def _weighted(
    student_boxes: Tensor, teacher_boxes: Tensor, teacher_logits: Tensor, where: Tensor | None, what: str, form: int
) -> Tensor:
    same_locations(student_boxes, teacher_boxes, what)
    same_locations(student_boxes, teacher_logits, what)
    given = student_boxes, teacher_boxes.detach(), teacher_logits.detach()
    student, teacher, logits = counted(what, where, *given)
    weights = confidence(logits)
    return over_objects(weights * (1.0 - overlaps(student, teacher)[form]), weights, where)
