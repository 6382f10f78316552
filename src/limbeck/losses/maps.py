"""Maps, tokens and vectors as one thing: channels at positions."""

from __future__ import annotations

from math import isqrt

import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.losses.numeric import full_precision

CHANNELS = {2: 1, 3: 2, 4: 1}
"""Which dimension holds the channels of a vector, of tokens and of a map."""


def channels_of(feature: Tensor, what: str) -> int:
    """The channels of a map (batch, channels, height, width), the width of tokens (batch, tokens, width) or of a vector
    (batch, width); raises LimbeckError where the feature is none of these."""
    if feature.dim() not in CHANNELS:
        raise LimbeckError(
            f"{what}: expected a map (batch, channels, height, width), tokens (batch, tokens, width) or a vector "
            f"(batch, width), got shape {tuple(feature.shape)}; tap another module"
        )
    return feature.shape[CHANNELS[feature.dim()]]


def positions_of(feature: Tensor, what: str) -> Tensor:
    """(batch, channels, positions): a map's positions row by row, tokens as positions, one position of a vector."""
    channels_of(feature, what)
    if feature.dim() == 3:
        return feature.transpose(1, 2)
    return feature.flatten(2) if feature.dim() == 4 else feature.unsqueeze(2)


def over_same_positions(
    first: Tensor, second: Tensor, tokens: Tensor | None, what: str, *, several: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both as (batch, channels, positions) over the same positions, and which of these count.

    They are brought to one size as in `at_one_size`. `tokens` (batch, tokens) tells which tokens count, None all; a map
    has none. What does not count is 0 in both, and no gradient or NaN gets out of it. The third value is
    (batch, 1, positions) boolean, None where all count.

    Raises:
        LimbeckError: batches or numbers of positions differ, `tokens` has another shape, or `several` and there is but
            one position, over which nothing can be compared.
    """
    shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
    first, second = at_one_size(first, second, tokens)
    tokenwise = 3 in (first.dim(), second.dim())
    first, second = positions_of(first, what), positions_of(second, what)
    if first.shape[0] != second.shape[0] or first.shape[2] != second.shape[2]:
        raise LimbeckError(
            f"{what}: expected two maps, or features of one batch with the same number of positions, got shapes "
            f"{shapes}; tap modules that give the same tokens, or those of square images with at most a class token"
        )
    if several and first.shape[2] == 1 and not tokenwise:
        raise LimbeckError(
            f"{what}: expected features with several positions, got shapes {shapes}; over one position the loss is "
            "always 0, so tap maps (batch, channels, height, width) or tokens (batch, tokens, width) before the pooling"
        )
    if tokens is None or not tokenwise:
        return first, second, None
    if tokens.shape != (first.shape[0], first.shape[2]):
        raise LimbeckError(
            f"{what}: expected a mask of shape {(first.shape[0], first.shape[2])}, one value a token, for features of "
            f"shapes {shapes}, got {tuple(tokens.shape)}; tap a module that gives one vector for each token of the text"
        )
    counted = tokens.bool().unsqueeze(1)
    return first.masked_fill(~counted, 0.0), second.masked_fill(~counted, 0.0), counted


def at_one_size(first: Tensor, second: Tensor, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of two maps the larger averaged down to the smaller's height and width; anything else as it came.

    Tokens beside a map, or beside another number of tokens, are those of a square image: they become a map, without
    the class token that may lead them. Not where a mask `tokens` says that they are a text's.
    """
    numbers_differ = first.dim() == second.dim() == 3 and first.shape[1] != second.shape[1]
    if tokens is None and (numbers_differ or {first.dim(), second.dim()} == {3, 4}):
        first, second = _square_map(first), _square_map(second)
    if first.dim() != 4 or second.dim() != 4 or first.shape[2:] == second.shape[2:]:
        return first, second
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    return _averaged(first, size), _averaged(second, size)


def pooled_alike(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Both as they came, but brought to one size as in `at_one_size`.

    Raises:
        LimbeckError: they differ in more than channels.
    """
    channels_of(student, what), channels_of(teacher, what)
    student, teacher = at_one_size(student, teacher)
    if student.dim() != teacher.dim() or _but_channels(student) != _but_channels(teacher):
        raise LimbeckError(
            f"{what}: the student gives shape {tuple(student.shape)}, the teacher {tuple(teacher.shape)}; they may "
            "differ only in channels (or width), and maps in height and width; tap features of one kind, or tokens of "
            "square images with at most a class token"
        )
    return student, teacher


def same_channels(student: int, teacher: int, what: str) -> None:
    """Raises LimbeckError where a loss that compares channel with channel gets different ones."""
    if student != teacher:
        raise LimbeckError(
            f"{what}: the student has {student} channels, the teacher {teacher}; they must be equal: give the "
            "Distiller example=batch, which makes a map between them, or pass a projector"
        )


def product(first: Tensor, second: Tensor) -> Tensor:
    """first @ second in their own precision, under autocast too."""
    with full_precision(first):
        return first @ second


def pointwise(feature: Tensor, channels: int, into: int, *, bias: bool = False) -> nn.Module:
    """A linear map from `channels` to `into` channels at each position of features such as `feature`, on its device."""
    if feature.dim() == 4:
        return nn.Conv2d(channels, into, kernel_size=1, bias=bias, device=feature.device)
    return nn.Linear(channels, into, bias=bias, device=feature.device)


def _square_map(feature: Tensor) -> Tensor:
    """(batch, width, side, side) of tokens whose number, or number less a class token, is a square."""
    if feature.dim() != 3:
        return feature
    for count in (feature.shape[1], feature.shape[1] - 1):
        side = isqrt(count)
        if side and side * side == count:
            return feature[:, -count:].transpose(1, 2).reshape(len(feature), feature.shape[2], side, side)
    return feature


def _averaged(feature: Tensor, size: tuple[int, int]) -> Tensor:
    return feature if feature.shape[2:] == size else F.adaptive_avg_pool2d(feature, size)


def _but_channels(feature: Tensor) -> tuple[int, ...]:
    return tuple(size for place, size in enumerate(feature.shape) if place != CHANNELS[feature.dim()])
