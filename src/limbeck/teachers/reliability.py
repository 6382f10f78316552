"""How far each of several teachers may be trusted with a sample, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.numeric import precise


def by_confidence(logits: Tensor, labels: Tensor | None, factors: Tensor) -> Tensor:
    """The weights of CA-MKD: (1 − softmax over teachers of the cross-entropy) / (teachers − 1).

    A sample without a label has the softmax over teachers of the negative entropy.

    Args:
        logits: (teachers, batch, classes).
        labels: (batch,) class indices, negative where there is none; None where no sample has one.
        factors: (teachers,), which multiply the weights.

    Returns:
        (teachers, batch), which add up to 1 over the teachers.

    Raises:
        LimbeckError: labels are not one class index a sample.

    Zhang et al. 2022, "Confidence-Aware Multi-Teacher Knowledge Distillation", arXiv:2201.00007.
    """
    teachers, batch, _ = logits.shape
    if teachers == 1:
        return logits.new_ones(1, batch)
    log_p = logits.log_softmax(-1)
    # An excluded class has probability 0 and logarithm −inf, whose product is no number.
    weights = (log_p.exp() * log_p).nan_to_num(nan=0.0).sum(-1).softmax(0)
    if labels is not None:
        if labels.is_floating_point() or labels.shape != (batch,):
            raise LimbeckError(
                f"combine='confidence': expected labels of shape ({batch},), one class index a sample, got "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        at = labels.clamp(min=0).expand(teachers, -1).unsqueeze(-1)
        surprise = -log_p.gather(-1, at).squeeze(-1)
        weights = torch.where(labels >= 0, (1.0 - surprise.softmax(0)) / (teachers - 1), weights)
    weighted = weights * factors.unsqueeze(1)
    return weighted / weighted.sum(0)


def by_class(logits: Tensor, weights: Tensor) -> Tensor:
    """Each teacher's weight expected under the mean of all teachers' probabilities.

    Args:
        logits: (teachers, batch, classes).
        weights: (teachers, classes), not negative.

    Returns:
        (teachers, batch), which add up to 1 over the teachers.

    Raises:
        LimbeckError: the weights are for another number of classes.
    """
    if weights.shape[1] != logits.shape[-1]:
        raise LimbeckError(
            f"combine='per-class': weights for {weights.shape[1]} classes, but the teachers know {logits.shape[-1]}"
        )
    expected = weights @ logits.softmax(-1).mean(0).t()
    return expected / expected.sum(0)


def mixture(logits: Sequence[Tensor], weights: Tensor, temperature: float) -> Tensor:
    """T · log Σ weight · softmax(z / T): logits that are the mixture of distributions at temperature T.

    Args:
        logits: of each teacher (batch, classes).
        weights: (teachers, batch).

    Returns:
        (batch, classes), in float32 (float64 where the logits are).
    """
    log_p = (torch.stack([precise(each) for each in logits]) / temperature).log_softmax(-1)
    shares = weights.log().unsqueeze(-1)
    return torch.logsumexp(shares + log_p, 0) * temperature
