"""A loss on how channels correlate over a batch: Pearson distillation, of detectors and others."""

from __future__ import annotations

from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.maps import over_same_positions
from limbeck.losses.numeric import precise

EPSILON = 1e-6
"""Added to the standard deviation, as in the authors' code."""

SMALLEST_VARIANCE = 1e-24
"""Far below what EPSILON hides; keeps the root's slope finite where a channel never varies."""


def pkd(student: Tensor, teacher: Tensor, where: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
    """Half the mean of (z_s − z_t)² over an item, where z is the feature after each channel got mean 0 and deviation 1.

    Mean and deviation are over all positions of the whole batch. The mean over items is, but for a factor
    (n − 1) / n, one minus Pearson's correlation of the channels. Where items have different numbers of tokens, each is
    divided by the average number, so that this still holds.

    Args:
        student: maps (batch, channels, height, width), tokens (batch, tokens, width) or vectors (batch, width).
        teacher: the same shape; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items are outside the batch's
            statistic, and their value is 0.
        tokens: (batch, tokens) boolean, True where a token counts; None where all do. Maps have none.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit.

    Cao et al. 2022, "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient",
    arXiv:2207.02039, with statistics over the batch as in the authors' code.
    """
    same_shape(student, teacher, "pkd")
    own, taught, counted = over_same_positions(precise(student), precise(teacher.detach()), tokens, "pkd")
    batch, channels, positions = own.shape
    items: Tensor | int = batch
    if where is not None:
        if where.shape != (batch,):
            raise LimbeckError(f"pkd: expected a mask of shape {(batch,)}, one value an item, got {tuple(where.shape)}")
        inside = where.view(-1, 1, 1).expand(-1, 1, positions)
        counted = inside if counted is None else counted & inside
        items = where.sum().clamp(min=1)
        own, taught = own.masked_fill(~counted, 0.0), taught.masked_fill(~counted, 0.0)
    count = max(batch * positions, 1) if counted is None else counted.sum().clamp(min=1)
    squares = (_normalised(own, counted, count) - _normalised(taught, counted, count)).square()
    return squares.sum((1, 2)) * items / (2 * channels * count)


class PKD(Loss):
    """`pkd`."""

    name = "pkd"
    inputs: tuple[LossInput, ...] = ("teacher", "where", "tokens")
    wants = "last-stage"
    structured = True

    def forward(
        self, student: Tensor, teacher: Tensor, where: Tensor | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """(batch,) from features (batch, channels, height, width), (batch, tokens, width) or (batch, width)."""
        return pkd(student, teacher, where, tokens)


def _normalised(feature: Tensor, counted: Tensor | None, count: Tensor | int) -> Tensor:
    """(batch, channels, positions) with mean 0 and deviation 1 a channel; 0 where a position does not count."""
    centred = feature - feature.sum((0, 2), keepdim=True) / count
    if counted is not None:
        centred = centred.masked_fill(~counted, 0.0)
    freedom = max(count - 1, 1) if isinstance(count, int) else (count - 1).clamp(min=1)
    variance = centred.square().sum((0, 2), keepdim=True) / freedom
    return centred / (variance.clamp(min=SMALLEST_VARIANCE).sqrt() + EPSILON)
