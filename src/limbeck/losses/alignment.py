"""Representations as a whole: centred kernel alignment."""

from __future__ import annotations

from torch import Tensor

from limbeck.losses.base import Loss, LossInput
from limbeck.losses.vectors import both, centred, counted, embedded, finished, products, unit


def cka(student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
    """1 − linear CKA of the batch's embeddings: 0 where they are equal up to rotation, shift and one scale.

    CKA is one number for the batch: every item carries it whole. Embeddings that do not vary are aligned with nothing,
    value 1; a single item has nothing to align, value 0.

    Args:
        student: (batch, …); (batch, width) as it is, maps averaged over positions, tokens (batch, tokens, width) over
            tokens.
        teacher: likewise, of any width; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items are outside the statistic.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the batch sizes differ, or the mask is of another shape.

    Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", arXiv:1905.00414, section 3.
    """
    student, teacher = both(student, teacher, where, "cka")
    mine, theirs = (unit(products(centred(embedded(side), where)).flatten()) for side in (student, teacher))
    several = counted(student, where) > 1
    value = (1.0 - (mine * theirs).sum()) * several
    return finished(value.expand(len(student)), where)


class CKA(Loss):
    """`cka`."""

    name = "cka"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    wants = "embedding"
    aligned = False

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch,) from features of shape (batch, …) and a mask of shape (batch,)."""
        return cka(student, teacher, where)
