"""Models of timm, of torchvision and of the user's own functions, by name, imported when asked for."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models.builtin import call_builder
from limbeck.models.keras import as_module
from limbeck.models.spec import AnyShape, ModelSpec, Shape

# These two were trained on inputs that they rescale themselves, which torchvision sets only with its own
# loader.
_RESCALING = ("googlenet", "inception_v3")


def build_timm(spec: ModelSpec, shape: Shape) -> nn.Module:
    """`timm:NAME`; options go to `timm.create_model` (`pretrained`, `drop_rate`, `img_size`, …)."""
    import timm

    name = spec.name.removeprefix("timm:")
    for option in ("num_classes", "in_chans"):
        if option in spec.options:
            raise LimbeckError(f"model {spec.name!r}: {option!r} comes from the data; remove the option")
    if ":" not in name and not timm.is_model(name):
        raise LimbeckError(f"timm has no model {name!r}{_hint(name, timm.list_models(), 'timm.list_models()')}")
    try:
        model: nn.Module = timm.create_model(
            name, num_classes=shape.num_classes, in_chans=shape.in_channels, **spec.options
        )
    except TypeError as error:
        raise LimbeckError(f"model {spec.name!r}: an option does not fit ({error})") from None
    except (OSError, RuntimeError) as error:
        raise LimbeckError(
            f"model {spec.name!r} could not be built ({_short(error)}); "
            "pretrained weights need the internet: check the connection, or leave out `pretrained`"
        ) from None
    return model


def build_torchvision(spec: ModelSpec, shape: Shape) -> nn.Module:
    """`torchvision:NAME`; `pretrained: true` loads the DEFAULT weights; others go to the constructor."""
    import torchvision

    name = spec.name.removeprefix("torchvision:")
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise LimbeckError(
            f"torchvision has no classification model {name!r}{_hint(name, names, 'torchvision.models.list_models()')}"
        )
    if shape.in_channels != 3:
        raise LimbeckError(
            f"model {spec.name!r} takes 3 input channels, the data have {shape.in_channels}; "
            "convert the images to RGB, or take a timm: model, whose channels can be chosen"
        )
    options = dict(spec.options)
    weights = torchvision.models.get_model_weights(name).DEFAULT if options.pop("pretrained", False) else None
    if weights is not None:
        classes = len(weights.meta["categories"])
        if classes != shape.num_classes:
            raise LimbeckError(
                f"model {spec.name!r}: the pretrained weights have {classes} classes, "
                f"the data {shape.num_classes}; "
                "take the same model from timm:, which puts a new head on pretrained weights"
            )
        if name in _RESCALING:
            options["transform_input"] = True
    if name in _RESCALING:
        # The default of these two is to draw the weights anew from a truncated normal, with a warning.
        options.setdefault("init_weights", weights is None)
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=shape.num_classes, **options)
    except TypeError as error:
        raise LimbeckError(f"model {spec.name!r}: an option does not fit ({error})") from None
    if weights is not None:
        # Not through get_model: its loader unpickles.
        try:
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except OSError as error:
            raise LimbeckError(f"model {spec.name!r}: the weights could not be had ({_short(error)})") from None
        model.load_state_dict(state)
    return model


def build_python(spec: ModelSpec, shape: AnyShape, *, trust_code: bool) -> nn.Module:
    """`python:package.module:function`: what that function returns for the parts of `shape` that it names.

    Raises:
        LimbeckError: without `trust_code`, and where there is no such function.
    """
    if not trust_code:
        raise LimbeckError(
            f"model {spec.name!r} runs code that the name points to; "
            "give --trust-code (trust_code=True) if you trust it"
        )
    module_name, _, function_name = spec.name.removeprefix("python:").partition(":")
    if not module_name or not function_name:
        raise LimbeckError(f"model {spec.name!r}: expected python:package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise LimbeckError(f"model {spec.name!r}: {error}; install it or put its folder on PYTHONPATH") from None
    functions = dict(inspect.getmembers(module, callable))
    if function_name not in functions:
        raise LimbeckError(
            f"model {spec.name!r}: {module_name} has no function {function_name!r}"
            f"{_hint(function_name, list(functions), f'the source of {module_name}')}"
        )
    return as_module(call_builder(functions[function_name], spec, shape))


def _hint(name: str, known: list[str], where: str) -> str:
    hint = nearest(name, known)
    return hint if hint.startswith("; did you mean") else f"; see {where}"


def _short(error: Any) -> str:
    return str(error).strip().split("\n")[0]
