"""Temperatures that change over a training: learned against the student, or annealed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.checks import same_shape
from limbeck.losses.base import Loss
from limbeck.losses.divergences import ForwardKL
from limbeck.losses.numeric import at_least_two_classes, not_negative, positive, precise, unbuilt
from limbeck.losses.response import DivergenceLoss
from limbeck.types import LinearHead

EXCLUDED = -1e30
"""Stands for a logit of −inf, whose slope in the temperature would be 0 · inf."""


def ctkd(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor, *, strength: float = 1.0) -> Tensor:
    """T² · KL(p ‖ q) as in `kd`, whose gradient in the temperature is reversed: multiplied by −λ.

    The optimizer that lowers the loss by the student thus raises it by the temperature, which makes the student's
    task harder as λ rises. The value, and the gradient in the student, are those of `kd`.

    Args:
        student_logits: (batch, …, classes), at least 2 classes. −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        temperature: positive; one for all, or a shape that broadcasts to (batch, …).
        strength: λ, not negative.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, or λ is negative.

    Li et al. 2023, "Curriculum Temperature for Knowledge Distillation", arXiv:2211.16231.
    """
    same_shape(student_logits, teacher_logits, "ctkd")
    at_least_two_classes(student_logits, "ctkd")
    student, teacher = precise(student_logits), precise(teacher_logits.detach())
    reversed_temperature: Tensor = _Reversed.apply(temperature, not_negative(strength, "ctkd strength"))
    t = reversed_temperature.to(student.dtype)
    # A new tensor also of a teacher's from inference mode, which could not be saved for the temperature's gradient.
    teacher = torch.clamp(teacher, min=EXCLUDED)
    divisor = t.unsqueeze(-1) if t.dim() else t
    log_p = (teacher / divisor).log_softmax(-1)
    log_q = (student.clamp(min=EXCLUDED) / divisor).log_softmax(-1)
    values: Tensor = t.square() * (log_p.exp() * (log_p - log_q)).sum(-1)
    return values


class CTKD(Loss):
    """`ctkd` with a learned temperature, start + span · σ(score).

    The score is one parameter for all samples, or of each sample what two linear layers make of the logits of both
    models. λ rises along a half cosine from 0 to 1 over the first epochs, which `progress` tells: without it the
    temperature stays as it is.

    Args:
        start, span: the temperature is between start and start + span; both positive.
        epochs: over how many epochs λ rises.
        instance: a temperature for each sample. Its layers are made by `build`, so the Distiller needs `example`.
        hidden: their width.
    """

    name = "ctkd"
    score: nn.Parameter | None
    layers: nn.Sequential | None

    def __init__(
        self, start: float = 1.0, span: float = 20.0, epochs: float = 10.0, instance: bool = False, hidden: int = 128
    ) -> None:
        super().__init__()
        self.start = positive(start, "CTKD start")
        self.span = positive(span, "CTKD span")
        self.epochs = not_negative(epochs, "CTKD epochs")
        self.instance = instance
        self.hidden = int(positive(hidden, "CTKD hidden"))
        self.strength = 0.0
        self.score = None if instance else nn.Parameter(torch.ones(()))
        self.layers = None

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes the layers for logits of the student's width."""
        if not self.instance:
            return
        assert isinstance(student, Tensor)
        self.layers = nn.Sequential(
            nn.Linear(2 * student.shape[-1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1)
        ).to(student.device)

    def progress(self, epoch: float, share: float) -> None:
        """Brings λ to a point of the training."""
        over = min(epoch / self.epochs, 1.0) if self.epochs else 1.0
        self.strength = 0.5 * (1.0 - math.cos(math.pi * over))

    def temperature(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The temperature of these logits, () or (batch, …), as yet with its own gradient."""
        if self.score is not None:
            return self.start + self.span * precise(self.score).sigmoid()
        if self.layers is None:
            raise unbuilt("CTKD")
        # Detached: what the student's logits do to the temperature is not for the student to follow.
        both = torch.cat([precise(teacher), precise(student)], -1).detach()
        both = both.masked_fill(both == -math.inf, 0.0).to(next(self.layers.parameters()).dtype)
        return self.start + self.span * precise(self.layers(both).squeeze(-1)).sigmoid()

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        same_shape(student, teacher, "ctkd")
        return ctkd(student, teacher, self.temperature(student, teacher), strength=self.strength)


class AnnealedKD(DivergenceLoss):
    """`kd` whose temperature moves evenly from `start` to `end` over the training, as `progress` tells.

    T² keeps the gradient's size on the way. The teacher's answer must be dense logits, or the head that makes them: a
    stored softened answer has one temperature.

    Jafari et al. 2021, "Annealing Knowledge Distillation", arXiv:2104.07163, from which the idea is; they compare
    logits by squared error.
    """

    name = "annealed-kd"
    targets = (Tensor, LinearHead)

    def __init__(self, start: float = 10.0, end: float = 1.0) -> None:
        super().__init__(ForwardKL(), positive(start, "AnnealedKD start"))
        self.start = start
        self.end = positive(end, "AnnealedKD end")

    def progress(self, epoch: float, share: float) -> None:
        """Brings the temperature to a point of the training."""
        self.temperature = self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by −λ (Ganin and Lempitsky 2015, arXiv:1409.7495)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return grad_output.mul(-ctx.strength), None
