"""Splits of texts that their author did not cut, always the same, with no text in two of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.sources.parts import check_classes
from limbeck.sources.splits import TEST, VALIDATION, held_out
from limbeck.sources.texts.labels import unlabelled
from limbeck.sources.texts.reading import TextPart, TextSource, without_leaks
from limbeck.types import UNLABELLED

TEST_SHARE = 0.2
"""What is held out for the test where the author cut none."""


def cut(found: TextSource, validation: float) -> tuple[dict[str, TextPart], tuple[str, ...]]:
    """Train, validation and test, and notes of what was left out, which is logged as a warning.

    The author's test stays whole. Without one the author's validation split is the test; without either, a fifth of
    train is. `validation` is the share of train to hold out, where the author cut no validation split.

    Raises:
        LimbeckError: the share is not between 0 and 1, or there are too few texts to hold some out.
    """
    train, val, test = found.train, found.validation, found.test
    if test is None:
        test, val = val, None
    cut = test is None or val is None
    if test is None:
        train, test = _split(train, found, TEST_SHARE, TEST)
    if val is None:
        train, val = _split(train, found, validation, VALIDATION)
    parts = {"train": train, "validation": val, "test": test}
    if not cut:
        return parts, ()
    parts, left_out = without_leaks(parts, found.name)
    if found.problem == "single-label":
        check_classes({name: part.labels for name, part in parts.items()}, found.classes, found.name)
    return parts, (left_out,) if left_out else ()


def _split(part: TextPart, found: TextSource, share: float, purpose: int) -> tuple[TextPart, TextPart]:
    """What stays, and the share that is held out."""
    out = held_out(*strata(part, found), share, purpose)
    return part.take(~out), part.take(out)


def strata(part: TextPart, found: TextSource) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """What splits are even in, (n,) each: the classes, or where a text has no single class that there is a label; the
    ids; and how many classes these are."""
    if found.problem == "single-label":
        return part.labels, part.ids, len(found.classes)
    return np.where(unlabelled(part.labels), UNLABELLED, 0).astype(np.int64), part.ids, 1
