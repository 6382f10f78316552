"""A loss on how features turn into deeper ones: the flow of the solution procedure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.maps import channels_of, over_same_positions, pointwise, product, same_channels
from limbeck.losses.numeric import precise


def fsp(student: Sequence[Tensor], teacher: Sequence[Tensor], tokens: Tensor | None = None) -> Tensor:
    """The sum over flows of the mean of (G_s − G_t)².

    A flow is from one tap to the next; its matrix G (channels of the upper, channels of the lower) is the mean over
    positions of upper · lower. Of two maps the larger is averaged down to the smaller's height and width.

    Args:
        student: two taps or more, from low to high, each a map (batch, channels, height, width), tokens
            (batch, tokens, width) or a vector (batch, width).
        teacher: as many taps, each with the channels of the student's; never receives a gradient.
        tokens: (batch, tokens) boolean, True where a token counts; None where all do. Maps have none.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: there are fewer than two taps, not as many of both, or shapes do not fit.

    Yim et al. 2017, "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
    Learning", CVPR 2017 (arXiv: none), equations 1 and 2 with the mean instead of the sum over entries.
    """
    _matching_taps(student, teacher)
    for index, (mine, theirs) in enumerate(zip(student, teacher, strict=True)):
        same_channels(channels_of(mine, "fsp"), channels_of(theirs, "fsp"), f"fsp, tap {index + 1}")
    own = _flows([precise(tap) for tap in student], tokens)
    taught = _flows([precise(tap.detach()) for tap in teacher], tokens)
    if len(own[0]) != len(taught[0]):
        raise LimbeckError(
            f"fsp: expected features of one batch, got shapes {tuple(student[0].shape)} and {tuple(teacher[0].shape)}"
        )
    values = [(mine - theirs).square().mean((1, 2)) for mine, theirs in zip(own, taught, strict=True)]
    return torch.stack(values).sum(0)


class FSP(Loss):
    """`fsp`; where channels differ, a learned 1×1 map takes the student's to the teacher's.

    Raises:
        LimbeckError: `build` gets fewer than two taps, or not as many of both.
    """

    name = "fsp"
    inputs: tuple[LossInput, ...] = ("teacher", "tokens")
    wants = "all-stages"
    aligned = False
    structured = True

    def __init__(self) -> None:
        super().__init__()
        self.maps: nn.ModuleList | None = None

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """A map for each tap whose channels differ."""
        if teacher is None:
            return
        _matching_taps(student, teacher)
        self.maps = nn.ModuleList(_map_between(one, other) for one, other in zip(student, teacher, strict=True))

    def forward(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], tokens: Tensor | None = None) -> Tensor:
        """(batch,) from taps, each (batch, channels, height, width), (batch, tokens, width) or (batch, width)."""
        _matching_taps(student, teacher)
        if self.maps is not None:
            taps = zip(self.maps, student, strict=True)
            student = tuple(
                tap if isinstance(change, nn.Identity) else change(_shown(precise(tap), tokens)) for change, tap in taps
            )
        return fsp(student, teacher, tokens)


def _matching_taps(student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor]) -> None:
    if isinstance(student, Tensor) or isinstance(teacher, Tensor) or not 2 <= len(student) == len(teacher):
        counts = [1 if isinstance(taps, Tensor) else len(taps) for taps in (student, teacher)]
        raise LimbeckError(
            f"fsp: expected two taps or more, as many of the student as of the teacher, got {counts[0]} and "
            f"{counts[1]}; name them as tuples, such as student=('layer1', 'layer2'), teacher=('layer1', 'layer2')"
        )


def _map_between(student: Tensor, teacher: Tensor) -> nn.Module:
    mine, theirs = channels_of(student, "fsp"), channels_of(teacher, "fsp")
    return nn.Identity() if mine == theirs else pointwise(student, mine, theirs)


def _shown(tap: Tensor, tokens: Tensor | None) -> Tensor:
    """The tap with 0 where no token counts, so that what is there does not reach the map's gradient."""
    if tokens is None or tap.dim() != 3 or tap.shape[:2] != tokens.shape:
        return tap
    return tap.masked_fill(~tokens.bool().unsqueeze(2), 0.0)


def _flows(taps: Sequence[Tensor], tokens: Tensor | None) -> list[Tensor]:
    """The matrices (batch, channels of the upper, channels of the lower), one for each pair of neighbours."""
    matrices = []
    for low, high in pairwise(taps):
        lower, upper, counted = over_same_positions(low, high, tokens, "fsp")
        summed = product(upper, lower.transpose(1, 2))
        count = lower.shape[2] if counted is None else counted.sum((1, 2)).clamp(min=1).view(-1, 1, 1)
        matrices.append(summed / count)
    return matrices
