"""A trained model as a folder: `model.safetensors`, and `limbeck.json` that says how to build it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck.checks import LimbeckError
from limbeck.files import read_json, staged_file, staged_folder, write_json
from limbeck.models import huggingface
from limbeck.models import keras as keras_models
from limbeck.models.builtin import BUILT_IN, build_built_in
from limbeck.models.forward import unwrapped
from limbeck.models.libraries import build_python, build_timm, build_torchvision
from limbeck.models.reused import HeadPlan, install, plan_of
from limbeck.models.spec import ModelSpec, Shape
from limbeck.models.weights import load_strictly, read_state_dict, unique_tensors
from limbeck.types import Preprocessing

CARD, WEIGHTS, FORMAT = "limbeck.json", "model.safetensors", "limbeck-model/1"


@dataclass(frozen=True, slots=True)
class SavedCard:
    """What `limbeck.json` says of a saved model.

    `shape` is what `spec` was built for, `transformers` and `keras` the description of a model of those
    libraries, `reused_head` how its head was replaced (see `limbeck.reuse`).
    """

    spec: ModelSpec | None
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None
    task: str
    about: dict[str, Any]
    shape: Shape | None = None
    transformers: dict[str, Any] | None = None
    keras: dict[str, Any] | None = None
    reused_head: HeadPlan | None = None


def is_saved(folder: Path) -> bool:
    """Whether `folder` is one that `save` wrote."""
    return (folder / CARD).is_file()


def save(
    model: nn.Module,
    folder: Path,
    *,
    spec: ModelSpec | None,
    classes: Sequence[str],
    preprocessing: Preprocessing | None,
    task: str = "image-classification",
    about: dict[str, Any] | None = None,
) -> None:
    """Writes `model` into `folder`, whole or not at all; replaces a model there, keeps other files.

    `spec` says how to build it again (None for a module of your own, which then loads only `into` one like
    it); transformers and Keras models carry their own description. `about` takes JSON values.

    Raises:
        LimbeckError: where `folder` is a file, or a spec comes without what it was built for.
    """
    if folder.exists() and not folder.is_dir():
        raise LimbeckError(f"{folder}: is a file; give a folder to save the model in")
    inner = keras_models.as_module(unwrapped(model))
    own_description = huggingface.is_transformers(inner) or isinstance(inner, keras_models.KerasModule)
    spec, shape = _origin(spec)
    if spec is not None and shape is None and preprocessing is not None:
        shape = Shape(len(classes), preprocessing.channels, preprocessing.size)
    if spec is not None and shape is None and not own_description:
        raise LimbeckError(
            f"model {spec.name!r} is saved without preprocessing, so its channels and image size would be "
            "lost; give preprocessing, or spec=None"
        )
    card: dict[str, Any] = {
        "format": FORMAT,
        "limbeck": version("limbeck"),
        "task": task,
        "model": None if spec is None else {**asdict(spec), "shape": None if shape is None else asdict(shape)},
        "classes": list(classes),
        "preprocessing": None if preprocessing is None else asdict(preprocessing),
        "transformers": huggingface.describe(inner) if huggingface.is_transformers(inner) else None,
        "keras": keras_models.describe(inner) if isinstance(inner, keras_models.KerasModule) else None,
        "reused_head": None if (plan := plan_of(inner)) is None else asdict(plan),
        "about": about or {},
    }
    tensors = unique_tensors(inner, f"{folder}")
    if folder.exists() and any(path.name not in (CARD, WEIGHTS) for path in folder.iterdir()):
        # What else is there (a trainer's checkpoints) stays; without a card the folder is no model meanwhile.
        (folder / CARD).unlink(missing_ok=True)
        with staged_file(folder / WEIGHTS) as staging:
            _write_tensors(tensors, staging)
        write_json(folder / CARD, card)
        return
    with staged_folder(folder) as staging:
        _write_tensors(tensors, staging / WEIGHTS)
        write_json(staging / CARD, card)


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    # The metadata is what transformers and others look for before they read a file.
    save_file(tensors, path, metadata={"format": "pt"})


def _origin(spec: ModelSpec | None) -> tuple[ModelSpec | None, Shape | None]:
    """The spec to write: that of the saved folder where it names one, so that the new one stands alone."""
    if spec is not None and is_saved(Path(spec.name)):
        card = read_card(Path(spec.name))
        return card.spec, card.shape
    if spec is None:
        return None, None
    return ModelSpec(spec.name, {key: _plain(value) for key, value in spec.options.items()}), None


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def read_card(folder: Path) -> SavedCard:
    """What the folder's `limbeck.json` says.

    Raises:
        LimbeckError: where there is none, or it is not one that this version reads.
    """
    path = folder / CARD
    if not path.is_file():
        raise LimbeckError(f"{folder}: no {CARD} in it; give a folder that limbeck saved")
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise LimbeckError(f"{path}: expected format {FORMAT!r}, got {got!r}; save the model with this version")
    try:
        model, pixels, plan = data["model"], data["preprocessing"], data.get("reused_head")
        shape = model and model["shape"]
        return SavedCard(
            spec=model and ModelSpec(str(model["name"]), dict(model["options"])),
            classes=tuple(map(str, data["classes"])),
            preprocessing=pixels and Preprocessing(**{key: _tupled(value) for key, value in pixels.items()}),
            task=str(data["task"]),
            about=dict(data["about"]),
            shape=shape and Shape(**{key: _tupled(value) for key, value in shape.items()}),
            transformers=data["transformers"],
            keras=data["keras"],
            reused_head=plan and HeadPlan(**{key: _tupled(value) for key, value in plan.items()}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LimbeckError(f"{path}: not a whole model card ({error!r}); save the model again") from None


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
    if model is None:
        model = _rebuilt(card, folder, trust_code)
        if card.reused_head is not None:
            install(model, card.reused_head)
    load_strictly(model, state, path)
    return model.eval()


def _rebuilt(card: SavedCard, folder: Path, trust_code: bool) -> nn.Module:
    if card.keras is not None:
        return keras_models.rebuild(card.keras, folder / CARD, trust_code=trust_code)
    if card.transformers is not None:
        return huggingface.rebuild(card.transformers, folder / CARD)
    if card.spec is None or card.shape is None:
        raise LimbeckError(
            f"{folder}: the model was saved without a spec, so nothing says how to build it; "
            "build it yourself and call load(folder, into=model)"
        )
    # Neither a download nor the file that training began with: the weights beside the card are all there are.
    kept = {key: value for key, value in card.spec.options.items() if key not in ("pretrained", "weights")}
    return build_untrained(ModelSpec(card.spec.name, kept), card.shape, trust_code=trust_code)


def build_untrained(spec: ModelSpec, shape: Shape, *, trust_code: bool) -> nn.Module:
    """The model of any name but a folder's, with the weights that its library gives it."""
    prefix = spec.name.partition(":")[0] + ":"
    builders: dict[str, Callable[[], nn.Module]] = {
        "timm:": lambda: build_timm(spec, shape),
        "torchvision:": lambda: build_torchvision(spec, shape),
        "hf:": lambda: huggingface.build_huggingface(spec, shape, trust_code=trust_code),
        "python:": lambda: build_python(spec, shape, trust_code=trust_code),
    }
    if spec.name not in BUILT_IN and prefix in builders:
        return builders[prefix]()
    return build_built_in(spec, shape)
