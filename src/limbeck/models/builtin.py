"""The models that limbeck has itself, by name; and how a builder is called with the options of a spec."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, Literal

from torch import nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models import pairs
from limbeck.models.cifar import CifarResNet
from limbeck.models.spec import AnyShape, ModelSpec, Shape, TextShape
from limbeck.models.texts import TEXT_MODELS
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


def known_models(of: Literal["images", "texts"] | None = None) -> list[str]:
    """The names of the models that limbeck has itself, sorted: all of them, or those of images or of texts."""
    return sorted([*(BUILT_IN if of != "texts" else ()), *(TEXT_MODELS if of != "images" else ())])


def build_built_in(spec: ModelSpec, shape: AnyShape) -> nn.Module:
    """The built-in model named `spec.name`.

    Raises:
        LimbeckError: where there is no such name, it takes no such option, or it is not made for such data.
    """
    texts = isinstance(shape, TextShape)
    builders, others = (TEXT_MODELS, BUILT_IN) if texts else (BUILT_IN, TEXT_MODELS)
    if spec.name in others:
        raise wrong_kind(spec, shape)
    if spec.name not in builders:
        places = "hf:NAME" if texts else "timm:NAME, torchvision:NAME, hf:NAME"
        raise LimbeckError(
            f"unknown model {spec.name!r}{nearest(spec.name, builders)} "
            f"(or {places}, a folder that limbeck saved, python:MODULE:FUNCTION)"
        )
    if isinstance(shape, TextShape) and shape.head != "classification":
        raise LimbeckError(f"model {spec.name!r} classifies texts; for {shape.head} take hf:NAME")
    model = call_builder(builders[spec.name], spec, shape)
    assert isinstance(model, nn.Module)
    return model


def wrong_kind(spec: ModelSpec, shape: AnyShape) -> LimbeckError:
    """The error of a model of images that is asked for texts, or the reverse."""
    reads, data = ("images", "texts") if isinstance(shape, TextShape) else ("texts", "images")
    names = f"{', '.join(known_models('texts'))} or hf:NAME" if data == "texts" else "resnet20, timm:NAME and others"
    return LimbeckError(f"model {spec.name!r} reads {reads}, the data are {data}; take one of {names}")


def call_builder(builder: Builder, spec: ModelSpec, shape: AnyShape) -> object:
    """Calls `builder` with the options of `spec` and with what its signature names of the data's shape.

    That is of images any of `num_classes`, `in_channels`, `image_size` and `in_features` (their product); of texts
    `num_classes`, `vocabulary`, `max_length`, `pad_id`, `bos_id` and `eos_id`.

    Raises:
        LimbeckError: naming an option that the builder does not take.
    """
    offered = _offered(shape)
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


def _offered(shape: AnyShape) -> dict[str, Any]:
    if isinstance(shape, Shape):
        return {
            "num_classes": shape.num_classes,
            "in_channels": shape.in_channels,
            "image_size": shape.image_size,
            "in_features": shape.in_channels * prod(shape.image_size),
        }
    return {
        "num_classes": shape.num_classes,
        "vocabulary": shape.vocabulary,
        "max_length": shape.max_length,
        "pad_id": shape.pad_id,
        "bos_id": shape.bos_id,
        "eos_id": shape.eos_id,
    }
