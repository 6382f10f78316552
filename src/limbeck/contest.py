"""Methods against each other: one teacher, one student alone, and each method on the same budget, weights and order."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.compare import ALONE, method_claims, versions
from limbeck.errors import LimbeckError, nearest
from limbeck.files import difference
from limbeck.losses import METHODS, Method
from limbeck.processes import processes
from limbeck.recipe import WEIGHT_KEYS, Recipe
from limbeck.results import Results
from limbeck.run import account, collected_notes, finished, silent
from limbeck.session import (
    GROWS,
    RECORD,
    Say,
    Session,
    Taught,
    claim,
    kept_recipe,
    open_data,
    open_teacher,
    preview_teacher,
    training_split,
)
from limbeck.students import Entry, lineup, rehearse, train_all

BASELINE = "kd"
"""The method that every other has to beat."""

LONGEST_WARMUP = 1 / 12
"""The share of a training over which a method's weight may rise: the papers' 20 of 240 epochs."""

Terms = list[dict[str, Any]]


def compare_methods(
    recipe: Recipe,
    folder: Path,
    methods: Sequence[str] | None = (),
    *,
    trust_code: bool = False,
    say: Say = print,
) -> Results:
    """Trains a recipe's student by each method, and alone, over the recipe's seeds, and compares them; goes on where an
    earlier comparison in `folder` stopped, and adds to it.

    Plain KD is always among the methods. A method's terms are those of the recipe's `methods`, or of the table.

    Args:
        methods: names; empty for the recipe's `methods`; None, or where it has none, for all of the table that fit.

    Raises:
        LimbeckError: an unknown method, or one asked for by name that does not fit; the folder holds something else, or
            a method with other terms; and as `limbeck.run.run`.
    """
    main = processes().is_main_process
    say = say if main else silent
    plain = recipe.model_copy(update={"settings": {}, "generations": 1, "methods": {}, "compare": [], "steps": []})
    names = asked(recipe, methods)
    explicit = bool(methods) or (methods is not None and bool(recipe.methods))
    with collected_notes() as notes:

        def note(line: str) -> None:
            notes.append(line)
            say(line)

        if plain.resolved() != recipe.model_copy(update={"methods": {}}).resolved():
            note("compared in the recipe's own setting and one generation: its other settings are left out")
        data = open_data(plain, say)
        session = Session(plain, data, folder, trust_code, say)
        taught = preview_teacher(session)
        chosen = fitting(session, taught, recipe, names, explicit=explicit, note=note)
        kept, grows = _kept(folder), (*GROWS, "methods")
        if main:  # before terms are compared, which follow from the rest of the recipe
            claim(folder, plain.model_copy(update={"methods": kept}), grows)
        shown = plain.model_copy(update={"methods": _with_kept(plain, folder, kept, chosen)})
        if main:
            claim(folder, plain.model_copy(update={"methods": kept | chosen}), grows)
        done = finished(folder, shown)
        if done is not None:
            say(f"{folder}: already complete; nothing to do (name more methods or seeds to add to it)")
            return done
        taught = taught if taught.ready else open_teacher(session)
        entries = method_entries(session, taught, shown.methods)
        train_all(session, entries)
        if not main:
            return Results(shown.resolved(), versions(), [])
        return account(
            replace(session, recipe=shown), entries, taught, notes,
            lambda rows: method_claims(rows, list(shown.methods), (ALONE, BASELINE), session.task.claimed),
        )  # fmt: skip


def names_of_methods(text: str) -> list[str] | None:
    """Names from text with commas between; empty for nothing, None for `all`."""
    return None if text.strip() == "all" else [name.strip() for name in text.split(",") if name.strip()]


def asked(recipe: Recipe, methods: Sequence[str] | None) -> list[str]:
    """The names of the methods to compare, plain KD first.

    Raises:
        LimbeckError: an unknown name.
    """
    table = [method.name for method in METHODS if method.family != "labels"]
    for name in methods or ():
        if name not in table and name not in recipe.methods:
            raise LimbeckError(f"unknown method {name!r}{nearest(name, [*table, *recipe.methods])}")
    chosen = [*table, *recipe.methods] if methods is None else methods or recipe.methods or table
    return list(dict.fromkeys([BASELINE, *chosen]))


def fitting(
    session: Session, taught: Taught, recipe: Recipe, names: Iterable[str], *, explicit: bool, note: Say
) -> dict[str, Terms]:
    """The terms of the methods that the task and the recipe's models can have; `note` is told what is left out.

    Raises:
        LimbeckError: where `explicit`, one does not fit.
    """
    table = {method.name: method for method in METHODS}
    epochs = epochs_of(session)
    mentor = rehearse(session, session.recipe, taught.teacher)
    chosen: dict[str, Terms] = {}
    for name in names:
        terms = recipe.methods.get(name) or method_terms(table[name], session.recipe, epochs)
        why = ""
        if name not in recipe.methods and table[name].family == "multi-label":
            why = "it is for data with several labels a sample"
        else:
            try:
                rehearse(session, with_terms(session.recipe, terms, assistants=[]), mentor)
            except LimbeckError as error:
                why = str(error)
        if why and (explicit or name == BASELINE):
            raise LimbeckError(f"method {name}: {why}")
        if why:
            note(f"left out: {name}: {why}")
            continue
        chosen[name] = terms
        if name not in recipe.methods and (shorter := shortened(table[name], epochs)):
            rise = max(shorter.values())
            note(f"{name}: brought in over {rise:.3g} of {epochs:.4g} epochs, a twelfth as 20 are of 240")
    return chosen


def method_terms(method: Method, recipe: Recipe, epochs: float) -> Terms:
    """A method of the table as terms of a recipe, for a training of so many epochs: the recipe's own loss on labels and
    the method's, with the weights of the table."""
    labels = next((term for term in recipe.terms if term["loss"] == "supervised"), {"loss": "supervised"})
    options = {key: value for key, value in labels.items() if key not in WEIGHT_KEYS}
    terms: Terms = [{**options, "weight": method.supervised_weight}] if method.supervised_weight else []
    taught: dict[str, Any] = {"loss": method.name, "weight": method.weight}
    if method.warmup:
        taught["warmup"] = method.warmup
    return [*terms, taught | shortened(method, epochs)]


def shortened(method: Method, epochs: float) -> dict[str, float]:
    """The keys of a method's term that say over how many epochs it is brought in, where that is too long for the
    training: the weight's `warmup`, and a loss's own `epochs`."""
    own = inspect.signature(method.module).parameters.get("epochs")
    given: dict[str, Any] = {"warmup": method.warmup, "epochs": own.default if own is not None else 0.0}
    longest = LONGEST_WARMUP * epochs
    return {key: longest for key, value in given.items() if isinstance(value, int | float) and value > longest}


def epochs_of(session: Session) -> float:
    """How many epochs the recipe's budget is."""
    config, samples = session.recipe.train, len(training_split(session.recipe, session.data, 0))
    if config.steps is None:
        return config.epochs
    return config.steps / max(1, samples // min(config.batch_size, samples))


def method_entries(session: Session, taught: Taught, methods: Mapping[str, Terms]) -> list[Entry]:
    """The trainings of a comparison: assistants, alone, and the methods."""
    *shared, distilled = lineup(session, taught.teacher, session.recipe)
    return [
        *shared,
        *(replace(distilled, name=name, recipe=with_terms(session.recipe, terms)) for name, terms in methods.items()),
    ]


def with_terms(recipe: Recipe, terms: Terms, **changes: Any) -> Recipe:
    """A recipe with other terms."""
    return recipe.model_copy(update={"terms": terms, **changes})


def _kept(folder: Path) -> dict[str, Terms]:
    """The methods that a comparison in the folder has begun with."""
    old = kept_recipe(folder)
    if old is None:
        return {}
    if not old.get("methods"):
        raise LimbeckError(f"{folder} holds a run, not a comparison of methods; choose another folder with --folder")
    return dict(old["methods"])


def _with_kept(recipe: Recipe, folder: Path, kept: dict[str, Terms], chosen: dict[str, Terms]) -> dict[str, Terms]:
    """The methods to show: the chosen, and those of which the folder holds every seed."""
    for name, terms in chosen.items():
        found = difference(dict(enumerate(kept.get(name, terms))), dict(enumerate(terms)), "terms")
        if found:
            raise LimbeckError(f"{folder} holds {name} with other terms ({found}); choose another folder")
    complete = {
        name: terms
        for name, terms in kept.items()
        if all((folder / "models" / f"{name}-{seed}" / RECORD).exists() for seed in range(recipe.seeds))
    }
    return chosen | {name: terms for name, terms in complete.items() if name not in chosen}
