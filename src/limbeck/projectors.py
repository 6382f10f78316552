"""Projectors: the small trained map from a student's feature to the teacher's shape."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import LimbeckError


@dataclass(frozen=True, slots=True)
class Grid:
    """The tokens of a square image: `side` rows of as many, after a class token where there is one."""

    side: int
    class_token: bool


def grid_of(tokens: int) -> Grid | None:
    """The grid of n² or n² + 1 tokens; None for other numbers."""
    if tokens > 0 and isqrt(tokens) ** 2 == tokens:
        return Grid(isqrt(tokens), class_token=False)
    if tokens > 1 and isqrt(tokens - 1) ** 2 == tokens - 1:
        return Grid(isqrt(tokens - 1), class_token=True)
    return None


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
        return _resized(projected, self.size)


class TokenProjector(nn.Module):
    """(batch, student tokens, width) to (batch, teacher tokens, width): a linear map, then the grid resized bilinearly.

    A class token is kept apart. Where only the teacher has one, it is compared with the mean of the student's tokens;
    where only the student has one, it is left out.
    """

    def __init__(self, student_width: int, teacher_width: int, student: Grid, teacher: Grid) -> None:
        super().__init__()
        self.linear = nn.Linear(student_width, teacher_width)
        self.student, self.teacher = student, teacher

    def forward(self, feature: Tensor) -> Tensor:
        projected: Tensor = self.linear(feature)
        positions = _resized(_map_of(projected, self.student), (self.teacher.side, self.teacher.side))
        first = projected[:, :1] if self.student.class_token else None
        return _tokens_of(positions, self.teacher, first)


class TokensToMap(nn.Module):
    """(batch, student tokens, width) to (batch, teacher channels, *size*): the tokens as a map, without a class token,
    then as MapProjector."""

    def __init__(self, student_width: int, teacher_channels: int, student: Grid, size: tuple[int, int]) -> None:
        super().__init__()
        self.project = MapProjector(student_width, teacher_channels, size)
        self.student = student

    def forward(self, feature: Tensor) -> Tensor:
        projected: Tensor = self.project(_map_of(feature, self.student))
        return projected


class MapToTokens(nn.Module):
    """(batch, student channels, h, w) to (batch, teacher tokens, width): as MapProjector to the teacher's grid, whose
    positions become tokens; a class token is compared with their mean."""

    def __init__(self, student_channels: int, teacher_width: int, teacher: Grid) -> None:
        super().__init__()
        self.project = MapProjector(student_channels, teacher_width, (teacher.side, teacher.side))
        self.teacher = teacher

    def forward(self, feature: Tensor) -> Tensor:
        return _tokens_of(self.project(feature), self.teacher, None)


class PooledProjector(nn.Module):
    """A map (batch, channels, h, w) or tokens (batch, tokens, width) to a vector (batch, teacher width): the mean over
    positions, then a linear map."""

    def __init__(self, student_channels: int, teacher_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(student_channels, teacher_width)

    def forward(self, feature: Tensor) -> Tensor:
        pooled = feature.mean(1) if feature.dim() == 3 else feature.mean((2, 3))
        projected: Tensor = self.linear(pooled)
        return projected


class SpreadProjector(nn.Module):
    """A vector (batch, width) to a map (batch, channels, h, w) or tokens (batch, tokens, width): a linear map, the same
    at every position; `positions` is (h, w) or (tokens,)."""

    def __init__(self, student_width: int, teacher_channels: int, positions: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(student_width, teacher_channels)
        self.positions = positions

    def forward(self, feature: Tensor) -> Tensor:
        projected: Tensor = self.linear(feature)
        if len(self.positions) == 1:
            return projected.unsqueeze(1).expand(-1, *self.positions, -1)
        return projected[:, :, None, None].expand(-1, -1, *self.positions)


def projector_between(student: Tensor, teacher: Tensor, what: str) -> nn.Module | None:
    """The projector that takes `student`'s shape to `teacher`'s, or None where the shapes are equal.

    Between vectors (batch, width), tokens (batch, tokens, width) and maps (batch, channels, h, w), in any direction.
    Another number of tokens, and maps beside tokens, need tokens of a square image, with or without a class token.

    Raises:
        LimbeckError: other shapes, another batch, or tokens that are no square image.
    """
    if student.shape == teacher.shape:
        return None
    kinds = (student.dim(), teacher.dim())
    if all(2 <= kind <= 4 for kind in kinds) and student.shape[0] == teacher.shape[0]:
        found = _projector(student, teacher, kinds)
        if found is not None:
            return found
    elif kinds[0] == kinds[1] and student.shape[:-1] == teacher.shape[:-1]:
        return nn.Linear(student.shape[-1], teacher.shape[-1])
    raise LimbeckError(
        f"{what}: no projector leads from the student's shape {tuple(student.shape)} to the teacher's "
        f"{tuple(teacher.shape)}; tap features of one kind, or tokens of square images with at most a class token, or "
        "pass projector=YourModule() to the term"
    )


def _projector(student: Tensor, teacher: Tensor, kinds: tuple[int, int]) -> nn.Module | None:
    here, there = (each.shape[1] if each.dim() == 4 else each.shape[-1] for each in (student, teacher))
    if kinds == (4, 4):
        return MapProjector(here, there, _size(teacher))
    if kinds == (2, 2) or student.shape[:-1] == teacher.shape[:-1]:
        return nn.Linear(here, there)
    if kinds[1] == 2:
        return PooledProjector(here, there)
    if kinds[0] == 2:
        return SpreadProjector(here, there, tuple(teacher.shape[1:2] if kinds[1] == 3 else teacher.shape[2:]))
    mine = grid_of(student.shape[1]) if kinds[0] == 3 else None
    theirs = grid_of(teacher.shape[1]) if kinds[1] == 3 else None
    if mine is not None and theirs is not None:
        return TokenProjector(here, there, mine, theirs)
    if mine is not None and kinds[1] == 4:
        return TokensToMap(here, there, mine, _size(teacher))
    if theirs is not None and kinds[0] == 4:
        return MapToTokens(here, there, theirs)
    return None


def _size(feature: Tensor) -> tuple[int, int]:
    return feature.shape[2], feature.shape[3]


def _resized(feature: Tensor, size: tuple[int, int]) -> Tensor:
    if feature.shape[-2:] == size:
        return feature
    return F.interpolate(feature, size, mode="bilinear", align_corners=False)


def _map_of(tokens: Tensor, grid: Grid) -> Tensor:
    """(batch, width, side, side) of (batch, tokens, width), without the class token."""
    positions = tokens[:, 1:] if grid.class_token else tokens
    return positions.transpose(1, 2).reshape(len(tokens), -1, grid.side, grid.side)


def _tokens_of(positions: Tensor, grid: Grid, class_token: Tensor | None) -> Tensor:
    """(batch, tokens, width) of (batch, width, side, side); the class token, where the grid has one, is the one given
    (batch, 1, width), or the mean."""
    tokens = positions.flatten(2).transpose(1, 2)
    if not grid.class_token:
        return tokens
    return torch.cat([tokens.mean(1, keepdim=True) if class_token is None else class_token, tokens], 1)
