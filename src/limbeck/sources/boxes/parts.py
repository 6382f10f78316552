"""What a reader of boxes gives: the parts of a data set as its author cut it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.errors import LimbeckError
from limbeck.sources.boxes.regions import Annotation, annotation
from limbeck.sources.decode import Encoded
from limbeck.sources.parts import SPLIT_NAMES

UNLABELLED_PART = "unlabelled"
"""Pictures to learn from of which nobody said what is in them."""

PART_NAMES = {**SPLIT_NAMES, "unlabelled": UNLABELLED_PART, "unlabeled": UNLABELLED_PART}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class BoxPart:
    """Pictures and what was written about each.

    `names` are lasting, and different over all parts. `stated` are heights and widths where a file tells them. An
    annotation is None where nobody said what is in a picture.
    """

    encoded: Encoded
    names: Sequence[str]
    stated: list[tuple[int, int] | None]
    annotations: list[Annotation | None]


@dataclass(frozen=True, slots=True, eq=False)
class BoxSource:
    """The parts of a data set by name: `train`, and `validation`, `test` and `unlabelled` where the author cut them."""

    parts: Mapping[str, BoxPart]
    classes: tuple[str, ...]


def part_of(name: str) -> str | None:
    """The part that the name of a file or folder tells, as `train` of `instances_train2017`; None where it tells
    none."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((PART_NAMES[word] for word in reversed(words) if word in PART_NAMES), None)


def without_objects(paths: Sequence[str], name: str) -> list[Annotation]:
    """Annotations of pictures that have no file of their own: there is nothing in them. That is said in a note."""
    if paths:
        log.warning(
            "%s: %s pictures have no annotation; they count as pictures with nothing in them (first: %s)",
            name, f"{len(paths):,}", paths[0],
        )  # fmt: skip
    return [annotation(path, [], []) for path in paths]


def same_names(named: Mapping[str, Sequence[str]], where: str) -> tuple[str, ...]:
    """The classes of all parts. Raises LimbeckError where one part has a class that train has not."""
    classes = tuple(named["train"])
    for part, names in named.items():
        unknown = [name for name in names if name not in classes]
        if unknown:
            raise LimbeckError(
                f"{where}: class {unknown[0]!r} is in {part} but not in train ({', '.join(classes) or 'none'}); add it "
                "there, or take its boxes out"
            )
    return classes
