"""A teacher whose probabilities are raised to a power, for a student at temperature 1."""

from __future__ import annotations

from torch import Tensor

from limbeck.checks import same_shape
from limbeck.losses.base import Loss
from limbeck.losses.numeric import log_softmax, positive, precise
from limbeck.losses.response import kd


def ttm(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 10.0) -> Tensor:
    """KL(p^γ / Σ p^γ ‖ q), γ = 1/T, of the teacher's transformed probabilities from the student's own.

    The power of p = softmax(t), normalised, is softmax(t/T): `kd` without a temperature on the student's side, and
    so without T². The student that equals it is as smooth as the transformed teacher.

    Args:
        student_logits: (batch, …, classes). −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        temperature: T = 1/γ > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ, or the temperature is not positive.

    Zheng and Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching", arXiv:2402.11148.
    """
    same_shape(student_logits, teacher_logits, "ttm")
    teacher = precise(teacher_logits.detach()) / positive(temperature, "ttm temperature")
    return kd(student_logits, teacher, temperature=1.0)


def wttm(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 10.0) -> Tensor:
    """`ttm` times the power sum Σ p^γ, which is larger where the teacher is less sure: from 1 to classes^(1 − γ).

    Args:
        student_logits: (batch, …, classes). −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        temperature: T = 1/γ > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ, or the temperature is not positive.

    Zheng and Yang 2024, "Knowledge Distillation Based on Transformed Teacher Matching", arXiv:2402.11148.
    """
    values = ttm(student_logits, teacher_logits, temperature=temperature)
    log_p = log_softmax(precise(teacher_logits.detach()))
    return values * (log_p / temperature).exp().sum(-1)


class TTM(Loss):
    """`ttm` with its temperature."""

    name = "ttm"

    def __init__(self, temperature: float = 10.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "TTM temperature")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        return ttm(student, teacher, temperature=self.temperature)


class WTTM(Loss):
    """`wttm` with its temperature."""

    name = "wttm"

    def __init__(self, temperature: float = 10.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "WTTM temperature")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        return wttm(student, teacher, temperature=self.temperature)
