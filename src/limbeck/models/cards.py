"""The card of a saved model, `limbeck.json`: how to build it, what it is for, and what prepares its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.files import read_json
from limbeck.models.pruned import PruningPlan, plan_from_json
from limbeck.models.reused import HeadPlan
from limbeck.models.spec import AnyShape, ModelSpec, Shape, TextShape
from limbeck.types import Preprocessing

CARD, WEIGHTS, FORMAT = "limbeck.json", "model.safetensors", "limbeck-model/1"
FILES = frozenset(
    {CARD, WEIGHTS, "config.json", "generation_config.json"}
    | {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizing.json"}
)
"""What a saved model's folder may hold; anything else there is not the model's."""


@dataclass(frozen=True, slots=True)
class SavedTokenizing:
    """The tokenizer whose files are in a saved model's folder: its `identity()`, and the tokens of its longest row."""

    identity: str
    max_length: int


@dataclass(frozen=True, slots=True)
class SavedCard:
    """What `limbeck.json` says of a saved model.

    `shape` is what it was built for, `transformers` and `keras` the description of a model of those libraries, `data`
    the settings of the data that it learned from, `detects` whether the model of transformers finds objects in
    limbeck's wrapper, `reused_head` how its head was replaced (see `limbeck.reuse`), `pruned` what is left of its parts
    (see `limbeck.compress`), `tokenizing` which tokenizer lies
    beside it, and `renumbered` how many tokens that has where the model knows fewer.
    """

    spec: ModelSpec | None
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None
    task: str
    about: dict[str, Any]
    shape: AnyShape | None = None
    transformers: dict[str, Any] | None = None
    keras: dict[str, Any] | None = None
    reused_head: HeadPlan | None = None
    tokenizing: SavedTokenizing | None = None
    renumbered: int | None = None
    detects: bool = False
    pruned: PruningPlan | None = None
    data: dict[str, Any] | None = None


def is_saved(folder: Path) -> bool:
    """Whether `folder` is one that `save` wrote."""
    return (folder / CARD).is_file()


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
        shape, text, tokenizing = model and model["shape"], data.get("text"), data.get("tokenizing")
        return SavedCard(
            spec=model and ModelSpec(str(model["name"]), dict(model["options"])),
            classes=tuple(map(str, data["classes"])),
            preprocessing=pixels and Preprocessing(**{key: _tupled(value) for key, value in pixels.items()}),
            task=str(data["task"]),
            about=dict(data["about"]),
            shape=TextShape(**text) if text else shape and Shape(**{key: _tupled(each) for key, each in shape.items()}),
            transformers=data["transformers"],
            keras=data["keras"],
            reused_head=plan and HeadPlan(**{key: _tupled(value) for key, value in plan.items()}),
            tokenizing=tokenizing and SavedTokenizing(**tokenizing),
            renumbered=data.get("renumbered"),
            detects=bool(data.get("detects", False)),
            pruned=None if data.get("pruned") is None else plan_from_json(data["pruned"]),
            data=data.get("data"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LimbeckError(f"{path}: not a whole model card ({error!r}); save the model again") from None


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
