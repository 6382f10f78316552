"""Models of pictures that look at them smaller than they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from limbeck.errors import LimbeckError
from limbeck.models.spec import AnyShape, ModelSpec, Shape

RESOLUTION = "resolution"
"""The option of a model by name that makes it one: pixels a side."""

HEADS = ("classification", "embedding")
"""What a picture's size does not matter to; boxes and joints are in its pixels."""


class Coarse(nn.Module):
    """A model that is given pictures (batch, channels, height, width) and sees them, bilinearly resized, at `side`
    pixels a side: a convolution costs by the square of it. It gives what the model gives."""

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.model = model
        self.side = side

    def forward(self, inputs: Tensor) -> Any:
        """What the model gives for the smaller pictures."""
        smaller = functional.interpolate(inputs, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return self.model(smaller)


def build_coarse(spec: ModelSpec, shape: AnyShape, build: Callable[[ModelSpec, AnyShape], nn.Module]) -> nn.Module:
    """The model that `spec` names without its `resolution`, built for that many pixels a side, and seeing these.

    Raises:
        LimbeckError: it is no model that classifies or embeds pictures, or the pictures are smaller.
    """
    options = dict(spec.options)
    side = options.pop(RESOLUTION)
    if not isinstance(shape, Shape) or shape.head not in HEADS:
        raise LimbeckError(f"model {spec.name!r}: resolution is of models that classify or embed pictures")
    if type(side) is not int or not 1 <= side <= min(shape.image_size):
        raise LimbeckError(
            f"model {spec.name!r}: expected a resolution of at most the data's {min(shape.image_size)} pixels a side, "
            f"got {side!r}"
        )
    return Coarse(build(ModelSpec(spec.name, options), replace(shape, image_size=(side, side))), side)
