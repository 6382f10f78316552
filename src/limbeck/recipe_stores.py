"""The label stores of a recipe: which there are, whether they belong to it, and which students learned from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.files import read_json, write_json
from limbeck.recipe import ModelRecipe, Recipe, TeacherRecipe
from limbeck.store import LabelStore
from limbeck.store.manifest import MANIFEST, PLAN, checksum
from limbeck.teachers.endpoint import is_endpoint

LABELS = "labels"
"""Where `limbeck label` writes in a run folder, if the recipe names no place."""
TAUGHT = "taught.json"
"""In a run folder: what its students learn from, a checksum of each teacher's store, or `live`."""
LIVE = "live"


def store_of(wanted: TeacherRecipe) -> LabelStore | None:
    """The label store that a recipe's teacher has, or None where it is alive or its store has still to be written.

    Raises:
        LimbeckError: its place holds something else or a store that is not whole; there is nothing but a model.
    """
    if wanted.store is None:
        return None
    folder = Path(wanted.store)
    if folder.exists() and not folder.is_dir():
        raise LimbeckError(f"teacher.store: {folder} is a file; a label store is a folder that `limbeck label` writes")
    if not wanted.model or (folder.is_dir() and any(folder.iterdir())):
        return LabelStore.open(folder)
    return None


def stores_of(recipe: Recipe) -> list[LabelStore]:
    """The label stores that there are of a recipe's teachers."""
    return [store for wanted in recipe.teacher if (store := store_of(wanted)) is not None]


def one_for_views(stores: Sequence[LabelStore]) -> LabelStore | None:
    """The store whose views and partners students see; None where there is none.

    Raises:
        LimbeckError: stores hold other views than the first.
    """
    if not stores:
        return None
    first = stores[0]
    for other in stores[1:]:
        if other.manifest.plan.views != first.manifest.plan.views:
            raise LimbeckError(
                f"the label stores {first.folder} and {other.folder} hold other views ({first.manifest.plan.views} and "
                f"{other.manifest.plan.views}); label the data for both teachers with one recipe"
            )
    return first


def teacher_text(wanted: ModelRecipe) -> str:
    """What a store's manifest calls a recipe's teacher: its model, with the options that make it another. Of an
    endpoint this is what that calls its model, wherever it is served and whatever may be spent."""
    if is_endpoint(wanted.model):
        return f"endpoint {wanted.options.get('model')}"
    options = ", ".join(f"{key}={_ordered(wanted.options[key])!r}" for key in sorted(wanted.options))
    return f"{wanted.model} ({options})" if options else wanted.model


def same_model(store: LabelStore, wanted: ModelRecipe) -> None:
    """Raises LimbeckError where a recipe's teacher is another model than the one that wrote the store.

    A model that is a file or a folder may have another path than it had; its weights are compared instead.
    """
    mine, theirs = teacher_text(wanted), store.manifest.plan.teacher
    if wanted.model and mine != theirs and not Path(wanted.model).exists():
        raise LimbeckError(
            f"the label store {store.folder} is of the teacher {theirs!r}, the recipe's is {mine!r}; name that one, or "
            "label the data again, or leave teacher.model out and learn from the store alone"
        )


def origins(recipe: Recipe) -> list[str]:
    """What the students of a recipe learn from now, a text a teacher."""
    stores = [store_of(wanted) for wanted in recipe.teacher]
    return [LIVE if store is None else checksum(dict(store.manifest.plain)) for store in stores]


def same_origins(folder: Path, recipe: Recipe) -> None:
    """Raises LimbeckError where a run folder holds students that learned from something else than they would now."""
    now, path = origins(recipe), folder / TAUGHT
    known = read_json(path) if path.exists() and _has_students(folder, recipe) else now
    if known == now:
        return
    at = next((index for index, (a, b) in enumerate(zip(known, now, strict=False)) if a != b), 0)
    raise LimbeckError(
        f"{folder} holds students that learned from {_named(known[at])}, and now they would learn from "
        f"{_named(now[at])} (teacher.store: {recipe.teacher[at].store}); choose another folder with --folder, or set "
        "teacher.store back"
    )


def note_origins(folder: Path, recipe: Recipe) -> None:
    """Writes down what a run folder's students are going to learn from, before the first is trained."""
    path = folder / TAUGHT
    if not path.exists() or not _has_students(folder, recipe):
        write_json(path, origins(recipe))


def without_stores(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe without what says only where and how labels are kept, which changes neither its teachers nor
    what was trained of them."""
    kept = {key: value for key, value in recipe.items() if key != "label"}
    if isinstance(kept.get("teacher"), list):
        kept["teacher"] = [{k: v for k, v in each.items() if k != "store"} for each in kept["teacher"]]
    return kept


def writable(path: Path) -> None:
    """Makes the folder of a store to be written.

    Raises:
        LimbeckError: nothing can be written there, or something else is there.
    """
    if path.exists() and not path.is_dir():
        raise LimbeckError(f"{path} is a file; give teacher.store the path of a folder")
    if path.is_dir() and any(path.iterdir()) and not ((path / MANIFEST).exists() or (path / PLAN).exists()):
        raise LimbeckError(f"{path} is not empty and holds no label store; choose another folder")
    probe = path / ".probe"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LimbeckError(
            f"{path}: labels cannot be written there ({(error.strerror or str(error)).lower()}); "
            "give teacher.store another path"
        ) from None


def _has_students(folder: Path, recipe: Recipe) -> bool:
    """Whether a run folder holds more than its recipe, its teachers and their stores."""
    stores = {Path(wanted.store).resolve() for wanted in recipe.teacher if wanted.store is not None}
    work = folder / "work"
    units = [*folder.iterdir(), *(work.iterdir() if work.is_dir() else ())] if folder.is_dir() else []
    apart = ("teacher", LABELS, ".")
    known = ("recipe.yaml", TAUGHT, "logs", "work")
    return any(
        not each.name.startswith(apart) and each.name not in known and each.resolve() not in stores for each in units
    )


def _named(origin: str) -> str:
    return "the live teacher" if origin == LIVE else f"the label store {origin[:12]}…"


def _ordered(value: Any) -> Any:
    """A value in one spelling."""
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(each) for each in value] if isinstance(value, list | tuple) else value
