"""Checks of tensors that say what is wrong, where, and what to do."""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.types import UNLABELLED


def same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raises LimbeckError unless student and teacher tensors have one shape."""
    if student.shape != teacher.shape:
        raise LimbeckError(
            f"{what}: the student gives shape {tuple(student.shape)}, the teacher {tuple(teacher.shape)}; "
            "they must be equal (same classes in the same order, or a projector between features)"
        )


def labels_in_range(labels: Tensor, num_classes: int, where: str) -> None:
    """Raises LimbeckError unless every label is in [0, num_classes) or UNLABELLED. Call it on CPU tensors."""
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if high >= num_classes or low < UNLABELLED:
        wrong = high if high >= num_classes else low
        raise LimbeckError(
            f"{where}: label {wrong} is out of range for {num_classes} classes; "
            f"labels must be 0 to {num_classes - 1}, or {UNLABELLED} for an unlabelled sample"
        )
