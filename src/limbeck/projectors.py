"""Projectors: the small trained map from a student's feature to the teacher's shape."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.checks import LimbeckError


class MapProjector(nn.Module):
    """(batch, student channels, h, w) to (batch, teacher channels, *size*): 1×1 convolution, then bilinear resizing.

    The hint regressor of FitNets (Romero et al., 2015, arXiv:1412.6550) with a 1×1 kernel.
    """

    def __init__(self, student_channels: int, teacher_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
        self.size = size

    def forward(self, feature: Tensor) -> Tensor:
        projected: Tensor = self.conv(feature)
        if projected.shape[-2:] == self.size:
            return projected
        return F.interpolate(projected, self.size, mode="bilinear", align_corners=False)


def projector_between(student: Tensor, teacher: Tensor, what: str) -> nn.Module | None:
    """The projector that takes `student`'s shape to `teacher`'s, or None where the shapes are equal.

    Vectors (batch, width) and tokens (batch, tokens, width) get a linear map, maps (batch, channels, h, w) a
    MapProjector.

    Raises:
        LimbeckError: the shapes have different ranks, or another number of tokens.
    """
    if student.shape == teacher.shape:
        return None
    if student.dim() == teacher.dim() == 4:
        height, width = teacher.shape[-2:]
        return MapProjector(student.shape[1], teacher.shape[1], (height, width))
    if student.dim() == teacher.dim() and student.shape[:-1] == teacher.shape[:-1]:
        return nn.Linear(student.shape[-1], teacher.shape[-1])
    raise LimbeckError(
        f"{what}: no projector leads from the student's shape {tuple(student.shape)} to the teacher's "
        f"{tuple(teacher.shape)}; tap features of one kind, or pass projector=YourModule() to the term"
    )
