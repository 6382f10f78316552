"""Models by name: the one place where the name of a recipe or a command becomes a module."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.builtin import known_models, wrong_kind
from limbeck.models.huggingface import is_transformers
from limbeck.models.huggingface_texts import check_length
from limbeck.models.lora import add_adapters
from limbeck.models.saved import CARD, SavedCard, build_untrained, is_saved, load, read_card
from limbeck.models.spec import AnyShape, ModelSpec, Shape, TextShape
from limbeck.models.weights import load_strictly, read_state_dict

__all__ = ["ModelSpec", "build", "known_models"]


def build(spec: ModelSpec, shape: AnyShape, *, trust_code: bool = False) -> nn.Module:
    """The model that `spec` names, for data of that shape, in training mode.

    Names: those of `known_models()`, `timm:NAME`, `torchvision:NAME`, `hf:NAME-or-folder`, a folder that
    limbeck saved, and `python:package.module:function` (only with `trust_code`). The option `weights` is a
    state dict file; `lora` puts adapters into a transformers model (see `limbeck.models.lora`).

    Raises:
        LimbeckError: where the name or an option is unknown, the weights do not fit, the classes are
            others, or a model of images is asked for texts or the reverse.
    """
    options = dict(spec.options)
    weights, lora = options.pop("weights", None), options.pop("lora", None)
    if is_saved(Path(spec.name)):
        model = _load_fitting(spec, options, shape, trust_code)
    elif Path(spec.name).is_dir() and spec.name not in known_models():
        raise LimbeckError(f"{spec.name}: a folder without {CARD}; for a transformers folder write hf:{spec.name}")
    else:
        model = build_untrained(ModelSpec(spec.name, options), shape, trust_code=trust_code)
    if weights is not None:
        load_strictly(model, read_state_dict(Path(weights)), weights)
    if lora is not None:
        add_adapters(model, lora)
    return model.train()


def _load_fitting(spec: ModelSpec, options: dict[str, object], shape: AnyShape, trust_code: bool) -> nn.Module:
    if options:
        raise LimbeckError(f"{spec.name}: a saved model takes no option {next(iter(options))!r}; remove it")
    card = read_card(Path(spec.name))
    if card.shape is not None and isinstance(card.shape, TextShape) != isinstance(shape, TextShape):
        raise wrong_kind(spec, shape)
    if isinstance(shape, TextShape):
        return _load_fitting_text(spec, card, shape, trust_code)
    if isinstance(card.shape, Shape) and card.shape.head != shape.head:
        raise LimbeckError(
            f"{spec.name}: the saved model is one of {card.shape.head}, the data ask for {shape.head}; name another"
        )
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


def _load_fitting_text(spec: ModelSpec, card: SavedCard, shape: TextShape, trust_code: bool) -> nn.Module:
    saved = card.shape
    if not isinstance(saved, TextShape):
        raise LimbeckError(
            f"{spec.name}: the model was saved without the shape of its texts; load it yourself with limbeck.load"
        )
    for what, there, here in (
        ("head", saved.head, shape.head),
        ("problem", saved.problem, shape.problem),
        ("number of classes", saved.num_classes, shape.num_classes),
        ("vocabulary", saved.vocabulary, shape.vocabulary),
        ("padding token", saved.pad_id, shape.pad_id),
    ):
        if there != here:
            raise LimbeckError(
                f"{spec.name}: the saved model's {what} is {there}, the data's {here}; "
                "use it with data of its own kind and with the tokenizer in its folder"
            )
    model = load(Path(spec.name), trust_code=trust_code)
    if is_transformers(model):
        check_length(spec.name, shape, model)
    return model
