"""Samples weighed by how far the teacher is to be followed on them."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import at_least_two_classes, class_indices, log_softmax, positive, precise, target_classes
from limbeck.losses.response import KD, kd

EPSILON = 1e-7
"""Added to the teacher's cross-entropy, as in the authors' code of `wsld`."""

By = Literal["correct", "entropy", "confidence"]


def wsld(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None, *, temperature: float = 2.0) -> Tensor:
    """(1 − exp(−Lˢ / Lᵗ)) · T² · KL(p ‖ q): little of the teacher where the student is already nearer to the label.

    Lˢ and Lᵗ are the cross-entropies of student and teacher against the label, at temperature 1. The weight is a
    constant: no gradient goes through it.

    Args:
        student_logits: (batch, …, classes), at least 2 classes. −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        labels: (batch, …) int64. A sample without a label (−1, or no labels at all) takes the teacher's top class.
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, labels are not class indices, or the temperature is not positive.

    Zhou et al. 2021, "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
    arXiv:2102.00650.
    """
    same_shape(student_logits, teacher_logits, "wsld")
    at_least_two_classes(student_logits, "wsld")
    if labels is not None:
        class_indices(labels, student_logits, "wsld")
    target = target_classes(teacher_logits, labels).unsqueeze(-1)
    mine = -log_softmax(precise(student_logits.detach())).gather(-1, target).squeeze(-1)
    theirs = -log_softmax(precise(teacher_logits.detach())).gather(-1, target).squeeze(-1)
    weight = -torch.expm1(-mine / (theirs + EPSILON))
    return weight * kd(student_logits, teacher_logits, temperature=temperature)


class WSLD(Loss):
    """`wsld` with its temperature."""

    name = "wsld"
    inputs: tuple[LossInput, ...] = ("teacher", "labels")

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "WSLD temperature")

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes) and labels of shape (batch, …)."""
        return wsld(student, teacher, labels, temperature=self.temperature)


class Weighted(Loss):
    """Any loss between logits, its values multiplied by a weight a sample, in [0, 1], from the teacher's answer.

    Args:
        loss: a loss between logits; `KD()` by default.
        by: `correct`, 1 where the teacher's top class is the label, or there is no label, else 0 (Meng et al. 2019,
            "Conditional Teacher-Student Learning", arXiv:1904.12399); `entropy`, 1 − H(p) / log(classes);
            `confidence`, the largest probability. Probabilities are those at temperature 1.

    Raises:
        LimbeckError: the loss is not one between logits, or `by` is unknown.
    """

    name = "weighted"

    def __init__(self, loss: Loss | None = None, by: By = "correct") -> None:
        super().__init__()
        self.loss = KD() if loss is None else loss
        if "teacher" not in self.loss.inputs or self.loss.wants != "logits":
            raise LimbeckError(
                f"Weighted: {type(self.loss).__name__} compares no logits with a teacher's; "
                "wrap a loss between logits, such as KD"
            )
        if by not in get_args(By):
            raise LimbeckError(f"Weighted by: expected one of {', '.join(get_args(By))}, got {by!r}")
        self.by = by
        self.skips_unlabelled = self.loss.skips_unlabelled
        own: tuple[LossInput, ...] = ("labels",) if by == "correct" and "labels" not in self.loss.inputs else ()
        self.inputs = (*self.loss.inputs, *own)

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes the wrapped loss's learned parts."""
        self.loss.build(student, teacher)

    def forward(self, student: Tensor, *inputs: Tensor | None) -> Tensor:
        """What the wrapped loss gives for logits (batch, …, classes), times the weight of each item."""
        given = dict(zip(self.inputs, inputs, strict=True))
        teacher = given["teacher"]
        assert teacher is not None
        same_shape(student, teacher, "weighted")
        at_least_two_classes(teacher, "weighted")
        values: Tensor = self.loss(student, *(given[name] for name in self.loss.inputs))
        weight = self._weight(teacher, given.get("labels"))
        if (where := given.get("where")) is not None:
            weight = weight.masked_fill(~where, 0.0)
        return values * weight.to(values.dtype)

    def _weight(self, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, …), without gradient."""
        if self.by == "correct":
            if labels is not None:
                class_indices(labels, teacher, "weighted")
            return target_classes(teacher, labels) == teacher.detach().argmax(-1)
        p = precise(teacher.detach()).softmax(-1)
        if self.by == "confidence":
            return p.amax(-1)
        entropy: Tensor = torch.special.entr(p).sum(-1)
        return 1.0 - (entropy / math.log(p.shape[-1])).clamp(max=1.0)
