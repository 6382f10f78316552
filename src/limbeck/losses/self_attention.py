"""Relations between a text's tokens, as a transformer's queries, keys and values have them."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import precise

Vectors = Tensor | tuple[Tensor, ...]


def minilm(student: Vectors, teacher: Vectors, tokens: Tensor | None = None, *, relation_heads: int = 12) -> Tensor:
    """Σ over queries, keys and values of KL(teacher ‖ student), mean over relation heads and tokens that are there.

    Vectors A of one kind are split into `relation_heads` parts of width d; a token's relation to all others is
    softmax(A · Aᵀ / √d). The models' own numbers of heads and widths play no part.

    Args:
        student: a tuple of vectors (batch, length, width), such as (queries, keys, values), or only one kind.
        teacher: as many, of any widths; never receives a gradient.
        tokens: (batch, length) boolean, True where a token is there; None where all are. The others neither have
            relations nor are in them; a text without any has the value 0.
        relation_heads: how many parts; divides every width.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: kinds, texts or lengths differ, or `relation_heads` does not divide a width.

    Wang et al. 2021, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
    Transformers", arXiv:2012.15828, equations 5 to 8; the relation of values is that of MiniLM, arXiv:2002.10957.
    """
    ours = (student,) if isinstance(student, Tensor) else student
    theirs = (teacher,) if isinstance(teacher, Tensor) else teacher
    _check(ours, theirs, tokens, relation_heads)
    total: Tensor | None = None
    for mine, other in zip(ours, theirs, strict=True):
        log_q = _relations(precise(mine), tokens, relation_heads)
        log_p = _relations(precise(other.detach()), tokens, relation_heads).to(log_q.dtype)
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean(1)
        total = divergence if total is None else total + divergence
    assert total is not None
    if tokens is None:
        return total.mean(1)
    count: Tensor = tokens.sum(1)
    return total.masked_fill(~tokens, 0.0).sum(1) / count.clamp(min=1)


class MiniLM(Loss):
    """`minilm` with its number of relation heads.

    12 divides the usual widths; the paper takes 48 with base-size teachers and 64 with large ones.
    """

    name = "minilm"
    inputs: tuple[LossInput, ...] = ("teacher", "tokens")
    wants = "values"
    aligned = False
    structured = True

    def __init__(self, relation_heads: int = 12) -> None:
        super().__init__()
        if relation_heads < 1:
            raise LimbeckError(f"MiniLM relation_heads: expected a positive number, got {relation_heads}")
        self.relation_heads = relation_heads

    def forward(self, student: Vectors, teacher: Vectors, tokens: Tensor | None = None) -> Tensor:
        """(batch,) from tuples of vectors of shape (batch, length, width) and a mask of shape (batch, length)."""
        return minilm(student, teacher, tokens, relation_heads=self.relation_heads)


def _relations(vectors: Tensor, tokens: Tensor | None, heads: int) -> Tensor:
    """Logarithms of each token's relation to all, (batch, heads, length, length), from (batch, length, width)."""
    if tokens is not None:
        vectors = vectors.masked_fill(~tokens.unsqueeze(-1), 0.0)
    parts = vectors.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = (parts * parts.shape[-1] ** -0.5) @ parts.transpose(-1, -2)
    if tokens is not None:
        # The lowest number rather than −∞, so that a text without tokens has no NaN.
        scores = scores.masked_fill(~tokens[:, None, None, :], torch.finfo(scores.dtype).min)
    relations: Tensor = scores.log_softmax(-1)
    return relations


def _check(
    student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], tokens: Tensor | None, relation_heads: int
) -> None:
    every = [*student, *teacher]
    shapes = f"the student's shapes {_shapes(student)} and the teacher's {_shapes(teacher)}"
    if not len(student) == len(teacher) > 0 or any(
        each.dim() != 3 or each.shape[:2] != every[0].shape[:2] for each in every
    ):
        raise LimbeckError(
            "minilm: expected as many vectors (queries, keys, values) on both sides, each of shape (batch, length, "
            f"width) of the same texts, got {shapes}"
        )
    if tokens is not None and tokens.shape != every[0].shape[:2]:
        raise LimbeckError(
            f"minilm: expected a mask of shape {tuple(every[0].shape[:2])}, one value a token, got "
            f"{tuple(tokens.shape)}"
        )
    common = gcd(*(each.shape[-1] for each in every))
    if relation_heads < 1 or common % relation_heads:
        fitting = ", ".join(str(number) for number in range(1, common + 1) if common % number == 0)
        raise LimbeckError(
            f"minilm: {relation_heads} relation heads do not divide every width of {shapes}; these numbers do: "
            f"{fitting}"
        )


def _shapes(vectors: tuple[Tensor, ...]) -> str:
    return ", ".join(str(tuple(each.shape)) for each in vectors) or "none"
