"""Correlations between samples by a kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import positive
from limbeck.losses.vectors import both, counted, embedded, finished, products, unit


def cc(student: Tensor, teacher: Tensor, where: Tensor | None = None, *, gamma: float = 0.4, order: int = 2) -> Tensor:
    """The squared differences of the correlations that a Gaussian kernel gives the samples of a batch.

    The kernel exp(−γ · ‖x − y‖²) of embeddings at length 1 is exp(−2γ) · exp(2γ · x·y), whose second factor is taken as
    its Taylor series up to `order`. An item's value is the sum over its correlations divided by the number of items
    that count, so that the mean over items is the paper's loss.

    Args:
        student: (batch, …); (batch, width) as it is, maps averaged over positions, tokens (batch, tokens, width) over
            tokens.
        teacher: likewise, of any width; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items correlate with none.
        gamma: γ > 0.
        order: the highest power of the series, at least 1.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the batch sizes differ, the mask is of another shape, or a setting is out of range.

    Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802, section 3.3.
    """
    positive(gamma, "cc gamma")
    _at_least_one(order, "cc order")
    student, teacher = both(student, teacher, where, "cc")
    mine, theirs = (_correlations(embedded(side), gamma, order) for side in (student, teacher))
    return finished((mine - theirs).square().sum(1) / counted(student, where), where)


class CC(Loss):
    """`cc` with its kernel."""

    name = "cc"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    wants = "embedding"
    aligned = False

    def __init__(self, gamma: float = 0.4, order: int = 2) -> None:
        super().__init__()
        self.gamma = positive(gamma, "CC gamma")
        self.order = _at_least_one(order, "CC order")

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch,) from features of shape (batch, …) and a mask of shape (batch,)."""
        return cc(student, teacher, where, gamma=self.gamma, order=self.order)


def _correlations(vectors: Tensor, gamma: float, order: int) -> Tensor:
    """The kernel matrix (batch, batch). A masked item's vector is 0 on both sides, so what it has is equal there."""
    cosines = products(unit(vectors))
    series = torch.ones_like(cosines)
    for power in range(order, 0, -1):
        series = 1.0 + (2.0 * gamma / power) * cosines * series
    return math.exp(-2.0 * gamma) * series


def _at_least_one(order: int, what: str) -> int:
    if order < 1:
        raise LimbeckError(f"{what}: expected 1 or a higher power, got {order}; the paper's is 2")
    return order
