"""Models that a command names without data: built for the number of classes and the size that it says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.cards import is_saved, read_card
from limbeck.models.huggingface import configuration
from limbeck.models.names import build
from limbeck.models.saved import load
from limbeck.models.spec import ModelSpec, Shape


def image_model(name: str, shape: Shape, *, trust_code: bool = False) -> tuple[nn.Module, tuple[int, int, int]]:
    """A model of images, and the (channels, height, width) of its inputs: untrained, but for a saved folder."""
    if is_saved(Path(name)):
        card = read_card(Path(name))
        given = card.preprocessing
        size = (given.channels, *given.size) if given is not None else (shape.in_channels, *shape.image_size)
        return load(Path(name), trust_code=trust_code), size
    options: dict[str, Any] = {"pretrained": False} if name.startswith("hf:") else {}
    config = timm.get_pretrained_cfg(name.removeprefix("timm:")) if name.startswith("timm:") else None
    if config is not None and config.fixed_input_size:
        options["img_size"] = shape.image_size
    model = build(ModelSpec(name, options), shape, trust_code=trust_code)
    return model, (shape.in_channels, *shape.image_size)


def text_model(name: str, classes: int, remedy: str, *, trust_code: bool = False) -> Callable[[], nn.Module] | None:
    """Makes the untrained text model of `hf:…`; None where it is not one of texts.

    Raises:
        LimbeckError: there is no classifier or causal language model of that name; it ends in `remedy`.
    """
    import transformers

    config = configuration(ModelSpec(name), name.removeprefix("hf:"), False, trust_code)
    kind = type(config)
    if kind in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING or not hasattr(config, "vocab_size"):
        return None
    if config.is_encoder_decoder:
        raise LimbeckError(f"{name} has two stacks, an encoder and a decoder; {remedy}")
    architecture = next(iter(config.architectures or ()), "")
    generates = architecture.endswith("CausalLM") or kind not in transformers.MODEL_FOR_MASKED_LM_MAPPING
    # Typed loosely: these classes are only partly annotated.
    auto: Any = transformers.AutoModelForSequenceClassification
    if generates and kind in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        auto = transformers.AutoModelForCausalLM
    elif kind in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        config.num_labels = classes
    else:
        raise LimbeckError(f"transformers has no classifier or causal language model for {name}; {remedy}")
    return lambda: auto.from_config(config, trust_remote_code=trust_code)
