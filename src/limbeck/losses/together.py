"""Terms on one small set of logits as one node: what a graph of ten nodes costs is more than their arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.numeric import class_indices, log_softmax, precise
from limbeck.losses.response import DivergenceLoss
from limbeck.losses.supervised import Supervised
from limbeck.types import UNLABELLED

_SUM = 2  # ATen's number for reduction="sum"


@dataclass(frozen=True, slots=True, eq=False)
class JointTerm:
    """One loss on the logits: `given` is the teacher's logits or the labels, `count` what its sum is divided by (None:
    the items that count)."""

    loss: Loss
    weight: float
    given: Tensor
    count: Tensor | None = None


def serves_joint(loss: Loss, given: object) -> bool:
    """Whether `joint_losses` computes a loss: plain cross-entropy, and the divergences from dense logits."""
    if type(loss) is Supervised:
        plain = loss.class_weights is None and loss.label_smoothing == 0.0
        return plain and isinstance(given, Tensor) and given.dim() == 1
    return isinstance(loss, DivergenceLoss) and isinstance(given, Tensor)


def joint_losses(logits: Tensor, terms: Sequence[JointTerm]) -> tuple[Tensor, list[Tensor]]:
    """Σ weight · mean, a scalar with its graph, and the means without; the gradient is computed with them.

    Args:
        logits: (batch, classes).
        terms: each with a loss that `serves_joint`. Of a term on labels those that are -1 do not count.

    Raises:
        LimbeckError: shapes do not fit.
    """
    means: list[Tensor] = []
    total: Tensor = _Joint.apply(logits, terms, means)
    return total, means


class _Joint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, terms: Sequence[JointTerm], means: list[Tensor]) -> Tensor:
        student = precise(logits)
        total: Tensor | None = None
        gradient: Tensor | None = None
        for term in terms:
            compute = _cross_entropy if isinstance(term.loss, Supervised) else _divergence
            mean, own = compute(student, term)
            means.append(mean)
            weighted = mean * term.weight
            total = weighted if total is None else total.add_(weighted)
            gradient = own if gradient is None else gradient.add_(own)
        assert total is not None
        assert gradient is not None
        ctx.save_for_backward(gradient.to(logits.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise LimbeckError("joint losses have no second derivative; leave create_graph False")
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


def _cross_entropy(logits: Tensor, term: JointTerm) -> tuple[Tensor, Tensor]:
    """The mean, and the weighted gradient."""
    labels = term.given
    class_indices(labels, logits, "cross_entropy")
    log_q = log_softmax(logits)
    summed, known = torch.ops.aten.nll_loss_forward(log_q, labels, None, _SUM, UNLABELLED)
    count = known.clamp(min=1) if term.count is None else term.count
    share = logits.new_tensor(term.weight) / count
    slope = torch.ops.aten.nll_loss_backward(share, log_q, labels, None, _SUM, UNLABELLED, known)
    return summed / count, slope.sub_(log_q.exp_().mul_(slope.sum(-1, keepdim=True)))


def _divergence(logits: Tensor, term: JointTerm) -> tuple[Tensor, Tensor]:
    """The mean, and the weighted gradient."""
    loss = term.loss
    assert isinstance(loss, DivergenceLoss)
    same_shape(logits, term.given, loss.name)
    temperature = loss.temperature
    teacher = precise(term.given)
    if temperature != 1.0:
        logits, teacher = logits / temperature, teacher / temperature
    log_q, log_p = log_softmax(logits), log_softmax(teacher)
    value, slope = loss.divergence(log_p, log_q)
    gradient = slope.sub_(log_q.exp_().mul_(slope.sum(-1, keepdim=True)))
    if term.count is None:
        items = len(logits)
        return value.sum() * (temperature**2 / items), gradient.mul_(term.weight * temperature / items)
    share = temperature / term.count
    return value.sum() * (share * temperature), gradient.mul_(share * term.weight)
