"""A loss on correlations: how classes rank within a sample, and how samples rank within a class."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import at_least_two_classes, not_negative, positive, precise

EPSILON = 1e-8
"""Added to the product of norms, as in the authors' code: a class that never varies is uncorrelated."""


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    where: Tensor | None = None,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """T² · (β · (1 − ρ of the sample's classes) + γ · mean over classes of (1 − ρ of the class's samples)).

    ρ is Pearson's correlation between the softened probabilities of student and teacher. The second part
    needs the batch, and is one number for it: every item carries it whole, so that the mean over items is the
    paper's loss.

    Args:
        student_logits: (batch, …, classes), at least 2 classes; all leading dimensions are items.
        teacher_logits: the same shape; never receives a gradient.
        where: (batch, …) boolean, True where an item counts; None where all do. Masked items are outside the
            batch's statistic, and their value is 0.
        beta, gamma: weights of the relations between classes and within a class, not negative.
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, or a setting is out of range.

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536.
    """
    same_shape(student_logits, teacher_logits, "dist")
    at_least_two_classes(student_logits, "dist")
    positive(temperature, "dist temperature")
    student, teacher = precise(student_logits), precise(teacher_logits.detach())
    if where is not None:
        if where.shape != student.shape[:-1]:
            raise LimbeckError(
                f"dist: expected a mask of shape {tuple(student.shape[:-1])}, one value an item, "
                f"got {tuple(where.shape)}"
            )
        # Before the softmax, so that not even a NaN of a masked item, or its gradient, gets through.
        student = student.masked_fill(~where.unsqueeze(-1), 0.0)
        teacher = teacher.masked_fill(~where.unsqueeze(-1), 0.0)
    q, p = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    between = 1.0 - _cosine(q - q.mean(-1, keepdim=True), p - p.mean(-1, keepdim=True), dim=-1)
    classes = q.shape[-1]
    items = None if where is None else where.reshape(-1, 1)
    within = 1.0 - _cosine(_centred(q.reshape(-1, classes), items), _centred(p.reshape(-1, classes), items), dim=0)
    square = temperature * temperature
    values = (square * not_negative(beta, "dist beta")) * between + (
        square * not_negative(gamma, "dist gamma")
    ) * within.mean()
    return values if where is None else values.masked_fill(~where, 0.0)


class DIST(Loss):
    """`dist` with its weights and temperature."""

    name = "dist"
    inputs: tuple[LossInput, ...] = ("teacher", "where")

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        self.beta = not_negative(beta, "DIST beta")
        self.gamma = not_negative(gamma, "DIST gamma")
        self.temperature = positive(temperature, "DIST temperature")

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes) and a mask of shape (batch, …)."""
        return dist(student, teacher, where, beta=self.beta, gamma=self.gamma, temperature=self.temperature)


def _centred(columns: Tensor, items: Tensor | None) -> Tensor:
    """(items, classes) less each class's mean over the items that count; 0 where one does not."""
    if items is None:
        return columns - columns.mean(0)
    kept = items.to(columns.dtype)
    return (columns - (columns * kept).sum(0) / kept.sum().clamp(min=1.0)) * kept


def _cosine(a: Tensor, b: Tensor, dim: int) -> Tensor:
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    cosine: Tensor = (a * b).sum(dim) / (norms + EPSILON)
    return cosine
