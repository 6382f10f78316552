"""Knowledge review: a student's stages, each fused with all deeper ones, against the teacher's at several scales."""

from __future__ import annotations

from itertools import pairwise
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import precise, unbuilt

LEVELS = (4, 2, 1)
MOST_CHANNELS = 512
"""Fused features have as many channels as the student's deepest stage, and no more than this: the authors' code."""


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """The weighted mean of squared differences between maps, and between them pooled to 4 × 4, 2 × 2 and 1 × 1 cells.

    The maps themselves weigh 1, and each level below them half of the one before; a level that is no smaller than the
    map is left out. The paper adds L2 distances; the mean over positions, halving and the division by the weights' sum
    are the authors' code.

    Args:
        student: (batch, channels, height, width).
        teacher: the same shape; never receives a gradient.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ, or are not those of maps.

    Chen et al. 2021, "Distilling Knowledge via Knowledge Review", arXiv:2104.09044, section 3.4.
    """
    same_shape(student, teacher, "hierarchical_context")
    if student.dim() != 4:
        raise LimbeckError(
            "hierarchical_context: expected maps of shape (batch, channels, height, width), got shape "
            f"{tuple(student.shape)}"
        )
    difference = precise(student) - precise(teacher.detach())
    value = difference.square().flatten(1).mean(1)
    weight, total = 1.0, 1.0
    for level in LEVELS:
        if level < min(difference.shape[-2:]):
            weight /= 2.0
            total += weight
            value = value + weight * F.adaptive_avg_pool2d(difference, level).square().flatten(1).mean(1)
    return value / total


class ReviewKD(Loss):
    """The sum over stages of `hierarchical_context` between the student's fused stages and the teacher's.

    From deep to shallow, each stage is reduced to the same channels, fused with what came from the deeper ones by a
    learned attention, and brought to the teacher's channels and size. Stages are maps (batch, channels, height, width),
    tokens (batch, tokens, width) of square images with or without a class token, or vectors (batch, width).

    Args:
        pooled: the mean of the deepest stage is one more stage, as in the authors' code.

    Raises:
        LimbeckError: from `build` and the call, where the stages are not tuples of one length, or their shapes are not
            those they were built for.

    Chen et al. 2021, "Distilling Knowledge via Knowledge Review", arXiv:2104.09044, equation 6.
    """

    name = "review"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    wants = "all-stages"
    aligned = False

    def __init__(self, pooled: bool = True) -> None:
        super().__init__()
        self.pooled = pooled
        self.fusions: nn.ModuleList | None = None

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes one fusion for each stage of tuples of features, shallow to deep."""
        here, there = self._stages(student, teacher)
        channels = min(MOST_CHANNELS, here[-1].shape[1])
        self.fusions = nn.ModuleList(
            AttentionFusion(mine.shape[1], channels, theirs.shape[1], fuses=index < len(here) - 1)
            for index, (mine, theirs) in enumerate(zip(here, there, strict=True))
        ).to(here[0].device)

    def forward(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], where: Tensor | None = None) -> Tensor:
        """(batch,) from tuples of features, shallow to deep, and a mask of shape (batch,)."""
        if self.fusions is None:
            raise unbuilt("ReviewKD")
        here, there = self._stages(student, teacher)
        if len(here) != len(self.fusions):
            raise LimbeckError(
                f"ReviewKD: built for {len(self.fusions)} stages (the pooled one included), got features of "
                f"{len(here)} stages with shapes {[tuple(each.shape) for each in here]}; name the same taps"
            )
        if where is not None:
            # Rows are taken, not zeroed: BatchNorm would count a zero.
            here, there = [each[where] for each in here], [each[where] for each in there]
        stages: list[Tensor] = []
        deeper: Tensor | None = None
        for fusion, mine, theirs in zip(reversed(self.fusions), reversed(here), reversed(there), strict=True):
            fused, deeper = fusion(mine, deeper, theirs.shape[-2:])
            same_shape(fused, theirs, "ReviewKD's fused stage")
            stages.append(hierarchical_context(fused, theirs))
        values = torch.stack(stages).sum(0)
        return values if where is None else values.new_zeros(len(where)).masked_scatter(where, values)

    def _stages(
        self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Both sides as maps, in float32 (float64 where they are)."""
        if not (isinstance(student, tuple) and isinstance(teacher, tuple) and len(student) == len(teacher) > 0):
            counts = [len(side) if isinstance(side, tuple) else type(side).__name__ for side in (student, teacher)]
            raise LimbeckError(
                "ReviewKD: expected tuples of features of equally many stages, shallow to deep, got a student's "
                f"{counts[0]} and a teacher's {counts[1]}; name as many taps on both, and shapes of one batch"
            )
        here = [as_map(precise(each)) for each in student]
        there = [as_map(precise(each.detach())) for each in teacher]
        for one, other in pairwise([*here, *there]):
            if len(one) != len(other):
                raise LimbeckError(
                    "ReviewKD: expected features of one batch, got batch dimensions of "
                    f"{[len(each) for each in (*here, *there)]}"
                )
        if self.pooled and there[-1].shape[-2:] != (1, 1):
            here.append(here[-1].mean((2, 3), keepdim=True))
            there.append(there[-1].mean((2, 3), keepdim=True))
        return here, there


class AttentionFusion(nn.Module):
    """One stage fused with the deeper ones: 1×1 convolution to `channels`, a learned weight for each position of both,
    and a 3×3 convolution to the teacher's channels (the paper's ABF)."""

    def __init__(self, in_channels: int, channels: int, out_channels: int, *, fuses: bool) -> None:
        super().__init__()
        self.in_channels = in_channels
        first = nn.Conv2d(in_channels, channels, 1, bias=False)
        last = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        for convolution in (first, last):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.reduce = nn.Sequential(first, _BatchNorm(channels))
        self.attention = nn.Conv2d(2 * channels, 2, 1) if fuses else None
        self.expand = nn.Sequential(last, _BatchNorm(out_channels))

    def forward(self, feature: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The stage as the teacher has it, (batch, out_channels, *size*), and what goes on to the shallower stage."""
        if feature.shape[1] != self.in_channels:
            raise LimbeckError(
                f"ReviewKD: built for a student's stage of {self.in_channels} channels, got features of shape "
                f"{tuple(feature.shape)}; name the same taps"
            )
        fused: Tensor = self.reduce(feature)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[-2:], mode="nearest")
            weights = self.attention(torch.cat([fused, deeper], 1)).sigmoid()
            fused = fused * weights[:, :1] + deeper * weights[:, 1:]
        if fused.shape[-2:] != size:
            fused = F.interpolate(fused, size, mode="nearest")
        return self.expand(fused), fused


class _BatchNorm(nn.BatchNorm2d):
    """Uses its running statistics where there is one value a channel, as of the pooled stage in a batch of one."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() <= self.num_features:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


def as_map(feature: Tensor) -> Tensor:
    """(batch, channels, height, width) of a map, of the tokens of a square image, or of a vector as one cell."""
    if feature.dim() == 4:
        return feature
    if feature.dim() == 2:
        return feature[:, :, None, None]
    if feature.dim() == 3:
        batch, tokens, width = feature.shape
        # A square and the number before it are never both squares, so this is no guess.
        for count in (tokens, tokens - 1):
            side = isqrt(count)
            if side > 0 and side * side == count:
                return feature[:, tokens - count :].transpose(1, 2).reshape(batch, width, side, side)
    raise LimbeckError(
        "expected a map of shape (batch, channels, height, width), a vector (batch, width), or tokens (batch, tokens, "
        f"width) whose number, less at most one class token, is a square, got shape {tuple(feature.shape)}; tap maps"
    )
