"""The data that a saved model learned from, or others that are prepared in the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from limbeck.errors import LimbeckError, nearest
from limbeck.models import SavedCard
from limbeck.tasks import TASKS, Opening, Task

DIGITS = "digits"
RECIPE = "recipe.yaml"
ABOVE = 3
"""Folders above a saved model in which its run may be."""

PREPARING = frozenset(
    {"size", "fit", "normalize", "channels", "padding", "sigma", "decoding", "flip_test", "skeleton"}
    | {"stride", "max_length", "max_answer_tokens", "null_threshold", "max_new_tokens", "beams", "problem", "packed"}
)
"""Settings that say how samples are prepared and answers read, whatever the data are."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A task's data with their settings; `learned` is the name of those that the model learned from, None where
    nothing says it."""

    task: Task
    settings: Any
    data: Any
    learned: str | None


def run_of(folder: Path) -> Path | None:
    """The folder of the run that made a saved model; None where it is somewhere else."""
    for place in list(folder.resolve().parents)[:ABOVE]:
        if (place / RECIPE).is_file():
            return place
    return None


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe of the run that made a saved model, as plain values; empty where it is not known."""
    run = run_of(folder)
    if run is None:
        return {}
    try:
        found = yaml.safe_load((run / RECIPE).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def open_data(folder: Path, card: SavedCard, source: str | None, say: Callable[[str], None]) -> Known:
    """A saved model's data, or those of another `source`, prepared as the model wants them.

    Raises:
        LimbeckError: the task is not known, nothing says which data, or they cannot be had.
    """
    if card.task not in TASKS:
        raise LimbeckError(f"{folder}: unknown task {card.task!r}{nearest(card.task, TASKS)}")
    task = TASKS[card.task]
    recipe = recipe_of(folder)
    given: dict[str, Any] = dict(card.data or (recipe["data"] if recipe.get("task") == card.task else {}))
    learned = given.get("source")
    if source is not None and source != learned:
        given = {name: value for name, value in given.items() if name in PREPARING} | {"source": source}
    if "source" not in given:
        if card.task != "image-classification" or card.preprocessing is None or card.preprocessing.channels != 1:
            raise LimbeckError(
                f"{folder}: nothing says which data it learned from, and an export is checked on real inputs; name "
                "some with --data (data=…)"
            )
        given["source"] = DIGITS
    if card.preprocessing is not None:
        height, width = card.preprocessing.size
        given["size"] = height if height == width and card.task in ("image-classification", "face-recognition") else [
            height, width,
        ]  # fmt: skip
    if card.tokenizing is not None:
        given |= {"max_length": card.tokenizing.max_length, "tokenizer": ""}
    try:
        settings = task.settings.model_validate(given)
        data = task.load(settings, Opening(teachers=[str(folder)], say=say))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise LimbeckError(f"{folder}: the settings of its data do not fit ({where}: {first['msg']})") from None
    except LimbeckError as error:
        raise LimbeckError(f"the data {given['source']!r} cannot be had ({error}); name others with --data") from None
    return Known(task, settings, data, learned)
