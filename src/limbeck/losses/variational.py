"""A loss on how well the teacher's feature can be told from the student's: variational information distillation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.maps import channels_of, pointwise, pooled_alike, positions_of
from limbeck.losses.numeric import precise, unbuilt

EPSILON = 1e-5
"""The smallest variance, as in the authors' code."""


def vid(student: Tensor, teacher: Tensor, log_scale: Tensor) -> Tensor:
    """The mean over channels and positions of ½ · ((t − μ)² / σ² + log σ²), with σ² = log(1 + e^α) + 1e-5 a channel.

    The negative logarithm of a normal density, but for a constant. It may be negative, and is not 0 where both agree.

    Args:
        student: the means μ that a regressor predicts of the student's feature, maps (batch, channels, height, width),
            tokens (batch, tokens, width) or vectors (batch, width).
        teacher: the same shape; never receives a gradient.
        log_scale: α, (channels,).

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit.

    Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", arXiv:1904.05835, the
    homoscedastic normal density, with the mean instead of the sum.
    """
    same_shape(student, teacher, "vid")
    channels = channels_of(student, "vid")
    if log_scale.shape != (channels,):
        raise LimbeckError(f"vid: expected log_scale of shape {(channels,)}, got {tuple(log_scale.shape)}")
    variance = (F.softplus(precise(log_scale)) + EPSILON).unsqueeze(1)
    errors = positions_of(precise(student), "vid") - positions_of(precise(teacher.detach()), "vid")
    return (0.5 * (errors.square() / variance + variance.log())).mean((1, 2))


class VID(Loss):
    """`vid` with its learned parts: three 1×1 layers that predict the teacher's feature, and a variance a channel.

    Of two maps the larger is averaged down to the smaller's height and width, before the layers. Beside a map, tokens
    of a square image are a map too.

    Raises:
        LimbeckError: `initial_variance` is not above 1e-5, or the loss was not built.
    """

    name = "vid"
    wants = "stages"
    aligned = False

    def __init__(self, initial_variance: float = 5.0) -> None:
        super().__init__()
        if not EPSILON < initial_variance < math.inf:
            raise LimbeckError(f"VID initial_variance: expected a number above {EPSILON}, got {initial_variance}")
        self.initial_variance = initial_variance
        self.regressor: nn.Sequential | None = None
        self.log_scale: nn.Parameter | None = None

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """The regressor, of the teacher's width throughout, and the logarithms of scale."""
        if not isinstance(student, Tensor) or not isinstance(teacher, Tensor):
            return
        student, teacher = pooled_alike(student, teacher, "VID")
        width = channels_of(teacher, "VID")
        self.regressor = nn.Sequential(
            pointwise(student, channels_of(student, "VID"), width),
            nn.ReLU(),
            pointwise(student, width, width),
            nn.ReLU(),
            pointwise(student, width, width),
        )
        start = math.log(math.expm1(self.initial_variance - EPSILON))
        self.log_scale = nn.Parameter(torch.full((width,), start, device=teacher.device))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch,) from maps (batch, channels, height, width), tokens (batch, tokens, width) or vectors."""
        if self.regressor is None or self.log_scale is None:
            raise unbuilt("VID")
        student, teacher = pooled_alike(precise(student), precise(teacher), "VID")
        return vid(self.regressor(student), teacher, self.log_scale)
