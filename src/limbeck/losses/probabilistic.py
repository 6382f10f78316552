"""Similarities to the other samples as probabilities."""

from __future__ import annotations

from torch import Tensor

from limbeck.losses.base import Loss, LossInput
from limbeck.losses.vectors import both, counted, embedded, finished, products, unit

EPSILON = 1e-7
"""Added to probabilities inside the logarithm, as in the authors' code."""


def pkt(student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
    """The KL divergence of the student's conditional probabilities from the teacher's, by the number of items.

    The probability of j given i is (1 + cos of the embeddings) / 2, divided by its sum over j. The authors' code
    averages over pairs of items, so an item's value is its divergence divided by the number of items that count.

    Args:
        student: (batch, …); (batch, width) as it is, maps averaged over positions, tokens (batch, tokens, width) over
            tokens.
        teacher: likewise, of any width; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items have no probability.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the batch sizes differ, or the mask is of another shape.

    Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", arXiv:1803.10837,
    section 3.
    """
    student, teacher = both(student, teacher, where, "pkt")
    q, p = _conditional(embedded(student), where), _conditional(embedded(teacher), where)
    divergence = (p * ((p + EPSILON).log() - (q + EPSILON).log())).sum(1)
    return finished(divergence / counted(student, where), where)


class PKT(Loss):
    """`pkt`."""

    name = "pkt"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    wants = "embedding"
    aligned = False

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch,) from features of shape (batch, …) and a mask of shape (batch,)."""
        return pkt(student, teacher, where)


def _conditional(vectors: Tensor, where: Tensor | None) -> Tensor:
    """Probabilities (batch, batch) of items given an item; an item is among its own."""
    similar = (products(unit(vectors)) + 1.0) / 2.0
    if where is not None:
        similar = similar.masked_fill(~where.unsqueeze(0), 0.0)
    total = similar.sum(1, keepdim=True)
    return similar / total.masked_fill(total == 0.0, 1.0)
