"""Losses that treat the target class apart from the others: decoupled and normalised distillation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import at_least_two_classes, class_indices, not_negative, positive, precise, target_classes
from limbeck.losses.response import kd


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """T² · (α · TCKD + β · NCKD): is it the target, and if not, which of the others?

    With p, q the softened probabilities of teacher and student and y the target, TCKD = KL((p_y, 1 − p_y) ‖
    (q_y, 1 − q_y)) and NCKD is the KL divergence between both distributions over the other classes, each
    renormalised. KL(p ‖ q) = TCKD + (1 − p_y) · NCKD, so a confident teacher mutes the second part in `kd`,
    and not here.

    Args:
        student_logits: (batch, …, classes), at least 2 classes. −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        labels: (batch, …) int64. A sample without a label (−1, or no labels at all) takes the teacher's top
            class.
        alpha, beta: weights of the two parts, not negative.
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, labels are not class indices, or a setting is out of range.

    Zhao et al. 2022, "Decoupled Knowledge Distillation", arXiv:2203.08679.
    """
    _check(student_logits, teacher_logits, labels, temperature, "dkd")
    teacher = precise(teacher_logits.detach()) / temperature
    student = precise(student_logits) / temperature
    target = target_classes(teacher, labels).unsqueeze(-1)
    student_others, teacher_others = _without(student, target), _without(teacher, target)
    target_part = kd(
        _target_against(student, student_others, target),
        _target_against(teacher, teacher_others, target),
        temperature=1.0,
    )
    others_part = kd(student_others, teacher_others, temperature=1.0)
    square = temperature * temperature
    return (square * not_negative(alpha, "dkd alpha")) * target_part + (
        square * not_negative(beta, "dkd beta")
    ) * others_part


def nkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    """−p_y · log q_y − γ · T² · Σ over i ≠ y of p̂_i · log q̂_i: cross-entropies, weighted by the teacher.

    p and q are probabilities at temperature 1 and y is the target; p̂ and q̂ are softened by T and
    renormalised over the other classes. A cross-entropy is not 0 where the student equals the teacher: the
    first part pulls q_y to 1, the second is smallest, at the teacher's entropy, where q̂ = p̂.

    This is the paper's equation. Some copies of the authors' code leave the target among "the others".

    Args:
        student_logits: (batch, …, classes), at least 2 classes.
        teacher_logits: the same shape; never receives a gradient.
        labels: (batch, …) int64. A sample without a label (−1, or no labels at all) takes the teacher's top
            class.
        gamma: weight of the second part, not negative.
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, labels are not class indices, or a setting is out of range.

    Yang et al. 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
    Normalized Loss and Customized Soft Labels", arXiv:2303.13005.
    """
    _check(student_logits, teacher_logits, labels, temperature, "nkd")
    teacher, student = precise(teacher_logits.detach()), precise(student_logits)
    target = target_classes(teacher, labels).unsqueeze(-1)
    weight = teacher.softmax(-1).gather(-1, target).squeeze(-1)
    target_part = weight * student.log_softmax(-1).gather(-1, target).squeeze(-1)
    p = _without(teacher / temperature, target).softmax(-1)
    # p is 0 at the target and where a class is excluded, where log q is −inf: 0 · log 0 = 0.
    log_q = _without(student / temperature, target).log_softmax(-1).masked_fill(p == 0, 0.0)
    others_part = (p * log_q).sum(-1)
    return -target_part - (not_negative(gamma, "nkd gamma") * temperature * temperature) * others_part


class DKD(Loss):
    """`dkd` with its weights and temperature."""

    name = "dkd"
    inputs: tuple[LossInput, ...] = ("teacher", "labels")

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        self.alpha = not_negative(alpha, "DKD alpha")
        self.beta = not_negative(beta, "DKD beta")
        self.temperature = positive(temperature, "DKD temperature")

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes) and labels of shape (batch, …)."""
        return dkd(student, teacher, labels, alpha=self.alpha, beta=self.beta, temperature=self.temperature)


class NKD(Loss):
    """`nkd` with its weight and temperature."""

    name = "nkd"
    inputs: tuple[LossInput, ...] = ("teacher", "labels")

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0) -> None:
        super().__init__()
        self.gamma = not_negative(gamma, "NKD gamma")
        self.temperature = positive(temperature, "NKD temperature")

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes) and labels of shape (batch, …)."""
        return nkd(student, teacher, labels, gamma=self.gamma, temperature=self.temperature)


def _check(student: Tensor, teacher: Tensor, labels: Tensor | None, temperature: float, what: str) -> None:
    same_shape(student, teacher, what)
    at_least_two_classes(student, what)
    if labels is not None:
        class_indices(labels, student, what)
    positive(temperature, f"{what} temperature")


def _without(logits: Tensor, target: Tensor) -> Tensor:
    """The logits with the target excluded, so that a softmax is over the others."""
    return logits.scatter(-1, target, -math.inf)


def _target_against(logits: Tensor, others: Tensor, target: Tensor) -> Tensor:
    """Two logits an item, (batch, …, 2): the target, and all others as one class."""
    return torch.cat([logits.gather(-1, target), others.logsumexp(-1, keepdim=True)], -1)
