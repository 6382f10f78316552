"""Relations between samples: how far apart they are, and the angles between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import not_negative
from limbeck.losses.vectors import both, counted, embedded, finished, products

ROUNDING = 16.0
"""Squared distances below so many roundings of the vectors' squared lengths are taken for 0."""


def rkd_distance(student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
    """The Huber distance of all pairs' distances, each relative to the mean distance in the batch.

    An item's value is the sum over its pairs, itself among them, divided by the number of items that count, so that
    the mean over items is the mean over all pairs. A single item has no pairs, and the value 0.

    Args:
        student: (batch, …); (batch, width) as it is, maps averaged over positions, tokens (batch, tokens, width) over
            tokens.
        teacher: likewise, of any width; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items have no pairs.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the batch sizes differ, or the mask is of another shape.

    Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068, section 3.2.1.
    """
    student, teacher = both(student, teacher, where, "rkd_distance")
    mine, theirs = _distances(_inner(student, where), where), _distances(_inner(teacher, where), where)
    return finished(_distance_values(mine, theirs, counted(student, where)), where)


def rkd_angle(student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
    """The Huber distance of the cosines of the angles at each item between any two others.

    An item's value is that of the angles whose vertex it is, divided by the square of the number of items that count,
    so that the mean over items is the mean over all triples. Where two of the three coincide the cosine is 0. Takes
    memory for batch³ numbers.

    Args:
        student: (batch, …); (batch, width) as it is, maps averaged over positions, tokens (batch, tokens, width) over
            tokens.
        teacher: likewise, of any width; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items are in no triple.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the batch sizes differ, or the mask is of another shape.

    Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068, section 3.2.2.
    """
    student, teacher = both(student, teacher, where, "rkd_angle")
    mine, theirs = _inner(student, where), _inner(teacher, where)
    values = _angle_values(
        _cosines(mine, _distances(mine, where)),
        _cosines(theirs, _distances(theirs, where)),
        counted(student, where),
    )
    return finished(values, where)


def rkd(
    student: Tensor,
    teacher: Tensor,
    where: Tensor | None = None,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """The weighted sum of `rkd_distance` and `rkd_angle`.

    Args:
        student: (batch, …), as in `rkd_angle`.
        teacher: likewise, of any width; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do.
        distance_weight, angle_weight: not negative.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the batch sizes differ, the mask is of another shape, or a weight is negative.

    Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068.
    """
    student, teacher = both(student, teacher, where, "rkd")
    mine, theirs = _inner(student, where), _inner(teacher, where)
    far, farther = _distances(mine, where), _distances(theirs, where)
    count = counted(student, where)
    values = not_negative(distance_weight, "rkd distance_weight") * _distance_values(far, farther, count)
    values = values + not_negative(angle_weight, "rkd angle_weight") * _angle_values(
        _cosines(mine, far), _cosines(theirs, farther), count
    )
    return finished(values, where)


class RKDDistance(Loss):
    """`rkd_distance`."""

    name = "rkd-distance"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    wants = "embedding"
    aligned = False

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch,) from features of shape (batch, …) and a mask of shape (batch,)."""
        return rkd_distance(student, teacher, where)


class RKDAngle(Loss):
    """`rkd_angle`."""

    name = "rkd-angle"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    wants = "embedding"
    aligned = False

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch,) from features of shape (batch, …) and a mask of shape (batch,)."""
        return rkd_angle(student, teacher, where)


class RKD(Loss):
    """`rkd` with its weights."""

    name = "rkd"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    wants = "embedding"
    aligned = False

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.distance_weight = not_negative(distance_weight, "RKD distance_weight")
        self.angle_weight = not_negative(angle_weight, "RKD angle_weight")

    def forward(self, student: Tensor, teacher: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch,) from features of shape (batch, …) and a mask of shape (batch,)."""
        return rkd(student, teacher, where, distance_weight=self.distance_weight, angle_weight=self.angle_weight)


def _inner(features: Tensor, where: Tensor | None) -> Tensor:
    """Inner products (batch, batch) of embeddings around their mean."""
    vectors = embedded(features)
    # Relations do not depend on the origin, and around the mean the least is lost where numbers cancel.
    return products(vectors - (vectors.sum(0) / counted(vectors, where)).detach())


def _distances(inner: Tensor, where: Tensor | None) -> Tensor:
    """Distances (batch, batch) from inner products; 0, with gradient 0, where two coincide or one does not count."""
    squares = inner.diagonal()
    lengths = squares.unsqueeze(0) + squares.unsqueeze(1)
    square = lengths - 2.0 * inner
    apart = square > ROUNDING * torch.finfo(inner.dtype).eps * lengths
    if where is not None:
        apart = apart & where.unsqueeze(0) & where.unsqueeze(1)
    return torch.where(apart, square, 1.0).sqrt().masked_fill(~apart, 0.0)


def _distance_values(student: Tensor, teacher: Tensor, count: int | Tensor) -> Tensor:
    return F.smooth_l1_loss(_relative(student, count), _relative(teacher, count), reduction="none").sum(1) / count


def _relative(distances: Tensor, count: int | Tensor) -> Tensor:
    """Distances by their mean over pairs of two different items."""
    pairs = count * (count - 1)
    pairs = max(pairs, 1) if isinstance(pairs, int) else pairs.clamp(min=1)
    mean = distances.sum() / pairs
    return distances / mean.masked_fill(mean == 0.0, 1.0)


def _cosines(inner: Tensor, distances: Tensor) -> Tensor:
    """Cosines (vertex, item, item) of the angles between the lines from a vertex to two items."""
    # ⟨j − i, k − i⟩ from inner products, without the (batch, batch, width) differences.
    half = inner.diagonal().unsqueeze(1) / 2.0 - inner
    apart = distances > 0.0
    inverse = distances.masked_fill(~apart, 1.0).reciprocal().masked_fill(~apart, 0.0)
    lines = inner.unsqueeze(0) + half.unsqueeze(2) + half.unsqueeze(1)
    return lines * inverse.unsqueeze(2) * inverse.unsqueeze(1)


def _angle_values(student: Tensor, teacher: Tensor, count: int | Tensor) -> Tensor:
    return F.smooth_l1_loss(student, teacher, reduction="none").sum((1, 2)) / (count * count)
