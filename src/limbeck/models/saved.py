"""A trained model as a folder: `model.safetensors`, and `limbeck.json` that says how to build it.

A transformers model's folder has its `config.json` too, and a text model's the files of its tokenizer, so that
transformers opens it as well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_file
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.files import staged_folder, write_json
from limbeck.models import huggingface
from limbeck.models import keras as keras_models
from limbeck.models.builtin import BUILT_IN, TEXT_MODELS, build_built_in, wrong_kind
from limbeck.models.cards import CARD, FILES, FORMAT, WEIGHTS, SavedCard, SavedTokenizing, is_saved, read_card
from limbeck.models.detection.names import build_detector, is_detector
from limbeck.models.detection.sets import SetDetector
from limbeck.models.embeddings import PREFIX as EMBEDDING_PREFIX
from limbeck.models.embeddings import build_embedding, wants_embedding
from limbeck.models.forward import unwrapped
from limbeck.models.huggingface_texts import build_huggingface_text
from limbeck.models.libraries import build_python, build_timm, build_torchvision
from limbeck.models.lora import merged
from limbeck.models.poses import build_poses, build_vitpose, wants_keypoints
from limbeck.models.pruned import install_pruning, pruning_of
from limbeck.models.renumbered import blank_numbers, install_renumbering, renumbering_of
from limbeck.models.resolution import RESOLUTION, build_coarse
from limbeck.models.reused import install, plan_of
from limbeck.models.spec import AnyShape, ModelSpec, Shape, TextShape
from limbeck.models.weights import load_strictly, read_state_dict, unique_tensors
from limbeck.types import Preprocessing


class Tokenizes(Protocol):
    """What prepares a model's texts (`limbeck.sources.texts.Tokenizing`): it writes itself beside the model."""

    @property
    def max_length(self) -> int: ...

    def identity(self) -> str: ...

    def save(self, folder: Path) -> None: ...


def save(
    model: nn.Module,
    folder: Path,
    *,
    spec: ModelSpec | None,
    classes: Sequence[str],
    preprocessing: Preprocessing | Tokenizes | None,
    task: str = "image-classification",
    shape: AnyShape | None = None,
    about: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Writes `model` into `folder`, whole or not at all; replaces a model there, keeps other files.

    `spec` says how to build it again (None for a module of your own, which then loads only `into` one like
    it); transformers and Keras models carry their own description. `shape` is what the model was built for; of images
    the preprocessing says it too. Adapters (LoRA) are written merged into the weights that they adapt. `about` takes
    JSON values, and so does `data`: the settings of the data that the model learned from, which say how its answers are
    read.

    Raises:
        LimbeckError: where `folder` is a file, or a spec or a tokenizer comes without what it was built for.
    """
    if folder.exists() and not folder.is_dir():
        raise LimbeckError(f"{folder}: is a file; give a folder to save the model in")
    inner = keras_models.as_module(unwrapped(model))
    held = huggingface.held(inner)  # a wrapper's folder is that of the model in it, so that transformers opens it
    own_description = huggingface.is_transformers(held) or isinstance(inner, keras_models.KerasModule)
    spec, original = _origin(spec)
    shape = shape or original
    pixels = preprocessing if isinstance(preprocessing, Preprocessing) else None
    tokenizing = None if isinstance(preprocessing, Preprocessing) else preprocessing
    if spec is not None and shape is None and pixels is not None:
        shape = Shape(len(classes), pixels.channels, pixels.size)
    if tokenizing is not None and not isinstance(shape, TextShape):
        raise LimbeckError(
            "save: a tokenizer comes without the shape of its texts, so nothing would say what the model is for; "
            "give shape=TextShape(…)"
        )
    if spec is not None and shape is None and not own_description:
        raise LimbeckError(
            f"model {spec.name!r} is saved without preprocessing, so its channels and image size would be "
            "lost; give preprocessing (or a shape), or spec=None"
        )
    numbers, pruning = renumbering_of(inner), pruning_of(inner)
    card: dict[str, Any] = {
        "format": FORMAT,
        "limbeck": version("limbeck"),
        "task": task,
        "model": None if spec is None else {**asdict(spec), "shape": asdict(shape) if type(shape) is Shape else None},
        "text": asdict(shape) if isinstance(shape, TextShape) else None,
        "classes": list(classes),
        "preprocessing": None if pixels is None else asdict(pixels),
        "tokenizing": None if tokenizing is None else _identified(tokenizing),
        "transformers": huggingface.describe(held) if huggingface.is_transformers(held) else None,
        "detects": isinstance(inner, SetDetector),
        "keras": keras_models.describe(inner) if isinstance(inner, keras_models.KerasModule) else None,
        "reused_head": None if (plan := plan_of(inner)) is None else asdict(plan),
        "renumbered": None if numbers is None else len(numbers),
        "pruned": None if pruning is None else pruning.as_json(),
        "data": data,
        "about": about or {},
    }
    tensors = merged(held, unique_tensors(held, f"{folder}"))

    def write(place: Path) -> None:
        # The metadata is what transformers and others look for before they read a file.
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
        # A model that was changed would be another one if transformers built it.
        changed = plan_of(inner) is not None or numbers is not None or pruning is not None
        if huggingface.is_transformers(held) and not changed:
            huggingface.write_configuration(held, place)
        if tokenizing is not None:
            tokenizing.save(place)

    if folder.exists() and any(path.name not in (FILES if is_saved(folder) else ()) for path in folder.iterdir()):
        _write_among_others(folder, write)
        write_json(folder / CARD, card)
        return
    with staged_folder(folder) as staging:
        write(staging)
        write_json(staging / CARD, card)


def _write_among_others(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes a model's files but its card; what else is there (a trainer's checkpoints) stays."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".model.", suffix=".partial") as staging:
        write(Path(staging))
        if is_saved(folder):
            # Without a card the folder is no model meanwhile.
            for name in (CARD, *FILES):
                (folder / name).unlink(missing_ok=True)
        for path in Path(staging).iterdir():
            os.replace(path, folder / path.name)


def _identified(tokenizing: Tokenizes) -> dict[str, Any]:
    return asdict(SavedTokenizing(tokenizing.identity(), tokenizing.max_length))


def _origin(spec: ModelSpec | None) -> tuple[ModelSpec | None, AnyShape | None]:
    """The spec to write: that of the saved folder where it names one, so that the new one stands alone."""
    if spec is not None and is_saved(Path(spec.name)):
        card = read_card(Path(spec.name))
        return card.spec, card.shape
    if spec is None:
        return None, None
    return ModelSpec(spec.name, {key: _plain(value) for key, value in spec.options.items()}), None


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def load(folder: Path, *, into: nn.Module | None = None, trust_code: bool = False) -> nn.Module:
    """The model that `save` wrote, in eval mode on the CPU; or its weights `into` a module like it.

    Nothing is unpickled or downloaded, and no code runs but limbeck's and its libraries', unless
    `trust_code`.

    Raises:
        LimbeckError: where a file is missing or broken, the weights do not fit, or nothing says how to build
            the model.
    """
    card = read_card(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise LimbeckError(f"{path}: no such file; save the model again")
    state = read_state_dict(path)
    model = into
    if model is not None and card.pruned is not None and pruning_of(unwrapped(model)) is None:
        install_pruning(unwrapped(model), card.pruned)
    if model is None:
        model = _rebuilt(card, folder, trust_code)
        if card.pruned is not None:
            install_pruning(model, card.pruned)
        if card.reused_head is not None:
            install(model, card.reused_head)
        if card.renumbered is not None:
            install_renumbering(model, blank_numbers(card.renumbered))
    load_strictly(huggingface.held(model), state, path)
    return model.eval()


def _rebuilt(card: SavedCard, folder: Path, trust_code: bool) -> nn.Module:
    if card.keras is not None:
        return keras_models.rebuild(card.keras, folder / CARD, trust_code=trust_code)
    if card.transformers is not None:
        described = huggingface.rebuild(card.transformers, folder / CARD)
        return SetDetector(described) if card.detects else described
    if card.spec is None or card.shape is None:
        raise LimbeckError(
            f"{folder}: the model was saved without a spec, so nothing says how to build it; "
            "build it yourself and call load(folder, into=model)"
        )
    # Neither a download nor the file that training began with: the weights beside the card are all there are.
    kept = {key: value for key, value in card.spec.options.items() if key not in ("pretrained", "weights")}
    return build_untrained(ModelSpec(card.spec.name, kept), card.shape, trust_code=trust_code)


def build_untrained(spec: ModelSpec, shape: AnyShape, *, trust_code: bool) -> nn.Module:
    """The model of any name but a folder's, with the weights that its library gives it."""
    if RESOLUTION in spec.options:
        return build_coarse(spec, shape, partial(build_untrained, trust_code=trust_code))
    prefix = spec.name.partition(":")[0] + ":"
    wants_embedding(spec, shape)
    if wants_keypoints(spec, shape) and isinstance(shape, Shape):
        return build_poses(spec, shape)
    if prefix == EMBEDDING_PREFIX and isinstance(shape, Shape):
        return build_embedding(spec, shape)
    if isinstance(shape, Shape) and is_detector(spec, shape):
        return build_detector(spec, shape, trust_code=trust_code)
    if spec.name in BUILT_IN or spec.name in TEXT_MODELS:
        return build_built_in(spec, shape)
    if prefix == "python:":
        return build_python(spec, shape, trust_code=trust_code)
    if prefix == "hf:" and isinstance(shape, Shape) and shape.head == "keypoints":
        return build_vitpose(spec, shape, trust_code=trust_code)
    if prefix == "hf:" and isinstance(shape, TextShape):
        return build_huggingface_text(spec, shape, trust_code=trust_code)
    if prefix == "hf:" and isinstance(shape, Shape):
        return huggingface.build_huggingface(spec, shape, trust_code=trust_code)
    if prefix in ("timm:", "torchvision:"):
        if isinstance(shape, TextShape):
            raise wrong_kind(spec, shape)
        return build_timm(spec, shape) if prefix == "timm:" else build_torchvision(spec, shape)
    return build_built_in(spec, shape)
