"""Where the names in a recipe become objects: losses and codecs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.errors import LimbeckError, nearest
from limbeck.losses import METHODS, Loss
from limbeck.store import Codec, codec_of
from limbeck.terms import Schedule, Term

WEIGHT_KEYS = ("weight", "warmup", "until", "final")
"""A term's weight and its schedule."""

TERM_KEYS = (*WEIGHT_KEYS, "student", "teacher", "name", "own", "labels")
"""What a term may say beside its loss's options."""


def build_terms(terms: Sequence[Mapping[str, Any]]) -> list[Term]:
    """Terms from their mappings: `loss`, what TERM_KEYS names, and the loss's own options."""
    built = []
    for index, entry in enumerate(terms):
        where = f"terms.{index}"
        given = {key: value for key, value in entry.items() if key in TERM_KEYS}
        loss = build_loss({key: value for key, value in entry.items() if key not in TERM_KEYS}, where)
        numbers = {}
        for key in WEIGHT_KEYS:
            if key in given:
                try:
                    numbers[key] = float(given.pop(key))
                except (TypeError, ValueError):
                    raise LimbeckError(f"{where}.{key}: expected a number, got {entry[key]!r}") from None
        for key in ("student", "teacher"):
            if isinstance(given.get(key), list):
                given[key] = tuple(map(str, given[key]))
        try:
            weight = Schedule(**numbers) if numbers.keys() - {"weight"} else numbers.get("weight", 1.0)
        except LimbeckError as error:
            raise LimbeckError(f"{where}.{error}") from None
        built.append(Term(loss, weight, **given))
    return built


def build_loss(entry: Mapping[str, Any], where: str) -> Loss:
    """A loss from `loss: NAME` and its options; an option that is itself such a mapping is built first. What a loss
    wraps, its parameter `loss`, is called `of`, as that key names the loss itself."""
    losses = {method.name: method.module for method in METHODS}
    name = entry.get("loss")
    if not isinstance(name, str):
        raise LimbeckError(f"{where}: needs `loss: NAME`; known: {', '.join(sorted(losses))}")
    if name not in losses:
        raise LimbeckError(f"{where}.loss: unknown loss {name!r}{nearest(name, losses)}")
    known = ["of" if each == "loss" else each for each in inspect.signature(losses[name]).parameters]
    options: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "loss":
            continue
        if key not in known:
            raise LimbeckError(f"{where}.{key}: unknown key for loss {name!r}{nearest(key, [*known, *TERM_KEYS])}")
        nested = isinstance(value, Mapping) and "loss" in value
        options["loss" if key == "of" else key] = build_loss(value, f"{where}.{key}") if nested else _number(value)
    try:
        return losses[name](**options)
    except (TypeError, ValueError) as error:
        raise LimbeckError(f"{where}: loss {name!r}: {error}") from None


def build_codecs(signals: Mapping[str, Mapping[str, Any]]) -> dict[str, Codec]:
    """The codec of each signal of a label store, from `codec: NAME` and its options."""
    codecs = {}
    for name, entry in signals.items():
        try:
            codecs[name] = codec_of(entry)
        except LimbeckError as error:
            raise LimbeckError(f"label.signals.{name}: {error}") from None
    return codecs


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; a loss's option that looks like a number is one."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
