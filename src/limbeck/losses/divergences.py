"""How far a student's distribution q is from a teacher's p, with the slope that a gradient is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Divergence(Protocol):
    """A divergence between distributions over the last dimension, given as logarithms.

    Gives its value (…,) in nats and its slope ∂D/∂log q (…, outcomes), log q taken as free. The gradient in the
    student's logits is then slope − q · Σ slope. An outcome of probability 0 on either side adds nothing but what its
    limit says: 0 · log 0 = 0.
    """

    def __call__(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]: ...


def log_ratio(log_a: Tensor, log_b: Tensor, a: Tensor) -> Tensor:
    """log a − log b, and 0 where a is 0: the convention 0 · log 0 = 0, also between two excluded outcomes."""
    return (log_a - log_b).masked_fill_(a == 0, 0.0)


@dataclass(frozen=True, slots=True)
class ForwardKL:
    """KL(p ‖ q)."""

    def __call__(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        p = log_p.exp()
        return (p * log_ratio(log_p, log_q, p)).sum(-1), p.neg_()


@dataclass(frozen=True, slots=True)
class ReversedKL:
    """KL(q ‖ p)."""

    def __call__(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        q = log_q.exp()
        ratio = log_ratio(log_q, log_p, q)
        return (q * ratio).sum(-1), ratio.add_(1.0).mul_(q)


@dataclass(frozen=True, slots=True)
class JensenShannon:
    """β · KL(p ‖ m) + (1 − β) · KL(q ‖ m), m = β · p + (1 − β) · q, for 0 < β < 1."""

    beta: float

    def __call__(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        p, q = log_p.exp(), log_q.exp()
        log_m = mixed(log_p, log_q, self.beta)
        ratio = log_ratio(log_q, log_m, q)
        to_student = (q * ratio).sum(-1)
        value = self.beta * (p * log_ratio(log_p, log_m, p)).sum(-1) + (1.0 - self.beta) * to_student
        return value, ratio.mul_(q).mul_(1.0 - self.beta)


@dataclass(frozen=True, slots=True)
class Skewed:
    """KL(p ‖ α · p + (1 − α) · q)."""

    alpha: float

    def __call__(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        p = log_p.exp()
        log_m = mixed(log_p, log_q, self.alpha)
        share = log_ratio(log_q, log_m, log_q.exp()).exp_().mul_(p)
        # Where q is 0 the share is 0 as well; the ratio above was set to 1 there.
        share.masked_fill_(log_q == -math.inf, 0.0)
        return (p * log_ratio(log_p, log_m, p)).sum(-1), share.mul_(self.alpha - 1.0)


@dataclass(frozen=True, slots=True)
class SkewedReverse:
    """KL(q ‖ (1 − α) · p + α · q)."""

    alpha: float

    def __call__(self, log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        q = log_q.exp()
        ratio = log_ratio(log_q, mixed(log_q, log_p, self.alpha), q)
        value = (q * ratio).sum(-1)
        return value, (1.0 + ratio - self.alpha * ratio.exp()).mul_(q)


def mixed(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """log(share · a + (1 − share) · b)."""
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))
