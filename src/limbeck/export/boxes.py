"""Plans of detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from limbeck.artifact.boxes import Objects, chosen
from limbeck.errors import LimbeckError
from limbeck.export.pictures import BATCH_ONLY, picture_card, taking
from limbeck.export.plans import Arrays, Plan, of_signals
from limbeck.models.detection.dense import DenseDetector
from limbeck.models.detection.sets import MOST, SetDetector
from limbeck.sources.boxes import DetectionSet
from limbeck.types import Preprocessing

SCORE, NEAR = 1e-3, 0.5
"""Within which two detections of a class have the same score and, in pixels of the input, the same box."""
SHOWN = 0.05
"""The score above which what a detector finds is a prediction to be compared."""


def detected(model: nn.Module, split: DetectionSet, classes: tuple[str, ...], pixels: Preprocessing) -> Plan:
    """Object detection, by limbeck's detectors.

    Raises:
        LimbeckError: the model chooses its detections in a way of its own.
    """
    reading = reading_of(model, len(classes))

    def judge(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        pairs = zip(chosen(expected, reading, pixels.size), chosen(found, reading, pixels.size), strict=True)
        counts = [_alike(*each) for each in pairs]
        return sum(each[0] for each in counts), sum(each[1] for each in counts)

    quality = ["quality"] if "quality" in getattr(model, "signals", ()) else []
    return Plan(
        parts=(of_signals(model, BATCH_ONLY, ["logits", "boxes", *quality]),),
        take=taking(split),
        count=len(split),
        data=split.name,
        judge=judge,
        predictions=f"objects with a score above {SHOWN:g}, the same within {NEAR:g} pixels",
        classes=classes,
        pixels=picture_card(pixels, split.fit),
        reading=reading,
        compared=_in_one_order if isinstance(model, SetDetector) else lambda expected, found, _feeds: (expected, found),
    )


def reading_of(model: nn.Module, classes: int) -> dict[str, Any]:
    """How a detector's answers are chosen, as `limbeck.artifact.boxes.chosen` does it. Raises LimbeckError where
    nobody knows."""
    if isinstance(model, DenseDetector):
        by_level = hasattr(model, "crossed")
        own = model.selection
        return {
            "chosen": "level" if by_level else "class", "levels": list(model.levels), "score": own.score,
            "overlap": own.overlap, "detections": own.detections, "candidates": own.candidates,
        }  # fmt: skip
    if isinstance(model, SetDetector):
        return {"chosen": "queries" if model.knows_softmax(classes) else "pairs", "detections": MOST}
    raise LimbeckError(
        f"{type(model).__name__} chooses what it finds in a way of its own; export takes fcos:, retinanet:, ssdlite: "
        "and hf: detectors"
    )


def _alike(expected: Objects, found: Objects) -> tuple[int, int]:
    """Of two pictures' objects how many have a like in the other, and how many there are in both."""
    one, other = (_shown(each) for each in (expected, found))
    same = (
        (one.classes[:, None] == other.classes)
        & (np.abs(one.scores[:, None] - other.scores) < SCORE)
        & (np.abs(one.boxes[:, None] - other.boxes).max(-1, initial=0) < NEAR)
    )
    return int(same.any(1).sum() + same.any(0).sum()), len(one.scores) + len(other.scores)


def _shown(objects: Objects) -> Objects:
    above = objects.scores > SHOWN
    return Objects(objects.boxes[above], objects.scores[above], objects.classes[above])


def _in_one_order(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[Arrays, Arrays]:
    """What was found in the order of what was expected, each query being the nearest one: a detector of a set may give
    the queries that it chooses first in another order, where their scores are as good as equal."""
    span = np.array(feeds["inputs"].shape[:1:-1] * 2)
    ordered: dict[str, NDArray[Any]] = {name: np.empty_like(each) for name, each in found.items()}
    for at in range(len(expected["boxes"])):
        one, other = (
            np.concatenate([each["boxes"][at] / span, 1 / (1 + np.exp(-each["logits"][at]))], 1)
            for each in (expected, found)
        )
        nearest = np.abs(one[:, None] - other).max(-1).argmin(1)
        for name, each in found.items():
            ordered[name][at] = each[at][nearest]
    return expected, ordered
