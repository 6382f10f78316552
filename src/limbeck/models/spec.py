"""A model's name and options, as a recipe or a saved folder writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What `build` turns into a module: a name (`resnet8x4`, `timm:resnet18`, …) and its options.

    Every name takes the option `weights`: the path of a state dict file, loaded strictly.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a data set asks of a model: how many classes, input channels, and (height, width) in pixels."""

    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
