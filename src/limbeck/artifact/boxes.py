"""Objects in pictures: which of a detector's answers are detections, and where they are in the picture on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.artifact.given import picture_of
from limbeck.artifact.opened import Opened
from limbeck.artifact.running import best_first, sigmoid
from limbeck.pictures import Fit, fitted, normalised, on_canvas, opened_picture, seen_size

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects of one picture, best first: `boxes` (n, 4) left, top, right and bottom edge, `scores` and `classes`
    (n,)."""

    boxes: Array
    scores: Array
    classes: Array


def predict(artifact: Opened, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """The objects of each picture, in pixels of the picture as its file has it, turned as its EXIF tag says."""
    card, names = artifact.pixels, artifact.card.classes
    red, green, blue = (round(255 * each) for each in card.mean)
    fit: Fit = "stretch" if card.resized == "stretch" else "letterbox"
    seen, sizes = [], []
    for number, given in enumerate(inputs):
        source, name = picture_of(given, number)
        with opened_picture(source, name) as image:
            sizes.append(seen_size(image, None, name)[0])
            seen.append(on_canvas(image, None, card.size, fit, (red, green, blue), name))
    outputs = artifact.model({"inputs": normalised(np.stack(seen), card.mean, card.std)})
    answers = []
    for (height, width), found in zip(sizes, chosen(outputs, artifact.card.reading, card.size), strict=True):
        new_height, new_width = fitted((height, width), card.size, fit)
        scale = np.array([new_width / width, new_height / height] * 2)
        boxes = np.clip(found.boxes / scale, 0, np.array([width, height, width, height]))
        answers.append(
            {
                "objects": [
                    {"class": names[kind], "score": score, "box": box}
                    for kind, score, box in zip(
                        found.classes.tolist(), found.scores.tolist(), boxes.tolist(), strict=True
                    )
                ]
            }
        )
    return answers


def chosen(outputs: Mapping[str, Array], reading: Mapping[str, Any], size: tuple[int, int]) -> list[Objects]:
    """What is found in each picture, in pixels of the input of that `size` (height, width).

    `reading["chosen"]` says how: `level` or `class`, the best of each level of a pyramid or of each class without those
    that overlap a better one, as torchvision chooses them; `queries`, each query with its best class; or `pairs`, the
    best pairs of query and class, as transformers does.
    """
    scores = sigmoid(outputs["logits"])
    if "quality" in outputs:
        scores = np.sqrt(scores * sigmoid(outputs["quality"])[..., None])
    boxes = outputs["boxes"].astype(np.float64)
    if reading["chosen"] in ("queries", "pairs"):
        return [_of_queries(*each, reading) for each in zip(scores, boxes, strict=True)]
    found = []
    for own, places in zip(scores, boxes, strict=True):
        if reading["chosen"] == "class":
            groups = [(own[:, [kind]], places, kind) for kind in range(own.shape[1])]
        else:
            edges = np.cumsum(reading["levels"])[:-1]
            parts = zip(np.split(own, edges), np.split(places, edges), strict=True)
            groups = [(part, corner, 0) for part, corner in parts]
        found.append(_without_overlaps(groups, reading, size))
    return found


def _of_queries(scores: Array, boxes: Array, reading: Mapping[str, Any]) -> Objects:
    most = min(int(reading["detections"]), len(scores))
    if reading["chosen"] == "queries":
        places = best_first(scores.max(1), most)
        return Objects(boxes[places], scores.max(1)[places], scores.argmax(1)[places])
    flat = best_first(scores.ravel(), most)
    places, kinds = flat // scores.shape[1], flat % scores.shape[1]
    return Objects(boxes[places], scores[places, kinds], kinds)


def _without_overlaps(
    groups: Iterable[tuple[Array, Array, int]], reading: Mapping[str, Any], size: tuple[int, int]
) -> Objects:
    found = [_best(*group, reading) for group in groups]
    boxes, scores, classes = (np.concatenate(each) for each in zip(*found, strict=True))
    boxes = np.clip(boxes, 0, np.array([size[1], size[0]] * 2))
    kept = best_of_overlapping(boxes, scores, classes, reading["overlap"], int(reading["detections"]))
    return Objects(boxes[kept], scores[kept], classes[kept])


def _best(scores: Array, boxes: Array, first: int, reading: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    flat = scores.ravel()
    above = np.flatnonzero(flat > reading["score"])
    places = above[best_first(flat[above], int(reading["candidates"]))]
    return boxes[places // scores.shape[1]], flat[places], places % scores.shape[1] + first


def best_of_overlapping(boxes: Array, scores: Array, classes: Array, overlap: float, most: int) -> NDArray[np.int64]:
    """The places of at most so many boxes, best first, none of which overlaps a better one of its class by more than
    `overlap` (intersection over union)."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = best_first(scores, len(scores))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        first, left = left[0], left[1:]
        kept.append(int(first))
        corner = np.maximum(boxes[first, :2], boxes[left, :2])
        other = np.minimum(boxes[first, 2:], boxes[left, 2:])
        shared = np.clip(other - corner, 0, None).prod(1)
        with np.errstate(invalid="ignore", divide="ignore"):  # two boxes without an area do not overlap
            ratio = shared / (areas[first] + areas[left] - shared)
        left = left[~((ratio > overlap) & (classes[left] == classes[first]))]
    return np.array(kept, np.int64)
