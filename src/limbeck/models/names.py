"""Models by name: the one place where the name of a recipe or a command becomes a module."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from limbeck.checks import LimbeckError
from limbeck.models.builtin import known_models
from limbeck.models.saved import CARD, build_untrained, is_saved, load, read_card
from limbeck.models.spec import ModelSpec, Shape
from limbeck.models.weights import load_strictly, read_state_dict

__all__ = ["ModelSpec", "build", "known_models"]


def build(
    spec: ModelSpec,
    *,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    trust_code: bool = False,
) -> nn.Module:
    """The model that `spec` names, in training mode; `image_size` is (height, width) in pixels.

    Names: those of `known_models()`, `timm:NAME`, `torchvision:NAME`, `hf:NAME-or-folder`, a folder that
    limbeck saved, and `python:package.module:function` (only with `trust_code`). The option `weights` is a
    state dict file.

    Raises:
        LimbeckError: where the name or an option is unknown, the weights do not fit, or the classes are
            others.
    """
    shape = Shape(num_classes, in_channels, image_size)
    options = dict(spec.options)
    weights = options.pop("weights", None)
    if is_saved(Path(spec.name)):
        model = _load_fitting(spec, options, shape, trust_code)
    elif Path(spec.name).is_dir() and spec.name not in known_models():
        raise LimbeckError(f"{spec.name}: a folder without {CARD}; for a transformers folder write hf:{spec.name}")
    else:
        model = build_untrained(ModelSpec(spec.name, options), shape, trust_code=trust_code)
    if weights is not None:
        load_strictly(model, read_state_dict(Path(weights)), weights)
    return model.train()


def _load_fitting(spec: ModelSpec, options: dict[str, object], shape: Shape, trust_code: bool) -> nn.Module:
    if options:
        raise LimbeckError(f"{spec.name}: a saved model takes no option {next(iter(options))!r}; remove it")
    card = read_card(Path(spec.name))
    if len(card.classes) != shape.num_classes:
        raise LimbeckError(
            f"{spec.name}: the saved model has {len(card.classes)} classes, the data {shape.num_classes}; "
            "use it with data of its own classes"
        )
    if card.preprocessing is not None and card.preprocessing.channels != shape.in_channels:
        raise LimbeckError(
            f"{spec.name}: the saved model takes {card.preprocessing.channels} input channels, the data have "
            f"{shape.in_channels}; convert the images"
        )
    return load(Path(spec.name), trust_code=trust_code)
