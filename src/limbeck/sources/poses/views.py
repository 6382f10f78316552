"""How a pose is placed in its crop, and views of it: a pure function of the sample's key, joints move with pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import LimbeckError, nearest
from limbeck.pictures import Placement, around, placement
from limbeck.sources.poses.annotations import Floats
from limbeck.sources.views import Keys, uniform

_MIRROR, _ANGLE, _SCALE, _RIGHT, _DOWN, _BRIGHT, _CONTRAST, _COLOUR = range(8)


@dataclass(frozen=True, slots=True)
class PoseView:
    """Augments a crop: draws for each sample, evenly within these bounds.

    Attributes:
        flip: the share of samples that are mirrored; left and right joints change their names.
        rotate: the largest angle, degrees in both directions.
        scale: the largest change of the crop's size, a share in both directions.
        shift: how far the crop moves, a share of its own size in all directions.
        colour: the largest change of brightness, contrast and colourfulness, a share in both directions.

    Raises:
        LimbeckError: a number is out of its range, or nothing is augmented.
    """

    flip: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        limits = {"flip": 1.0, "rotate": 180.0, "scale": 0.9, "shift": 1.0, "colour": 0.9}
        for name, most in limits.items():
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= most:
                raise LimbeckError(f"augment.{name}: expected a number from 0 to {most:g}, got {given!r}")
        if not any(getattr(self, name) for name in limits):
            raise LimbeckError("augment: nothing to augment; say `none`, or which of " + ", ".join(limits))


POSE_VIEWS: Mapping[str, PoseView | None] = {
    "none": None,
    "pose": PoseView(rotate=30, scale=0.25, shift=0.1, colour=0.2),
    "pose-flip": PoseView(flip=0.5, rotate=30, scale=0.25, shift=0.1, colour=0.2),
}


def pose_view(given: Any, where: str) -> PoseView | None:
    """The view of a recipe: `none`, `pose`, `pose-flip`, or the bounds of a PoseView by name."""
    if isinstance(given, Mapping):
        known = [each.name for each in fields(PoseView)]
        for name in given:
            if name not in known:
                raise LimbeckError(f"{where}: unknown key {name!r}{nearest(str(name), known)}")
        try:
            return PoseView(**given)
        except LimbeckError as error:
            raise LimbeckError(f"{where}: {error}") from None
    if not isinstance(given, str) or given not in POSE_VIEWS:
        raise LimbeckError(
            f"{where}: expected a name or {{rotate: 30, …}}, got {given!r}{nearest(str(given), POSE_VIEWS)}"
        )
    return POSE_VIEWS[given]


def placed(
    boxes: Floats, size: tuple[int, int], padding: float, view: PoseView | None = None, keys: Keys | None = None
) -> Placement:
    """Crops around boxes (crops, 4), `padding` times as large, in the shape of `size` (height, width); moved by a view
    as its keys (crops,) say."""
    centres, steps = around(boxes, size, padding)
    if view is None:
        return placement(size, centres, steps)
    assert keys is not None
    mirrored = uniform(keys, _MIRROR) < view.flip
    angles = np.deg2rad(view.rotate * _even(keys, _ANGLE))
    scales = steps * (1.0 + view.scale * _even(keys, _SCALE))
    moved = np.stack([_even(keys, _RIGHT), _even(keys, _DOWN)], 1) * view.shift
    centres = centres + moved * steps[:, None] * np.array(size[::-1])
    return placement(size, centres, steps, angles=angles, scales=scales, mirrored=mirrored)


def coloured(images: Tensor, view: PoseView, keys: Keys) -> Tensor:
    """uint8 (crops, channels, height, width) with brightness, contrast and colourfulness changed."""
    if not view.colour:
        return images

    def factor(stream: int) -> Tensor:
        return torch.from_numpy(1.0 + view.colour * _even(keys, stream)).float().view(-1, 1, 1, 1)

    pixels = images.float().mul_(factor(_BRIGHT))
    middle = 127.5
    pixels = pixels.sub_(middle).mul_(factor(_CONTRAST)).add_(middle)
    if images.shape[1] == 3:
        # One after another: a sum over a dimension may add up in another order in another batch.
        grey = 0.299 * pixels[:, :1] + 0.587 * pixels[:, 1:2] + 0.114 * pixels[:, 2:]
        pixels = grey + (pixels - grey) * factor(_COLOUR)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _even(keys: Keys, stream: int) -> Floats:
    """Numbers from -1 to 1, (keys,)."""
    return 2.0 * uniform(keys, stream) - 1.0
