"""Losses between the answers of both models: divergences of softened probabilities, and logits matched."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limbeck.checks import LimbeckError, same_shape
from limbeck.losses.base import Loss
from limbeck.losses.numeric import fraction, positive, precise


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
    return _divergence(student_logits, teacher_logits, temperature, 0.0, "kd")


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T² · KL(q ‖ p), the divergence the other way round: the student may leave out what it cannot represent.

    Shapes, precision and Raises as in `kd`.

    Gu et al. 2024, "MiniLLM", arXiv:2306.08543.
    """
    return _divergence(student_logits, teacher_logits, temperature, 1.0, "reverse_kl")


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
    return _divergence(student_logits, teacher_logits, temperature, fraction(beta, "beta"), "generalized_jsd")


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


class KD(Loss):
    """`kd` with its temperature."""

    name = "kd"

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "KD temperature")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        return kd(student, teacher, temperature=self.temperature)


class ReverseKL(Loss):
    """`reverse_kl` with its temperature."""

    name = "reverse-kl"

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "ReverseKL temperature")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        return reverse_kl(student, teacher, temperature=self.temperature)


class GeneralizedJSD(Loss):
    """`generalized_jsd` with its temperature and β."""

    name = "generalized-jsd"

    def __init__(self, temperature: float = 4.0, beta: float = 0.5) -> None:
        super().__init__()
        self.temperature = positive(temperature, "GeneralizedJSD temperature")
        self.beta = fraction(beta, "GeneralizedJSD beta")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        return generalized_jsd(student, teacher, temperature=self.temperature, beta=self.beta)


class LogitMSE(Loss):
    """`logit_mse`."""

    name = "logit-mse"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        return logit_mse(student, teacher)


class _Divergence(torch.autograd.Function):
    """T² · divergence, its gradient computed beside its value: one node that keeps only the gradient."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, beta: float) -> Tensor:
        if temperature != 1.0:
            student, teacher = student / temperature, teacher / temperature
        log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
        if beta == 0.0:
            p = log_p.exp()
            value = (p * _ratio(log_p, log_q, p)).sum(-1)
            gradient = log_q.exp_().sub_(p)
        elif beta == 1.0:
            q = log_q.exp()
            ratio = _ratio(log_q, log_p, q)
            value = (q * ratio).sum(-1)
            gradient = ratio.sub_(value.unsqueeze(-1)).mul_(q)
        else:
            p, q = log_p.exp(), log_q.exp()
            log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
            ratio = _ratio(log_q, log_m, q)
            to_student = (q * ratio).sum(-1)
            value = beta * (p * _ratio(log_p, log_m, p)).sum(-1) + (1.0 - beta) * to_student
            gradient = ratio.sub_(to_student.unsqueeze(-1)).mul_(q).mul_(1.0 - beta)
        ctx.temperature = temperature
        ctx.save_for_backward(gradient)
        return value if temperature == 1.0 else value.mul_(temperature * temperature)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            # Only create_graph leaves it on, and the saved gradient would then pass as a constant.
            raise LimbeckError("kd, reverse_kl and generalized_jsd have no second derivative; leave create_graph False")
        (gradient,) = ctx.saved_tensors
        if ctx.temperature != 1.0:
            grad_output = grad_output * ctx.temperature
        return grad_output.unsqueeze(-1) * gradient, None, None, None


def _ratio(log_a: Tensor, log_b: Tensor, a: Tensor) -> Tensor:
    """log a − log b, and 0 where a is 0: the convention 0 · log 0 = 0, also between two excluded classes."""
    return (log_a - log_b).masked_fill_(a == 0, 0.0)


def _divergence(student: Tensor, teacher: Tensor, temperature: float, beta: float, what: str) -> Tensor:
    same_shape(student, teacher, what)
    positive(temperature, f"{what} temperature")
    value: Tensor = _Divergence.apply(precise(student), precise(teacher.detach()), temperature, beta)
    return value
