"""Attention matrices of transformers matched."""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import precise

EXCLUDED = -100.0
"""A score this low is one that the model masked; it counts as 0, as in the authors' code."""


def attention_mse(student: Tensor, teacher: Tensor, tokens: Tensor | None = None) -> Tensor:
    """The mean of (s − t)² over a text's attention matrices: heads, and pairs of tokens that are there.

    Where the numbers of heads differ, each side's mean over its heads is compared instead; the paper's student has as
    many heads as its teacher. The paper matches scores before the softmax, and reports that probabilities, which
    transformers models give as `attention.N`, converge more slowly; both are matrices, and so may be given here.

    Args:
        student: (batch, heads, length, length).
        teacher: (batch, any number of heads, length, length); never receives a gradient.
        tokens: (batch, length) boolean, True where a token is there; None where all are. Rows and columns of the
            others are left out; a text without any has the value 0.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes are not those of attention matrices of the same texts.

    Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv:1909.10351, equation 7.
    """
    length = student.shape[-1] if student.dim() else 0
    for side in (student, teacher):
        if side.dim() != 4 or side.shape[-2:] != (length, length) or len(side) != len(student):
            raise LimbeckError(
                "attention_mse: expected attention matrices of shape (batch, heads, length, length) of the same texts, "
                f"got the student's shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}"
            )
    if tokens is not None and tokens.shape != (len(student), length):
        raise LimbeckError(
            f"attention_mse: expected a mask of shape {(len(student), length)}, one value a token, got "
            f"{tuple(tokens.shape)}"
        )
    ours, theirs = precise(student), precise(teacher.detach())
    ours, theirs = ours.masked_fill(ours <= EXCLUDED, 0.0), theirs.masked_fill(theirs <= EXCLUDED, 0.0)
    if tokens is not None:
        missing = ~(tokens[:, None, :, None] & tokens[:, None, None, :])
        ours, theirs = ours.masked_fill(missing, 0.0), theirs.masked_fill(missing, 0.0)
    if ours.shape[1] != theirs.shape[1]:
        ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
    squares = (ours - theirs).square()
    if tokens is None:
        return squares.mean((1, 2, 3))
    count: Tensor = tokens.sum(1)
    return squares.mean(1).sum((1, 2)) / count.square().clamp(min=1)


class AttentionMSE(Loss):
    """`attention_mse`."""

    name = "attention-mse"
    inputs: tuple[LossInput, ...] = ("teacher", "tokens")
    wants = "attention"
    aligned = False
    structured = True

    def forward(self, student: Tensor, teacher: Tensor, tokens: Tensor | None = None) -> Tensor:
        """(batch,) from attention matrices of shape (batch, heads, length, length) and a mask (batch, length)."""
        return attention_mse(student, teacher, tokens)
