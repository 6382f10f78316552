"""How similar each sample's feature is to those of the others."""

from __future__ import annotations

from torch import Tensor

from limbeck.losses.base import Loss, LossInput
from limbeck.losses.vectors import both, counted, finished, products, unit


def sp(student: Tensor, teacher: Tensor, where: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
    """The squared differences of the batch's similarities: of inner products of features, each item's at length 1.

    An item's value is the sum over its similarities divided by the number of items that count, so that the mean over
    items is the paper's loss. A single item is as similar to itself as can be, and its value 0.

    Args:
        student: (batch, …), of any shape; flattened.
        teacher: likewise, of any other shape; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items are similar to none.
        tokens: (batch, tokens) boolean, which tokens of features (batch, tokens, width) are there; None for all.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the batch sizes differ, or a mask is of another shape.

    Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682, section 3.
    """
    student, teacher = both(student, teacher, where, "sp", tokens)
    mine, theirs = unit(products(student.flatten(1))), unit(products(teacher.flatten(1)))
    return finished((mine - theirs).square().sum(1) / counted(student, where), where)


class SP(Loss):
    """`sp`; of a text all tokens together are the feature."""

    name = "sp"
    inputs: tuple[LossInput, ...] = ("teacher", "where", "tokens")
    wants = "last-stage"
    aligned = False
    structured = True

    def forward(
        self, student: Tensor, teacher: Tensor, where: Tensor | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """(batch,) from features of shape (batch, …), and masks of shape (batch,) and (batch, tokens)."""
        return sp(student, teacher, where, tokens)
