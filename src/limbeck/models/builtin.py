"""The models that limbeck has itself, by name; and how a builder is called with the options of a spec."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

from torch import nn

from limbeck.checks import LimbeckError, nearest
from limbeck.models import pairs
from limbeck.models.cifar import CifarResNet
from limbeck.models.spec import ModelSpec, Shape
from limbeck.models.vgg import CifarVGG
from limbeck.models.wide import WideResNet

Builder = Callable[..., object]

_THIN = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

BUILT_IN: Mapping[str, Builder] = {
    "dense-teacher": pairs.dense_teacher,
    "dense-student": pairs.dense_student,
    "conv-teacher": pairs.conv_teacher,
    "conv-student": pairs.conv_student,
    **{f"resnet{depth}": partial(CifarResNet, depth=depth, widths=_THIN) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(CifarResNet, depth=depth, widths=_WIDE) for depth in (8, 32)},
    **{
        f"wrn-{depth}-{widen}": partial(WideResNet, depth=depth, widen=widen)
        for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2))
    },
    "vgg8": partial(CifarVGG, convolutions=(1, 1, 1, 1, 1)),
    "vgg11": partial(CifarVGG, convolutions=(1, 1, 2, 2, 2)),
    "vgg13": partial(CifarVGG, convolutions=(2, 2, 2, 2, 2)),
    "vgg16": partial(CifarVGG, convolutions=(2, 2, 3, 3, 3)),
    "vgg19": partial(CifarVGG, convolutions=(2, 2, 4, 4, 4)),
}


def known_models() -> list[str]:
    """The names of the models that limbeck has itself, sorted."""
    return sorted(BUILT_IN)


def build_built_in(spec: ModelSpec, shape: Shape) -> nn.Module:
    """The built-in model named `spec.name`.

    Raises:
        LimbeckError: where there is no such name, or it takes no such option.
    """
    if spec.name not in BUILT_IN:
        raise LimbeckError(
            f"unknown model {spec.name!r}{nearest(spec.name, BUILT_IN)} "
            "(or timm:NAME, torchvision:NAME, hf:NAME, a folder that limbeck saved, python:MODULE:FUNCTION)"
        )
    model = call_builder(BUILT_IN[spec.name], spec, shape)
    assert isinstance(model, nn.Module)
    return model


def call_builder(builder: Builder, spec: ModelSpec, shape: Shape) -> object:
    """Calls `builder` with the options of `spec` and with what its signature names of the data's shape.

    That is any of `num_classes`, `in_channels`, `image_size` and `in_features` (their product).

    Raises:
        LimbeckError: naming an option that the builder does not take.
    """
    offered: dict[str, Any] = {
        "num_classes": shape.num_classes,
        "in_channels": shape.in_channels,
        "image_size": shape.image_size,
        "in_features": shape.in_channels * prod(shape.image_size),
    }
    fixed = builder.keywords if isinstance(builder, partial) else {}
    parameters = inspect.signature(builder).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    options = [name for name in parameters if name not in offered and name not in fixed]
    for name in spec.options:
        if name in offered or (name not in options and not takes_any):
            raise LimbeckError(
                f"model {spec.name!r} takes no option {name!r}{nearest(name, [*options, 'weights'])}"
                if name not in offered
                else f"model {spec.name!r}: {name!r} comes from the data; remove the option"
            )
    return builder(**{name: value for name, value in offered.items() if name in parameters}, **spec.options)
