"""Predictions aligned at three levels: of a sample, between the samples of a batch, between the classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import at_least_two_classes, full_precision, not_negative, positive, precise
from limbeck.losses.response import kd

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
"""Those of the authors' code for CIFAR-100."""


def mlkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    where: Tensor | None = None,
    *,
    temperatures: Sequence[float] = TEMPERATURES,
    instance: float = 1.0,
    batch: float = 1.0,
    classes: float = 1.0,
    least_sure: float = 1.0,
) -> Tensor:
    """The sum over temperatures of KL at the level of a sample, and of squared distances of Gram matrices beyond it.

    With the softened probabilities of B samples and C classes as rows of P (teacher) and Q (student), at each
    temperature T: instance · T² · KL(p ‖ q) + batch · ‖PPᵀ − QQᵀ‖² / B + classes · ‖PᵀP − QᵀQ‖² / C. Of the second
    part each item has its row of the matrix; the third is one number for the batch, which every item carries whole,
    so that the mean over items is the paper's loss.

    Args:
        student_logits: (batch, …, classes), at least 2 classes; all leading dimensions are items. A class that is
            −inf on both sides adds nothing, but is one of the C.
        teacher_logits: the same shape; never receives a gradient.
        where: (batch, …) boolean, True where an item counts; None where all do. Masked items are outside the batch's
            matrices, and their value is 0.
        temperatures: each positive.
        instance, batch, classes: weights of the three levels, not negative; a level of weight 0 is not computed.
        least_sure: the share of items, and of classes, that count: those which the teacher gives the least
            confidence, at temperature 1. The others still stand in the matrices, and in B and C.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, or a setting is out of range.

    Jin, Wang and Lin 2023, "Multi-Level Logit Distillation", CVPR 2023, section 3 (doi
    10.1109/CVPR52729.2023.02325; not on arXiv: the proceedings have it).
    """
    same_shape(student_logits, teacher_logits, "mlkd")
    at_least_two_classes(student_logits, "mlkd")
    _check(temperatures, instance, batch, classes, least_sure, "mlkd")
    width = student_logits.shape[-1]
    student, teacher = precise(student_logits).reshape(-1, width), precise(teacher_logits.detach()).reshape(-1, width)
    if where is not None:
        if where.shape != student_logits.shape[:-1]:
            raise LimbeckError(
                f"mlkd: expected a mask of shape {tuple(student_logits.shape[:-1])}, one value an item, got "
                f"{tuple(where.shape)}"
            )
        # Before any arithmetic, so that not even a NaN of a masked item, or its gradient, gets through.
        student = student.masked_fill(~where.reshape(-1, 1), 0.0)
        teacher = teacher.masked_fill(~where.reshape(-1, 1), 0.0)
    items, columns = _shares(teacher, where, least_sure)
    values, across = student.new_zeros(len(student)), student.new_zeros(width)
    # Autocast would multiply the probabilities in half precision.
    with full_precision(student):
        for temperature in temperatures:
            if instance:
                values = values + instance * kd(student, teacher, temperature=temperature)
            q, p = _probabilities(student, where, temperature), _probabilities(teacher, where, temperature)
            if batch:
                values = values + batch * _gram_distance(p, q)
            if classes:
                across = across + _gram_distance(p.t(), q.t())
    values = values * items + (classes / width) * (across * columns).sum()
    values = values.reshape(student_logits.shape[:-1])
    return values if where is None else values.masked_fill(~where, 0.0)


class MLKD(Loss):
    """`mlkd` with its temperatures and weights."""

    name = "mlkd"
    inputs: tuple[LossInput, ...] = ("teacher", "where")

    def __init__(
        self,
        temperatures: Sequence[float] = TEMPERATURES,
        instance: float = 1.0,
        batch: float = 1.0,
        classes: float = 1.0,
        least_sure: float = 1.0,
    ) -> None:
        super().__init__()
        _check(temperatures, instance, batch, classes, least_sure, "MLKD")
        self.temperatures = tuple(temperatures)
        self.instance = instance
        self.batch = batch
        self.classes = classes
        self.least_sure = least_sure

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes) and a mask of shape (batch, …)."""
        return mlkd(
            student,
            teacher,
            where,
            temperatures=self.temperatures,
            instance=self.instance,
            batch=self.batch,
            classes=self.classes,
            least_sure=self.least_sure,
        )


def _check(
    temperatures: Sequence[float], instance: float, batch: float, classes: float, least_sure: float, what: str
) -> None:
    for name, weight in (("instance", instance), ("batch", batch), ("classes", classes)):
        not_negative(weight, f"{what} {name}")
    if not temperatures:
        raise LimbeckError(f"{what} temperatures: expected at least one number, got none")
    for temperature in temperatures:
        positive(temperature, f"{what} temperatures")
    if not 0.0 < least_sure <= 1.0:
        raise LimbeckError(f"{what} least_sure: expected a share in (0, 1], got {least_sure}")


def _probabilities(logits: Tensor, where: Tensor | None, temperature: float) -> Tensor:
    """(items, classes), rows of 0 where an item does not count, so that it adds nothing to a Gram matrix."""
    probabilities = (logits / temperature).softmax(1)
    return probabilities if where is None else probabilities.masked_fill(~where.reshape(-1, 1), 0.0)


def _gram_distance(p: Tensor, q: Tensor) -> Tensor:
    """The squared norm of each row of PPᵀ − QQᵀ, (rows,)."""
    # The symmetric part of (P − Q)(P + Q)ᵀ: one product, and nothing cancels where both are near.
    product = (p - q) @ (p + q).t()
    return (0.5 * (product + product.t())).square().sum(1)


def _shares(teacher: Tensor, where: Tensor | None, least_sure: float) -> tuple[Tensor | float, Tensor | float]:
    """1 for the items (items,), and the classes (classes,), of which the teacher is least confident, else 0."""
    if least_sure == 1.0 or len(teacher) == 0:
        return 1.0, 1.0
    p = _probabilities(teacher, where, 1.0)
    confidence, mass = p.amax(1), p.sum(0)
    known = confidence if where is None else confidence.masked_fill(~where.reshape(-1), torch.nan)
    items = confidence <= known.nanquantile(least_sure)
    return items.to(p.dtype), (mass <= mass.quantile(least_sure)).to(p.dtype)
