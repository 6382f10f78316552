"""Forward and reverse KL divergence together, each weighed by where student and teacher are apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.losses.divergences import ForwardKL, ReversedKL
from limbeck.losses.numeric import fraction
from limbeck.losses.response import DivergenceLoss, divergence
from limbeck.types import LinearHead


@dataclass(frozen=True, slots=True)
class Adaptive:
    """w · KL(p ‖ q) + (1 − w) · KL(q ‖ p), where w is the share of Σ |p − q| that lies in the teacher's head.

    The head is the teacher's most probable outcome, and those after it as long as together they have at most `head`.
    w is a constant to the gradient.
    """

    head: float

    def __call__(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        forward, slope = ForwardKL()(log_p, log_q)
        reverse, other = ReversedKL()(log_p, log_q)
        weight = self._weight(log_p.exp(), log_q.exp())
        slope.mul_(weight.unsqueeze(-1)).add_(other.mul_((1.0 - weight).unsqueeze(-1)))
        return weight * forward + (1.0 - weight) * reverse, slope

    def _weight(self, p: Tensor, q: Tensor) -> Tensor:
        gap = (p - q).abs_()
        largest, order = p.sort(-1, descending=True)
        inside = largest.cumsum(-1) <= self.head
        inside[..., 0] = True
        # Where the gap is 0, both divergences are too, whatever their weights.
        return torch.where(inside, gap.gather(-1, order), 0.0).sum(-1) / gap.sum(-1).clamp(min=1e-30)


def akl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, head: float = 0.5) -> Tensor:
    """T² · (w · KL(p ‖ q) + (1 − w) · KL(q ‖ p)) between teacher p = softmax(t/T) and student q = softmax(s/T).

    Early in a training forward KL draws the student to the head of the teacher's distribution and reverse KL to its
    tail; w = gap in the head / whole gap, with the gap Σ |p − q|, gives each the share that is amiss where it works.
    w is taken as constant in the gradient.

    The head is the teacher's most probable class and those after it as long as together they have at most `head`: the
    authors' code.

    Args:
        student_logits: (batch, …, classes). −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        temperature: T > 0; the paper has 1.
        head: the paper's μ, from 0 (the head is one class) to 1.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ, or a setting is out of range.

    Wu et al. 2024, "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models",
    arXiv:2404.02657.
    """
    return divergence(student_logits, teacher_logits, Adaptive(fraction(head, "akl head")), temperature, "akl")


class AKL(DivergenceLoss):
    """`akl` with its temperature and head.

    A stored top-k target does not serve: the rest of the mass, taken as one outcome, would pass for the head.
    """

    name = "akl"
    targets = (Tensor, LinearHead)

    def __init__(self, temperature: float = 1.0, head: float = 0.5) -> None:
        super().__init__(Adaptive(fraction(head, "AKL head")), temperature)
