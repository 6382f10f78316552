"""A loss between answers in different vocabularies: how the probabilities are spread, whatever they are of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.numeric import positive, precise
from limbeck.types import LinearHead, dense_logits

CHUNK = 1 << 26
"""Probabilities that are sorted at a time: an order of 64-bit numbers takes three times the room of what it sorts."""


def uld(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Σ_i |p_(i) − q_(i)| over both models' probabilities in descending order, the smaller vocabulary filled with 0.

    This is the Wasserstein distance between the answers where every change of one token into another costs the same.
    It is 0 where the teacher's probabilities are a permutation of the student's. One autograd node, whose gradient is
    computed with the value; it cannot be differentiated twice.

    Args:
        student_logits: (batch, …, classes).
        teacher_logits: (batch, …, other classes), of the same items; never receives a gradient.
        temperature: T > 0, of both softmaxes; there is no factor T², as the authors' code has none.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the items differ, or the temperature is not positive.

    Boizard et al. 2024, "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
    arXiv:2402.12030, the Wasserstein distance of its section on ULD, in closed form.
    """
    if student_logits.dim() < 2 or student_logits.shape[:-1] != teacher_logits.shape[:-1]:
        raise LimbeckError(
            f"uld: the student gives logits of shape {tuple(student_logits.shape)}, the teacher "
            f"{tuple(teacher_logits.shape)}; all but the number of classes must be equal, so give both at the same "
            "positions (Retokenized does)"
        )
    positive(temperature, "uld temperature")
    items = student_logits.shape[:-1]
    student, teacher = (each.flatten(0, -2) for each in (precise(student_logits), precise(teacher_logits.detach())))
    value: Tensor = _SortedDistance.apply(student, teacher.to(student.dtype), temperature)
    return value.view(items)


class ULD(Loss):
    """`uld` with its temperature."""

    name = "uld"
    targets: tuple[type, ...] = (Tensor, LinearHead)
    aligned = False

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "ULD temperature")

    def forward(self, student: Tensor, teacher: Tensor | LinearHead) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes) and (batch, …, other classes)."""
        given = dense_logits(teacher) if isinstance(teacher, LinearHead) else teacher
        return uld(student, given, temperature=self.temperature)


class _SortedDistance(torch.autograd.Function):
    """The distance of sorted probabilities, its gradient computed beside its value: one node that keeps only that."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        values, gradients = [], []
        step = max(1, CHUNK // max(student.shape[1], teacher.shape[1], 1))
        for mine, theirs in zip(student.split(step), teacher.split(step), strict=True):
            q, p = (mine / temperature).softmax(-1), (theirs / temperature).softmax(-1)
            order, sizes = q.argsort(-1, descending=True), p.sort(-1, descending=True).values
            common = sizes[:, : q.shape[1]]
            above = q.gather(1, order) - pad(common, (0, q.shape[1] - common.shape[1]))
            # Where the student has fewer classes, the teacher's smallest stand against 0.
            beyond = sizes[:, q.shape[1] :].sum(-1)
            values.append(above.abs().sum(-1) + beyond)
            slope = torch.zeros_like(q).scatter_(1, order, above.sign_())
            gradients.append(q.mul_(slope.sub_((q * slope).sum(-1, keepdim=True))).div_(temperature))
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise LimbeckError("uld has no second derivative; leave create_graph False")
        (gradient,) = ctx.saved_tensors
        return upstream.unsqueeze(-1) * gradient, None, None
