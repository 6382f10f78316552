"""The total variation distance: half of what two distributions do not share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.losses.response import DivergenceLoss, divergence


@dataclass(frozen=True, slots=True)
class TotalVariation:
    """½ · Σ |p − q|; its slope is taken as 0 where p and q are equal."""

    def __call__(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        q = log_q.exp()
        above = q - log_p.exp()
        return 0.5 * above.abs().sum(-1), above.sign_().mul_(q).mul_(0.5)


def tvd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T² · ½ · Σ |p − q| between teacher p = softmax(t/T) and student q = softmax(s/T).

    It is symmetric, and at most T²: no outcome that one side thinks impossible can take it over. Its gradient does not
    shrink near the teacher as that of `kd` does, and has a kink there.

    Args:
        student_logits: (batch, …, classes). −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ, or the temperature is not positive.

    Wen et al. 2023, "f-Divergence Minimization for Sequence-Level Knowledge Distillation", arXiv:2307.15190, whose
    distance is between whole sequences and bounded by the sum of this one over their tokens.
    """
    return divergence(student_logits, teacher_logits, TotalVariation(), temperature, "tvd")


class TVD(DivergenceLoss):
    """`tvd` with its temperature."""

    name = "tvd"

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__(TotalVariation(), temperature)
