"""Labels of texts: what tables call them, as class numbers, as a yes or no a class, or as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.parts import check_classes, number_classes
from limbeck.types import UNLABELLED

Problem = Literal["single-label", "multi-label", "regression"]
PROBLEMS: tuple[Problem, ...] = ("single-label", "multi-label", "regression")
SEPARATOR = "|"
"""What stands between the names of several classes in a table."""

Labels = NDArray[Any]
"""(n,) int64, (n, classes) float32 or (n,) float32."""
Place = Callable[[str, int], str]


@dataclass(frozen=True, slots=True)
class Labelled:
    """The labels of each part, (n,) int64, (n, classes) float32 or (n,) float32 by the problem; -1 where unlabelled,
    NaN in a regression. `why` says how the problem was guessed, if it was."""

    labels: dict[str, Labels]
    classes: tuple[str, ...]
    problem: Problem
    why: str


def read_labels(
    values: Mapping[str, Sequence[Any]],
    place: Place,
    *,
    what: str,
    target: str,
    problem: Problem | None = None,
    classes: Sequence[str] | None = None,
) -> Labelled:
    """Labels from what each part of a data set has in its column of labels.

    Args:
        values: (n,) a part: names or whole numbers from 0; of several labels a list or names with `|` between, `|`
            alone where no class applies; for a regression, numbers. None, an empty value and NaN are unlabelled, and so
            is -1 of a class.
        place: the place of a part's row, for errors.
        what: the column, for errors.
        target: the name of what a regression predicts.
        problem: guessed if not given.
        classes: the names of the classes in order, where not every one occurs, or numbers are names.

    Raises:
        LimbeckError: a value is none of these, a class is unknown or not in train, or a held-out text is unlabelled.
    """
    if problem is not None and problem not in PROBLEMS:
        raise LimbeckError(f"{what}: unknown problem {problem!r}{nearest(str(problem), PROBLEMS)}")
    rows = [(part, row) for part, column in values.items() for row in range(len(column))]
    flat = [value for column in values.values() for value in column]
    guessed, why = _guess(flat, what)
    problem, why = (guessed, why) if problem is None else (problem, "")

    def at(index: int) -> str:
        return place(*rows[index])

    names: tuple[str, ...] = (target,)
    every: Labels
    if problem == "regression":
        every = np.array([_value(value, at, index) for index, value in enumerate(flat)], np.float32)
    elif problem == "multi-label":
        sets = [_several(value, at, index) for index, value in enumerate(flat)]
        names, numbers = _classes((name for row in sets for name in row or ()), classes, what)
        every = np.zeros((len(sets), len(names)), np.float32)
        for index, row in enumerate(sets):
            every[index, [_number(name, numbers, at, index) for name in row or ()]] = 1
            if row is None:
                every[index] = UNLABELLED
    else:
        singles = [_name(value, at, index) for index, value in enumerate(flat)]
        names, numbers = _classes((name for name in singles if name is not None), classes, what)
        every = np.array([UNLABELLED if name is None else _number(name, numbers, at, index)
                          for index, name in enumerate(singles)], np.int64)  # fmt: skip
    ends = np.cumsum([len(column) for column in values.values()])
    labels = dict(zip(values, np.split(every, ends[:-1]), strict=True))
    _check(labels, names, what, place)
    return Labelled(labels, names, problem, why)


def unlabelled(labels: Labels) -> NDArray[np.bool_]:
    """Which of (n,) or (n, classes) labels are none, (n,) bool."""
    known = labels >= 0 if labels.dtype == np.int64 or labels.ndim == 2 else ~np.isnan(labels)
    return np.asarray(~(known.any(1) if labels.ndim == 2 else known), np.bool_)


def _missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _guess(values: Sequence[Any], what: str) -> tuple[Problem, str]:
    known = [value for value in values if not _missing(value)]
    if any(isinstance(value, list | tuple) for value in known):
        return "multi-label", f"{what}: labels are lists, so the problem is multi-label"
    mixed = next((value for value in known if isinstance(value, str) and SEPARATOR in value), None)
    if mixed is not None:
        return "multi-label", f"{what}: {mixed!r} has a {SEPARATOR!r}, so the problem is multi-label"
    numbers = [_float(value) for value in known if str(value).strip().lower() != "nan"]
    broken = next((value for value in numbers if value is not None and value != int(value)), None)
    if broken is not None and None not in numbers:
        return "regression", f"{what}: {broken:g} is no whole number, so the problem is regression"
    return "single-label", f"{what}: one label a text, so the problem is single-label"


def _float(value: Any) -> float | None:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


At = Callable[[int], str]


def _value(value: Any, at: At, index: int) -> float:
    if _missing(value) or (isinstance(value, str) and value.strip().lower() == "nan"):
        return math.nan
    number = _float(value)
    if number is None:
        raise LimbeckError(f"{at(index)}: expected a number, got {value!r}; correct it, or give another problem")
    return number


def _name(value: Any, at: At, index: int) -> str | None:
    if _missing(value):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise LimbeckError(f"{at(index)}: expected a name or a whole number, got {value!r}; correct it")
    text = str(value).strip()
    return None if text == str(UNLABELLED) else text


def _several(value: Any, at: At, index: int) -> list[str] | None:
    if _missing(value):
        return None
    parts = value.split(SEPARATOR) if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    names = [name for part in parts if (name := _name(part, at, index)) is not None]
    if len(set(names)) < len(names):
        raise LimbeckError(f"{at(index)}: expected each class that applies once, got {value!r}; not a 0 or 1 a class")
    return names


def _classes(found: Iterable[str], given: Sequence[str] | None, what: str) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes, and the number of each label."""
    known = sorted(set(found))
    numbers = bool(known) and all(label.removeprefix("-").isdecimal() and label.isascii() for label in known)
    if given is not None:
        names = tuple(map(str, given))
        by_number = numbers and not set(known) <= set(names)
    elif not known:
        raise LimbeckError(f"{what}: no text has a label; give some texts a label, or name the classes")
    else:
        by_number = numbers
        names = _numbered(known, what) if numbers else tuple(known)
    return names, {str(number) if by_number else name: number for number, name in enumerate(names)}


def _numbered(known: Sequence[str], what: str) -> tuple[str, ...]:
    try:
        return number_classes(map(int, known), what)
    except LimbeckError as error:
        raise LimbeckError(f"{error}, or name the classes, or give the problem as regression") from None


def _number(name: str, numbers: Mapping[str, int], at: At, index: int) -> int:
    if name not in numbers:
        raise LimbeckError(f"{at(index)}: label {name!r} is not known{nearest(name, numbers)}")
    return numbers[name]


def _check(labels: Mapping[str, Labels], names: tuple[str, ...], what: str, place: Place) -> None:
    for part, values in labels.items():
        missing = np.flatnonzero(unlabelled(values))
        if part != "train" and len(missing):
            raise LimbeckError(f"{place(part, int(missing[0]))}: no label; only training texts may have none")
    whole = {part: values for part, values in labels.items() if values.dtype == np.int64}
    if whole:
        check_classes(whole, names, what)
