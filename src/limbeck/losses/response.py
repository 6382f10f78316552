"""Losses between the answers of both models: divergences of softened probabilities, and logits matched."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.divergences import Divergence, ForwardKL, JensenShannon, ReversedKL, Skewed, SkewedReverse
from limbeck.losses.numeric import fraction, log_softmax, positive, precise
from limbeck.losses.sparse import Outcomes, outcomes, sparse_divergence
from limbeck.types import LinearHead, Sampled, Target, TopK, dense_logits


def kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T² · KL(p ‖ q) between teacher p = softmax(t/T) and student q = softmax(s/T), in nats.

    T² keeps the gradient's size when T changes (Hinton et al. 2015, section 2). One autograd node, whose
    gradient T · (q − p) is computed with the value; it cannot be differentiated twice.

    Args:
        student_logits: (batch, …, classes). −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ, or the temperature is not positive.

    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    return divergence(student_logits, teacher_logits, ForwardKL(), temperature, "kd")


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T² · KL(q ‖ p), the divergence the other way round: the student may leave out what it cannot represent.

    Shapes, precision and Raises as in `kd`.

    Gu et al. 2024, "MiniLLM", arXiv:2306.08543.
    """
    return divergence(student_logits, teacher_logits, ReversedKL(), temperature, "reverse_kl")


def generalized_jsd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, beta: float = 0.5) -> Tensor:
    """T² · (β · KL(p ‖ m) + (1 − β) · KL(q ‖ m)) with m = β · p + (1 − β) · q, teacher p and student q.

    β = 0.5 is the symmetric Jensen-Shannon divergence (Lin 1991). In between 0 and 1 this is equation 1 of
    the GKD paper, which goes to 0 with β and with 1 − β. The ends are what the paper names as the limits of
    the gradient's direction, JSD(β)/β → KL(p ‖ q) and JSD(β)/(1 − β) → KL(q ‖ p): β = 0 *is* `kd`, β = 1 *is*
    `reverse_kl`, so the value jumps there. TRL's GKDTrainer has the same mixture, weights and ends, but no
    T².

    Shapes, precision and Raises as in `kd`; a β outside [0, 1] raises too.

    Agarwal et al. 2024, "On-Policy Distillation of Language Models", arXiv:2306.13649; Lin 1991, "Divergence
    Measures Based on the Shannon Entropy".
    """
    return divergence(student_logits, teacher_logits, between(beta), temperature, "generalized_jsd")


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, alpha: float = 0.1) -> Tensor:
    """T² · KL(p ‖ α · p + (1 − α) · q), teacher p and student q: finite where the student gives nothing.

    α = 0 is `kd`. Shapes, precision and Raises as in `kd`; an α outside [0, 1) raises too.

    Ko et al. 2024, "DistiLLM", arXiv:2402.03898, equation 3.
    """
    return divergence(student_logits, teacher_logits, skewed(alpha), temperature, "skew_kl")


def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, alpha: float = 0.1
) -> Tensor:
    """T² · KL(q ‖ (1 − α) · p + α · q), teacher p and student q.

    α = 0 is `reverse_kl`. Shapes, precision and Raises as in `kd`; an α outside [0, 1) raises too.

    Ko et al. 2024, "DistiLLM", arXiv:2402.03898, section 3.1.
    """
    return divergence(student_logits, teacher_logits, skewed_reverse(alpha), temperature, "skew_reverse_kl")


def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The mean over classes of (s − t)²; the limit of `kd` at high temperature, for logits with one mean.

    Args:
        student_logits: (batch, …, classes).
        teacher_logits: the same shape; never receives a gradient.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ.

    Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?", arXiv:1312.6184.
    """
    same_shape(student_logits, teacher_logits, "logit_mse")
    return (precise(student_logits) - precise(teacher_logits.detach())).square().mean(-1)


class DivergenceLoss(Loss):
    """A divergence of the student's softened probabilities from the teacher's, with its temperature.

    The teacher's answer may be dense logits, a head that makes them, or a sparse target whose temperature is the same.
    """

    targets: tuple[type, ...] = (Tensor, LinearHead, TopK)

    def __init__(self, divergence: Divergence, temperature: float) -> None:
        super().__init__()
        self.divergence = divergence
        self.temperature = positive(temperature, f"{type(self).__name__} temperature")

    def forward(self, student: Tensor, teacher: Target) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        same_temperature(self, teacher)
        if isinstance(teacher, LinearHead):
            teacher = dense_logits(teacher)
        if isinstance(teacher, Tensor):
            return divergence(student, teacher, self.divergence, self.temperature, self.name)
        log_q = (precise(student) / self.temperature).log_softmax(-1)
        if isinstance(teacher, Sampled):
            value, _ = sparse_divergence(teacher, log_q.gather(1, teacher.ids), self.divergence)
        else:
            rest = log_q.scatter(1, teacher.ids, -math.inf).logsumexp(1)
            log_p, log_outcomes = outcomes(teacher, log_q.gather(1, teacher.ids), rest)
            value = Outcomes.apply(log_outcomes, log_p, self.divergence)
        return value * self.temperature**2


class KD(DivergenceLoss):
    """`kd` with its temperature."""

    name = "kd"
    targets = (Tensor, LinearHead, TopK, Sampled)

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__(ForwardKL(), temperature)


class ReverseKL(DivergenceLoss):
    """`reverse_kl` with its temperature."""

    name = "reverse-kl"

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__(ReversedKL(), temperature)


class GeneralizedJSD(DivergenceLoss):
    """`generalized_jsd` with its temperature and β."""

    name = "generalized-jsd"

    def __init__(self, temperature: float = 4.0, beta: float = 0.5) -> None:
        super().__init__(between(beta), temperature)


class SkewKL(DivergenceLoss):
    """`skew_kl` with its temperature and α."""

    name = "skew-kl"

    def __init__(self, temperature: float = 4.0, alpha: float = 0.1) -> None:
        super().__init__(skewed(alpha), temperature)


class SkewReverseKL(DivergenceLoss):
    """`skew_reverse_kl` with its temperature and α."""

    name = "skew-reverse-kl"

    def __init__(self, temperature: float = 4.0, alpha: float = 0.1) -> None:
        super().__init__(skewed_reverse(alpha), temperature)


class LogitMSE(Loss):
    """`logit_mse`."""

    name = "logit-mse"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        return logit_mse(student, teacher)


def between(beta: float) -> Divergence:
    """The generalised Jensen-Shannon divergence, with its ends."""
    ends: dict[float, Divergence] = {0.0: ForwardKL(), 1.0: ReversedKL()}
    return ends.get(fraction(beta, "beta")) or JensenShannon(beta)


def skewed(alpha: float) -> Divergence:
    """Skew KL, or KL itself at α = 0."""
    return Skewed(alpha) if _below_one(alpha) else ForwardKL()


def skewed_reverse(alpha: float) -> Divergence:
    """Skew reverse KL, or reverse KL itself at α = 0."""
    return SkewedReverse(alpha) if _below_one(alpha) else ReversedKL()


def _below_one(alpha: float) -> float:
    if not 0.0 <= alpha < 1.0:
        raise LimbeckError(f"alpha: expected a number from 0 to below 1, got {alpha}")
    return alpha


def same_temperature(loss: DivergenceLoss, target: Target) -> None:
    """Raises LimbeckError unless a target that was softened when it was made has the loss's temperature."""
    if isinstance(target, TopK | Sampled) and target.temperature != loss.temperature:
        raise LimbeckError(
            f"{loss.name}: its temperature is {loss.temperature:g}, but the targets were stored at temperature "
            f"{target.temperature:g}; give the term that temperature, or label the data again with the other"
        )


class _Divergence(torch.autograd.Function):
    """T² · divergence, its gradient computed beside its value: one node that keeps only the gradient."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, rule: Divergence) -> Tensor:
        if temperature != 1.0:
            student, teacher = student / temperature, teacher / temperature
        log_q, log_p = log_softmax(student), log_softmax(teacher)
        value, slope = rule(log_p, log_q)
        gradient = slope.sub_(log_q.exp_().mul_(slope.sum(-1, keepdim=True)))
        ctx.temperature = temperature
        ctx.save_for_backward(gradient)
        return value if temperature == 1.0 else value.mul_(temperature * temperature)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            # Only create_graph leaves it on, and the saved gradient would then pass as a constant.
            raise LimbeckError("divergences have no second derivative; leave create_graph False")
        (gradient,) = ctx.saved_tensors
        if ctx.temperature != 1.0:
            grad_output = grad_output * ctx.temperature
        return grad_output.unsqueeze(-1) * gradient, None, None, None


def divergence(student: Tensor, teacher: Tensor, rule: Divergence, temperature: float, what: str) -> Tensor:
    """T² times a divergence between softened probabilities, (batch, …)."""
    same_shape(student, teacher, what)
    positive(temperature, f"{what} temperature")
    value: Tensor = _Divergence.apply(precise(student), precise(teacher.detach()), temperature, rule)
    return value
