"""Features as one vector an item, and the arithmetic that losses on relations between items share."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.numeric import full_precision, precise


def both(
    student: Tensor, teacher: Tensor, where: Tensor | None, what: str, tokens: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The features (batch, …) of both sides in float32, 0 at what does not count, the teacher's without a graph.

    `where` (batch,) says which items count, `tokens` (batch, tokens) which tokens of features (batch, tokens, width).

    Raises:
        LimbeckError: the batch sizes differ, features are single numbers, or a mask is of another shape.
    """
    if min(student.dim(), teacher.dim()) < 2 or len(student) != len(teacher):
        raise LimbeckError(
            f"{what}: expected features of shape (batch, …) of one batch, with one or more dimensions beside it, got "
            f"the student's {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; tap other modules"
        )
    if where is not None and where.shape != student.shape[:1]:
        raise LimbeckError(
            f"{what}: expected a mask of shape ({len(student)},), one value an item of the batch, "
            f"got {tuple(where.shape)}"
        )
    return _kept(student, where, tokens, what), _kept(teacher.detach(), where, tokens, what)


def _kept(features: Tensor, where: Tensor | None, tokens: Tensor | None, what: str) -> Tensor:
    # Before any arithmetic, so that not even a NaN of a masked item gets through.
    if where is not None:
        features = features.masked_fill(~where.view(-1, *[1] * (features.dim() - 1)), 0.0)
    if tokens is not None and features.dim() == 3:
        if tokens.shape != features.shape[:2]:
            raise LimbeckError(
                f"{what}: expected a mask of tokens of shape {tuple(features.shape[:2])} for features of shape "
                f"{tuple(features.shape)}, got {tuple(tokens.shape)}; student and teacher must read the same tokens"
            )
        features = features.masked_fill(~tokens.unsqueeze(-1), 0.0)
    return precise(features)


def embedded(features: Tensor) -> Tensor:
    """(batch, width): features as they are, maps (batch, channels, height, width) averaged over positions, tokens
    (batch, tokens, width) over tokens."""
    if features.dim() == 2:
        return features
    return features.mean(1) if features.dim() == 3 else features.flatten(2).mean(2)


def counted(vectors: Tensor, where: Tensor | None) -> int | Tensor:
    """How many items count, at least 1."""
    return max(len(vectors), 1) if where is None else where.sum().clamp(min=1)


def finished(values: Tensor, where: Tensor | None) -> Tensor:
    """Values (batch,) with 0 at items that do not count."""
    return values if where is None else values.masked_fill(~where, 0.0)


def unit(vectors: Tensor) -> Tensor:
    """The vectors of the last dimension at length 1; a vector of zeros stays, and its gradient finite."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.masked_fill(norms == 0.0, 1.0)


def centred(vectors: Tensor, where: Tensor | None) -> Tensor:
    """(batch, width) less the mean over the items that count; 0 where one does not."""
    if where is None:
        return vectors - vectors.mean(0)
    shifted = vectors - vectors.sum(0) / counted(vectors, where)
    return shifted.masked_fill(~where.unsqueeze(1), 0.0)


def products(vectors: Tensor) -> Tensor:
    """The inner products of all pairs, (…, items, items) from (…, items, width)."""
    with full_precision(vectors):
        inner: Tensor = vectors @ vectors.transpose(-1, -2)
    return inner
