"""A loss on what the student's feature, partly hidden, still tells: masked generative distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.maps import channels_of, pointwise, positions_of
from limbeck.losses.numeric import precise, unbuilt

Hidden = Literal["channels", "positions"]


def mgd(
    student: Tensor, teacher: Tensor, generation: Callable[[Tensor], Tensor], *, mask: Tensor | None = None
) -> Tensor:
    """The mean over channels and positions of (generation(student · mask) − t)².

    Args:
        student: maps (batch, channels, height, width), tokens (batch, tokens, width) or vectors (batch, width); a
            projector makes them the teacher's shape.
        teacher: the same shape; never receives a gradient.
        generation: a learned map that keeps the shape.
        mask: boolean, broadcasts to the student's shape; False where it is hidden; None hides nothing.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit.

    Yang et al. 2022, "Masked Generative Distillation", arXiv:2205.01529, with the mean instead of the sum.
    """
    same_shape(student, teacher, "mgd")
    channels_of(student, "mgd")
    own = precise(student)
    generated = precise(generation(own if mask is None else own.masked_fill(~mask, 0.0)))
    same_shape(generated, teacher, "mgd, after generation")
    return positions_of((generated - precise(teacher.detach())).square(), "mgd").mean((1, 2))


class MGD(Loss):
    """`mgd` with its generation block, and a new random mask at each step of training; none in evaluation.

    The block is 3×3 convolution, ReLU, 3×3 convolution on maps, and linear, ReLU, linear on each token or vector.

    Args:
        ratio: λ, the share that is hidden, in [0, 1).
        hides: whole `channels` of an item, or `positions` of a map with all their channels.

    Raises:
        LimbeckError: a setting is out of range, the loss was not built, or what is no map is to lose positions.
    """

    name = "mgd"
    wants = "last-stage"

    def __init__(self, ratio: float = 0.15, hides: Hidden = "channels") -> None:
        super().__init__()
        if not 0.0 <= ratio < 1.0:
            raise LimbeckError(f"MGD ratio: expected a share from 0 to below 1, got {ratio}")
        if hides not in ("channels", "positions"):
            raise LimbeckError(f"MGD hides: expected 'channels' or 'positions', got {hides!r}")
        self.ratio = ratio
        self.hides = hides
        self.generation: nn.Sequential | None = None

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """The generation block, of the teacher's width."""
        if isinstance(teacher, Tensor):
            self.generation = nn.Sequential(_layer(teacher), nn.ReLU(), _layer(teacher))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch,) from maps (batch, channels, height, width), tokens (batch, tokens, width) or vectors."""
        if self.generation is None:
            raise unbuilt("MGD")
        mask = self.drawn(student) if self.training and self.ratio else None
        return mgd(student, teacher, self.generation, mask=mask)

    def drawn(self, student: Tensor) -> Tensor:
        """A random mask for features of the student's shape: False with probability `ratio`."""
        shape = list(student.shape)
        if self.hides == "positions":
            if student.dim() != 4:
                raise LimbeckError(
                    f"MGD: positions are hidden of maps (batch, channels, height, width), got shape {tuple(shape)}; "
                    "use hides='channels'"
                )
            shape[1] = 1
        elif student.dim() == 4:
            shape[2:] = [1, 1]
        elif student.dim() == 3:
            shape[1] = 1
        return torch.rand(shape, device=student.device) >= self.ratio


def _layer(feature: Tensor) -> nn.Module:
    width = channels_of(feature, "MGD")
    if feature.dim() == 4:
        return nn.Conv2d(width, width, kernel_size=3, padding=1, device=feature.device)
    return pointwise(feature, width, width, bias=True)
