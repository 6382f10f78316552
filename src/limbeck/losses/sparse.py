"""Divergences from targets that name only some entries: the largest with the rest of the mass, or draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.divergences import Divergence, ForwardKL
from limbeck.types import Sampled, TopK


@dataclass(frozen=True, slots=True, eq=False)
class SparseSlope:
    """The gradient of a sparse divergence in the student's logits: `outside` · q away from the ids, `inside` · q +
    `at_ids` at them. `outside` and `inside` are (items,), `at_ids` (items, k)."""

    outside: Tensor
    inside: Tensor
    at_ids: Tensor


def sparse_divergence(
    target: TopK | Sampled, log_q: Tensor, rule: Divergence, log_q_tail: Tensor | None = None
) -> tuple[Tensor, SparseSlope]:
    """A divergence from a sparse target (items,), and its slope.

    TopK: a divergence between k + 1 outcomes, the k entries and everything else, of which the teacher gives the tail
    and the student has 1 − Σ q. Sampled: −H(p) − Σ share · log q, whose mean over draws is KL(p ‖ q), gradient included
    (Anshumann et al. 2025, "Sparse Logit Sampling", arXiv:2503.16870).

    `log_q` (items, k) are the student's log-probabilities at the target's ids, `log_q_tail` (items,) the logarithm of
    its mass elsewhere, where that is known better than as 1 − Σ q.
    """
    if isinstance(target, Sampled):
        if not isinstance(rule, ForwardKL):
            raise LimbeckError("sampled targets estimate forward KL only; store the logits dense or top-k")
        shares = target.shares.to(log_q.dtype)
        # An unused place may name an entry that the student excludes.
        value = -target.entropy.to(log_q.dtype) - (shares * log_q).masked_fill(shares == 0, 0.0).sum(1)
        mass = shares.sum(1)
        return value, SparseSlope(mass, mass, -shares)
    log_p, log_q = outcomes(target, log_q, log_q_tail)
    value, slope = rule(log_p, log_q)
    log_tail = log_q[:, -1]
    inside = -slope.sum(1)
    # The rest of the mass moves as one; where there is none, none moves.
    rest = torch.where(log_tail == -math.inf, 0.0, slope[:, -1] * (-log_tail).exp())
    return value, SparseSlope(inside + rest, inside, slope[:, :-1])


def outcomes(target: TopK, log_q: Tensor, log_q_tail: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Teacher's and student's log-probabilities of the k entries and of the rest, (items, k + 1) each."""
    log_p = torch.cat([target.log_probs.to(log_q.dtype), target.log_tail.to(log_q.dtype).unsqueeze(1)], 1)
    return log_p, torch.cat([log_q, tail_of(target, log_q, log_q_tail).unsqueeze(1)], 1)


def tail_of(target: TopK, log_q: Tensor, log_q_tail: Tensor | None) -> Tensor:
    """The logarithm of the student's mass outside the ids; −inf where the teacher names all there is."""
    tail = log_of_rest(log_q.logsumexp(1)) if log_q_tail is None else log_q_tail
    return tail.masked_fill(target.log_tail == -math.inf, -math.inf)


def log_of_rest(log_mass: Tensor) -> Tensor:
    """log(1 − e^x) for x ≤ 0, exact at both ends (Mächler 2012, "Accurately computing log(1 − exp(−|a|))")."""
    # Rounding may take the sum of probabilities above 1.
    x = log_mass.clamp(max=-torch.finfo(log_mass.dtype).eps)
    return torch.where(x > -math.log(2.0), (-torch.expm1(x)).log(), torch.log1p(-x.exp()))


class Outcomes(torch.autograd.Function):
    """A divergence of log q from log p as one node; what lies before log q is autograd's."""

    @staticmethod
    def forward(ctx: Any, log_q: Tensor, log_p: Tensor, rule: Divergence) -> Tensor:
        value, slope = rule(log_p, log_q)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return upstream.unsqueeze(-1) * slope, None, None
