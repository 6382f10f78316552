"""A model to measure, by the name of a folder, of a file, or of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from limbeck.artifact import is_artifact, read_artifact_card
from limbeck.bench import inputs
from limbeck.bench.onnx_files import OnnxFile, read_onnx
from limbeck.bench.runners import precision_of
from limbeck.errors import LimbeckError
from limbeck.metrics import size_of
from limbeck.models import ModelSpec, TextShape, build, forward_of, known_models, load, read_card
from limbeck.models.by_name import image_model, text_model
from limbeck.models.cards import is_saved
from limbeck.models.spec import Shape
from limbeck.results import Measures
from limbeck.types import Batch

STUDENT = "student"

VOCABULARY = 30_000
"""Tokens of a text model that limbeck has itself, where it is named without data."""

PIXELS = 32
"""A side of the images of a model by name that has no size of its own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What models are measured for where they do not say it themselves: classes, pixels a side (None: the model's own,
    else 32), channels, and tokens of a text (None: 64, or the longest that the model reads)."""

    classes: int = 100
    size: int | None = None
    channels: int = 3
    length: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model to measure: a module, or an .onnx file.

    Attributes:
        inputs: from a batch size to the inputs.
        size: `bytes`, and of a module `parameters`, `trainable_parameters` and `flops` of a sample too.
        precision: what its weights are stored in, or a file computes in (see `OnnxFile`).
    """

    name: str
    inputs: Callable[[int], Batch]
    size: Measures = field(default_factory=dict)
    module: nn.Module | None = None
    file: Path | None = None
    precision: str = ""


def open_subject(name: str, asked: Asked | None = None, *, trust_code: bool = False) -> Subject:
    """The model that `name` means: a folder that limbeck saved, a run's folder (its student), the folder of an exported
    model, an .onnx file, or a model by name (`resnet20`, `timm:…`, `torchvision:…`, `hf:…`, `text-lstm`), untrained.

    Raises:
        LimbeckError: there is no such model, or its file is broken.
    """
    asked, place = asked or Asked(), Path(name)
    if place.is_dir() and not is_saved(place):
        if is_saved(place / STUDENT):
            place = place / STUDENT
        elif is_artifact(place):
            return _artifact(name, place, asked)
        elif name not in known_models():
            raise LimbeckError(
                f"{name}: a folder without a model: neither one that limbeck saved or exported, nor a run's; for a "
                f"transformers folder write hf:{name}"
            )
    if place.suffix == ".onnx":
        return _file(name, read_onnx(place), asked, "")
    if is_saved(place):
        return _module(name, *_saved(place, asked, trust_code))
    if "/" in name and ":" not in name:
        raise LimbeckError(f"{name}: no such folder or file")
    return _module(name, *_by_name(name, asked, trust_code))


def _file(name: str, file: OnnxFile, asked: Asked, precision: str) -> Subject:
    side = asked.size or PIXELS
    size = (asked.channels, side, side)
    made = partial(inputs.of_file, file, size=size, length=asked.length or inputs.LENGTH)
    return Subject(name, made, {"bytes": float(file.bytes)}, file=file.path, precision=precision or file.precision)


def _artifact(name: str, folder: Path, asked: Asked) -> Subject:
    card = read_artifact_card(folder)
    if len(card.graphs) > 1:
        files = ", ".join(str(folder / each.file) for each in card.graphs.values())
        raise LimbeckError(f"{name}: an artifact of several graphs, each run many times; measure one of them: {files}")
    (graph,) = card.graphs.values()
    if card.tokens is not None and asked.length is None:
        asked = replace(asked, length=min(inputs.LENGTH, card.tokens.max_length))
    return _file(name, read_onnx(folder / graph.file), asked, card.precision)


def _module(name: str, module: nn.Module, made: Callable[[int], Batch]) -> Subject:
    module.eval()
    run = forward_of(module)
    try:
        size = size_of(module, made(1), run)
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        if isinstance(error, LimbeckError):
            raise
        shape = tuple(next(iter(made(1).values())).shape)
        reason = str(error).strip().split("\n")[0]
        raise LimbeckError(
            f"{name} does not run on a batch of shape {shape} ({reason}); choose another --size or --length"
        ) from None
    return Subject(name, made, size, module=module, precision=precision_of(module))


def _saved(folder: Path, asked: Asked, trust_code: bool) -> tuple[nn.Module, Callable[[int], Batch]]:
    card = read_card(folder)
    module = load(folder, trust_code=trust_code)
    if isinstance(card.shape, TextShape):
        longest = card.tokenizing.max_length if card.tokenizing is not None else card.shape.max_length
        return module, partial(inputs.tokens, length=asked.length or min(inputs.LENGTH, longest), shape=card.shape)
    if card.preprocessing is not None:
        return module, partial(inputs.pixels, size=(card.preprocessing.channels, *card.preprocessing.size))
    if isinstance(card.shape, Shape):
        return module, partial(inputs.pixels, size=(card.shape.in_channels, *card.shape.image_size))
    raise LimbeckError(f"{folder}: saved without what says the size of its inputs; save it with its preprocessing")


def _by_name(name: str, asked: Asked, trust_code: bool) -> tuple[nn.Module, Callable[[int], Batch]]:
    length = asked.length or inputs.LENGTH
    if name in known_models("texts"):
        shape = TextShape(asked.classes, VOCABULARY, length, 0, "classification")
        return build(ModelSpec(name), shape), partial(inputs.tokens, length=length, shape=shape)
    if name.startswith("hf:"):
        made = text_model(name, asked.classes, "measure a folder that limbeck saved", trust_code=trust_code)
        if made is not None:
            module: Any = made()
            shape = TextShape(asked.classes, module.config.vocab_size, length, 0, "classification")
            return module, partial(inputs.tokens, length=length, shape=shape)
    side = asked.size or own_size(name, trust_code)
    model, size = image_model(name, Shape(asked.classes, asked.channels, (side, side)), trust_code=trust_code)
    revive(model)
    return model, partial(inputs.pixels, size=size)


def own_size(name: str, trust_code: bool = False) -> int:
    """The side of the images that a model by name is made for, in pixels; `PIXELS` where it does not say."""
    if name.startswith("torchvision:"):
        return 224
    if name.startswith("timm:"):
        config = timm.get_pretrained_cfg(name.removeprefix("timm:"))
        return int(config.input_size[-1]) if config is not None else PIXELS
    if name.startswith("hf:"):
        from limbeck.models.huggingface import configuration

        said: Any = configuration(ModelSpec(name), name.removeprefix("hf:"), False, trust_code)
        size = getattr(said, "image_size", 224)
        return int(size) if isinstance(size, int) else 224
    return PIXELS


def revive(module: nn.Module) -> None:
    """Gives weights that are all zero other values: an untrained net that begins a branch with 0 (timm's
    `zero_init_last`) would be measured without it by a runtime that removes what does nothing."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith("bias") or not weight.numel() or bool(weight.any()):
                continue
            if weight.dim() > 1:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=draw))
            else:
                weight.fill_(1.0)
