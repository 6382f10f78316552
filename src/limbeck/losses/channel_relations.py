"""Relations between channels: which of a sample's channels fire together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import full_precision, unbuilt
from limbeck.losses.vectors import both, finished, products


def ickd(student: Tensor, teacher: Tensor, where: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
    """The squared differences of inter-channel correlations, by the number of channels.

    A sample's correlations are the inner products of its channels over positions, each channel's at length 1.

    Args:
        student: (batch, …): maps (batch, channels, height, width), or tokens (batch, tokens, channels).
        teacher: likewise, with as many channels but any positions; never receives a gradient.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items have the value 0.
        tokens: (batch, tokens) boolean, which tokens of features (batch, tokens, channels) are there; None for all.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the batch sizes or channels differ, features are vectors, or a mask is of another shape.

    Liu et al. 2021, "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation",
    arXiv:2202.03680, section 3.
    """
    student, teacher = both(student, teacher, where, "ickd", tokens)
    return finished(_differences(_positions(student), _positions(teacher)), where)


class ICKD(Loss):
    """`ickd` after a learned 1×1 convolution and batch normalisation of the student's channels to the teacher's; of a
    text all tokens together are the positions."""

    name = "ickd"
    inputs: tuple[LossInput, ...] = ("teacher", "where", "tokens")
    wants = "last-stage"
    aligned = False
    structured = True

    def __init__(self) -> None:
        super().__init__()
        self.projection: nn.Linear | None = None
        self.normalisation: nn.BatchNorm1d | None = None

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes the map from the student's channels to the teacher's."""
        assert isinstance(student, Tensor)
        assert isinstance(teacher, Tensor | None)
        here = _positions(student).shape[-1]
        there = here if teacher is None else _positions(teacher).shape[-1]
        # With positions in rows a 1×1 convolution is a linear map, the same for maps and tokens.
        self.projection = nn.Linear(here, there, bias=False, device=student.device)
        self.normalisation = nn.BatchNorm1d(there, device=student.device)

    def forward(
        self, student: Tensor, teacher: Tensor, where: Tensor | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """(batch,) from maps (batch, channels, height, width) or tokens (batch, tokens, channels), and masks of shape
        (batch,) and (batch, tokens)."""
        if self.projection is None or self.normalisation is None:
            raise unbuilt("ickd")
        student, teacher = both(student, teacher, where, "ickd", tokens)
        positions = _positions(student)
        if positions.shape[-1] != self.projection.in_features:
            raise LimbeckError(
                f"ickd: built for a student of {self.projection.in_features} channels, got {positions.shape[-1]}; "
                "build a new loss for another layer"
            )
        with full_precision(positions):
            positions = self.projection(positions)
        there = tokens if student.dim() == 3 else None
        if where is not None:
            items = where.unsqueeze(1).expand(positions.shape[:2])
            there = items if there is None else items & there
        positions = self._normalised(positions, self.normalisation, there)
        return finished(_differences(positions, _positions(teacher)), where)

    def _normalised(self, positions: Tensor, norm: nn.BatchNorm1d, there: Tensor | None) -> Tensor:
        """Batch normalisation of (batch, positions, channels) over the positions that are `there` (batch, positions);
        0 at the others."""
        if there is None or not self.training:
            normal: Tensor = norm(positions.flatten(0, 1)).view_as(positions)
            return normal if there is None else normal.masked_fill(~there.unsqueeze(-1), 0.0)
        rows, mask = positions.flatten(0, 1), there.reshape(-1, 1)
        count = mask.sum().clamp(min=1)
        mean = rows.masked_fill(~mask, 0.0).sum(0) / count
        variance = (rows - mean).masked_fill(~mask, 0.0).square().sum(0) / count
        with torch.no_grad():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            assert norm.momentum is not None
            # An empty batch says nothing of the channels.
            share = norm.momentum * mask.any()
            norm.running_mean.lerp_(mean, share)
            norm.running_var.lerp_(variance * count / (count - 1).clamp(min=1), share)
            norm.num_batches_tracked += 1
        normal = (rows - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
        return normal.masked_fill(~mask, 0.0).view_as(positions)


def _positions(features: Tensor) -> Tensor:
    """(batch, positions, channels) from maps (batch, channels, …) or tokens."""
    if features.dim() < 3:
        raise LimbeckError(
            f"ickd: expected maps (batch, channels, height, width) or tokens (batch, tokens, channels), got shape "
            f"{tuple(features.shape)}; tap a layer before the pooling"
        )
    return features if features.dim() == 3 else features.flatten(2).transpose(1, 2)


def _differences(student: Tensor, teacher: Tensor) -> Tensor:
    """(batch,) from (batch, positions, channels) of both sides."""
    channels = student.shape[-1]
    if teacher.shape[-1] != channels:
        raise LimbeckError(
            f"ickd: expected features of as many channels, got the student's {channels} and the teacher's "
            f"{teacher.shape[-1]}; the module ICKD learns a map between them"
        )
    if max(student.shape[1], teacher.shape[1]) <= channels:
        cosines, live, alive = _by_positions(student, teacher)
    else:
        cosines, live, alive = _by_channels(student, teacher)
    # ‖a − b‖² of two rows at length 1 is 2 − 2 cos; a channel that is 0 everywhere has a row of length 0.
    return (live.to(cosines.dtype) + alive - 2.0 * cosines).sum(1) / channels


def _by_channels(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines of the rows of both sides' correlations (batch, channels), and where these rows are not 0."""
    mine, theirs = products(student.transpose(1, 2)), products(teacher.transpose(1, 2))
    return _cosines((mine * theirs).sum(2), mine.square().sum(2), theirs.square().sum(2))


def _by_positions(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same from inner products of positions, which are fewer than those of channels.

    With columns x and y of X and Y (positions, channels), the inner product of a channel's rows is xᵀ(XYᵀ)y, without
    numbers of shape (channels, channels).
    """
    with full_precision(student):
        inner = (student * (student @ teacher.transpose(1, 2) @ teacher)).sum(1)
        mine, theirs = ((side * (products(side) @ side)).sum(1) for side in (student, teacher))
    return _cosines(inner, mine, theirs)


def _cosines(inner: Tensor, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From inner products and squared lengths."""
    live, alive = mine > 0.0, theirs > 0.0
    lengths = torch.where(live, mine, 1.0).sqrt() * torch.where(alive, theirs, 1.0).sqrt()
    return inner / lengths, live, alive
