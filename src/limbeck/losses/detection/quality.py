"""Classification distillation of detectors: each class of each location is a yes or no with the teacher's score."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.detection.confidence import confidence, counted, over_objects, same_locations
from limbeck.losses.numeric import not_negative


def quality_focal(
    student_logits: Tensor, teacher_logits: Tensor, where: Tensor | None = None, *, beta: float = 1.0
) -> Tensor:
    """Σ over locations and classes of |σ(s) − σ(t)|^β · BCE(σ(s), σ(t)), divided by the teacher's confidence in the
    whole batch.

    The divisor is the sum over all locations of the teacher's best score, at least 1: about the locations in objects.
    It couples the pictures of a batch; the mean over them is the batch's loss.

    Args:
        student_logits: (batch, locations, classes).
        teacher_logits: the same shape; never receives a gradient.
        where: (batch,) boolean, True where a picture counts; None where all do.
        beta: 0 for the cross-entropy alone, or 1 or more.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit (other locations, other classes), or beta is out of range.

    Wang et al. 2023, "CrossKD: Cross-Head Knowledge Distillation for Object Detection", arXiv:2306.11369, which takes
    the quality focal loss of Li et al. 2020, arXiv:2006.04388, with β = 1.
    """
    same_locations(student_logits, teacher_logits, "quality_focal")
    same_classes(student_logits, teacher_logits, "quality_focal")
    student, teacher = counted("quality_focal", where, student_logits, teacher_logits.detach())
    return over_objects(focal(student, teacher.sigmoid(), _beta(beta)), confidence(teacher), where)


def focal(logits: Tensor, targets: Tensor, beta: float) -> Tensor:
    """|σ(z) − p|^β · BCE(σ(z), p) of logits z and probabilities p, of their shape."""
    crossed = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return crossed if beta == 0.0 else (logits.sigmoid() - targets).abs().pow(beta) * crossed


def same_classes(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raises LimbeckError unless both have the same number of classes."""
    if student.shape[-1] != teacher.shape[-1]:
        raise LimbeckError(
            f"{what}: the student's logits have {student.shape[-1]} classes, the teacher's {teacher.shape[-1]} "
            f"(shapes {tuple(student.shape)} and {tuple(teacher.shape)}); both need the same classes in the same order"
        )


class QualityFocal(Loss):
    """`quality_focal` with its exponent."""

    name = "quality-focal"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    aligned = False

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = _beta(beta)

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch,) from logits (batch, locations, classes)."""
        return quality_focal(student, teacher, where, beta=self.beta)


def _beta(value: float) -> float:
    if 0.0 < value < 1.0:
        raise LimbeckError(
            f"quality_focal beta: expected 0, or 1 or more, got {value}: its slope has no end between them"
        )
    return not_negative(value, "quality_focal beta")
