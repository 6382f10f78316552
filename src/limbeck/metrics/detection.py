"""Object detection: COCO's average precision and recall, and what a student misses that its teacher finds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

IOU = 0.5
"""The overlap from which on a box counts as found, where there is one threshold."""
SURE = 0.5
"""The score from which on a model is taken at its word."""
MOST = 100
"""Boxes of a class in a picture that count, the best first."""
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = ("all", "small", "medium", "large")


class Objects(Protocol):
    """What a model found in a picture: `boxes` (found, 4) xyxy, `scores` and `classes` (found,)."""

    @property
    def boxes(self) -> Tensor: ...
    @property
    def scores(self) -> Tensor: ...
    @property
    def classes(self) -> Tensor: ...


class Truth(Protocol):
    """What is in a picture: `boxes` (objects, 4) xyxy, `classes`, `crowds` and `areas` (objects,), as of
    `limbeck.sources.boxes.Regions`."""

    @property
    def boxes(self) -> Tensor: ...
    @property
    def classes(self) -> Tensor: ...
    @property
    def crowds(self) -> Tensor: ...
    @property
    def areas(self) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class CocoScores:
    """Precision (overlaps, recalls, classes, areas) at 101 recalls and recall (overlaps, classes, areas), of at most
    100 boxes a class and picture; -1 where there is no object of a class and size. Overlaps are 0.5, 0.55, … 0.95,
    areas all, small (below 32²), medium and large (from 96²)."""

    precision: Floats
    recall: Floats

    def metrics(self) -> dict[str, float]:
        """`ap50`, `ap`, `ap75`, `ap_small`, `ap_medium`, `ap_large` and `ar`, in 0…1, averaged over the classes that
        there are; what cannot be known is left out."""
        everything = self.precision[..., 0]
        found = {"ap50": everything[0], "ap": everything, "ap75": everything[5]}
        found |= {f"ap_{area}": self.precision[..., at] for at, area in enumerate(AREAS) if at}
        found["ar"] = self.recall[..., 0]
        return {key: float(values[values > -1].mean()) for key, values in found.items() if (values > -1).any()}

    def per_class(self, classes: Sequence[str]) -> dict[str, dict[str, float]]:
        """`ap` and `ap50` of each class that there is."""
        found = {}
        for index, name in enumerate(classes):
            own = self.precision[:, :, index, 0]
            if (own > -1).any():
                found[name] = {"ap": float(own.mean()), "ap50": float(own[0].mean())}
        return found


def coco_scores(found: Sequence[Objects], truths: Sequence[Truth], num_classes: int) -> CocoScores:
    """COCO's evaluation of boxes, by faster-coco-eval: what was `found` in each picture against what is in it.

    A crowd takes in any number of boxes that lie in it, and none of them counts. Lin et al. 2014, arXiv:1405.0312.

    Raises:
        LimbeckError: faster-coco-eval is not installed, there is not as much found as there is truth, or what is found
            is not finite.
    """
    if len(found) != len(truths):
        raise LimbeckError(f"detection: expected as many pictures found as true, got {len(found)} and {len(truths)}")
    try:
        library = importlib.import_module("faster_coco_eval")
    except ImportError:
        raise LimbeckError(
            'average precision needs faster-coco-eval, which is not installed: pip install "limbeck[detection]"'
        ) from None
    annotations: list[dict[str, Any]] = []
    for picture, truth in enumerate(truths):
        corners = _array(truth.boxes)
        sides = corners[:, 2:] - corners[:, :2]
        rows = zip(
            np.concatenate([corners[:, :2], sides], 1).tolist(), truth.classes.tolist(), truth.crowds.tolist(),
            truth.areas.double().tolist(), strict=True,
        )  # fmt: skip
        for box, kind, crowd, area in rows:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": picture, "category_id": kind, "bbox": box, "area": area,
                 "iscrowd": int(crowd)}
            )  # fmt: skip
    results = _results(found)
    overlaps = 10
    if not annotations or not len(results):
        # Nothing to find, or nothing found, which the library takes for a mistake.
        return _of_nothing(annotations, num_classes, overlaps)
    images = [{"id": picture} for picture in range(len(truths))]
    kinds = [{"id": index, "name": str(index)} for index in range(num_classes)]
    known: Any = library.COCO({"images": images, "annotations": annotations, "categories": kinds})
    evaluation: Any = library.COCOeval_faster(known, known.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    shape = (overlaps, len(RECALLS), num_classes, len(AREAS), -1)
    return CocoScores(
        np.asarray(precision, np.float64).reshape(shape)[..., -1],
        np.asarray(recall, np.float64).reshape(overlaps, num_classes, len(AREAS), -1)[..., -1],
    )


def _results(found: Sequence[Objects]) -> Floats:
    """A row for each box: picture, left, top, width, height, score, class."""
    rows = []
    for picture, each in enumerate(found):
        boxes = _array(each.boxes)
        columns = (
            boxes[:, :2],
            boxes[:, 2:] - boxes[:, :2],
            _array(each.scores)[:, None],
            _array(each.classes)[:, None],
        )
        if not all(np.isfinite(column).all() for column in columns):
            raise LimbeckError(
                f"detection: what the model finds in picture {picture} is not finite (NaN or infinity); its training "
                "went astray: take a lower learning rate, or full precision"
            )
        rows.append(np.concatenate([np.full((len(boxes), 1), float(picture)), *columns], 1))
    return np.concatenate(rows) if rows else np.zeros((0, 7))


def _of_nothing(annotations: Sequence[Mapping[str, Any]], num_classes: int, overlaps: int) -> CocoScores:
    """The scores where there is nothing to find, or nothing was found: 0 where there is an object, else -1."""
    precision = np.full((overlaps, len(RECALLS), num_classes, len(AREAS)), -1.0)
    recall = np.full((overlaps, num_classes, len(AREAS)), -1.0)
    limits = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
    for each in annotations:
        for at, (low, high) in enumerate(limits):
            if not each["iscrowd"] and low <= each["area"] <= high:
                precision[:, :, each["category_id"], at] = recall[:, each["category_id"], at] = 0.0
    return CocoScores(precision, recall)


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Whose the boxes are that were found in a picture: `order` (kept,) the boxes that count, the best first, `truth`
    (kept,) the object that each is (-1: none), `ignored` (kept,) whether it lies in a crowd and counts for nothing."""

    order: NDArray[np.int64]
    truth: NDArray[np.int64]
    ignored: Mask


def matches(found: Objects, truth: Truth, iou: float = IOU) -> Matches:
    """Each box, the best first, takes the object of its class that it overlaps most, if nobody had it, as in COCO's
    evaluation."""
    scores, kinds = _array(found.scores), found.classes.numpy()
    ranked = np.argsort(-scores, kind="stable")
    ranked = np.concatenate([ranked[kinds[ranked] == kind][:MOST] for kind in np.unique(kinds)] or [ranked])
    ranked = ranked[np.argsort(-scores[ranked], kind="stable")]
    crowds, known = truth.crowds.numpy(), truth.classes.numpy()
    overlaps = _overlaps(_array(found.boxes)[ranked], _array(truth.boxes), crowds)
    same = kinds[ranked][:, None] == known[None, :]
    free = ~crowds
    whose = np.full(len(ranked), -1, np.int64)
    ignored = np.zeros(len(ranked), np.bool_)
    for place in range(len(ranked)):
        candidates = np.flatnonzero(same[place] & free & (overlaps[place] >= iou))
        if len(candidates):
            # Of equal overlaps the last, as in COCO's loop.
            best = candidates[::-1][np.argmax(overlaps[place][candidates][::-1])]
            whose[place], free[best] = best, False
        else:
            ignored[place] = bool((same[place] & crowds & (overlaps[place] >= iou)).any())
    return Matches(ranked, whose, ignored)


def _overlaps(found: Floats, true: Floats, crowds: Mask) -> Floats:
    """Intersection over union (found, objects); with a crowd it is over the box that was found."""
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    mine, theirs = ((each[:, 2:] - each[:, :2]).prod(-1) for each in (found, true))
    union = np.where(crowds[None, :], mine[:, None], mine[:, None] + theirs[None, :] - both)
    overlaps: Floats = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return overlaps


def recall_curves(
    found: Sequence[Objects], truths: Sequence[Truth], classes: Sequence[str], iou: float = IOU
) -> dict[str, Any]:
    """Precision against recall at one overlap: `micro`, all classes in one ranking, and `per_class`, each as lists
    `recall` and `precision` at 101 recalls; and of each class the best `f1` on its curve and its `support`, lists in
    the order of `classes`."""
    scores, kinds, hits = [], [], []
    for each, truth in zip(found, truths, strict=True):
        own = matches(each, truth, iou)
        kept = ~own.ignored
        scores.append(_array(each.scores)[own.order][kept])
        kinds.append(each.classes.numpy()[own.order][kept])
        hits.append((own.truth >= 0)[kept])
    score, kind, hit = (np.concatenate(parts) if parts else np.zeros(0) for parts in (scores, kinds, hits))
    real = [truth.classes.numpy()[~truth.crowds.numpy()] for truth in truths]
    support = np.bincount(np.concatenate(real) if real else np.zeros(0, np.int64), minlength=len(classes))
    order = np.argsort(-score, kind="stable")
    kind, right = kind[order], hit[order].astype(np.bool_)
    curves, best = {}, []
    for index, name in enumerate(classes):
        curve, f1 = _curve(right[kind == index], int(support[index]))
        best.append(f1)
        if support[index]:
            curves[name] = curve
    micro = _curve(right, int(support.sum()))[0]
    return {"micro": micro, "per_class": curves, "f1": best, "support": support.tolist()}


def _curve(hit: Mask, count: int) -> tuple[dict[str, list[float]], float]:
    """Precision at RECALLS, interpolated as COCO does it, and the best F1 on the way; `hit` (boxes,), best first."""
    right = hit.cumsum()
    recall, precision = right / max(count, 1), right / np.arange(1, len(hit) + 1)
    sums = recall + precision
    f1 = float(np.max(2 * recall * precision / np.where(sums > 0, sums, 1.0), initial=0.0))
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    values = np.append(highest, 0.0)[np.minimum(at, len(highest))]
    return {"recall": RECALLS.tolist(), "precision": values.tolist()}, f1


@dataclass(frozen=True, slots=True)
class Missed:
    """Of the objects that a teacher finds, how many there are (`found`) and how many its student does not find
    (`missed`), also by class index."""

    found: int
    missed: int
    by_class: dict[int, tuple[int, int]]

    @property
    def share(self) -> float:
        """The part that is missed, 0 to 1; 0 where the teacher finds nothing."""
        return self.missed / self.found if self.found else 0.0


def missed(
    student: Sequence[Objects],
    teacher: Sequence[Objects],
    truths: Sequence[Truth],
    *,
    iou: float = IOU,
    score: float = SURE,
) -> Missed:
    """What the student misses that the teacher finds: true objects that a box of the teacher of at least `score` takes,
    and none of the student's."""
    by_class: dict[int, tuple[int, int]] = {}
    for mine, theirs, truth in zip(student, teacher, truths, strict=True):
        own, known = (set(_taken(each, truth, iou, score)) for each in (mine, theirs))
        for index in known:
            kind = int(truth.classes[index])
            before = by_class.get(kind, (0, 0))
            by_class[kind] = (before[0] + 1, before[1] + (index not in own))
    totals = [sum(counts[at] for counts in by_class.values()) for at in (0, 1)]
    return Missed(totals[0], totals[1], dict(sorted(by_class.items())))


def _taken(found: Objects, truth: Truth, iou: float, score: float) -> list[int]:
    own = matches(found, truth, iou)
    sure = _array(found.scores)[own.order] >= score
    return [int(each) for each in own.truth[sure] if each >= 0]


@dataclass(frozen=True, slots=True, eq=False)
class _Taught:
    """A teacher's boxes as truth."""

    boxes: Tensor
    classes: Tensor
    crowds: Tensor
    areas: Tensor


def teacher_ap50(
    student: Sequence[Objects], teacher: Sequence[Objects], num_classes: int, score: float = SURE
) -> float | None:
    """AP50 with the teacher's boxes of at least `score` as the truth; None where there is none."""
    truths = []
    for each in teacher:
        kept = each.scores >= score
        boxes, kinds = each.boxes[kept], each.classes[kept]
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        truths.append(_Taught(boxes, kinds, kinds < 0, areas))
    return coco_scores(student, truths, num_classes).metrics().get("ap50")


def _array(values: Tensor) -> Floats:
    array: Floats = values.detach().cpu().double().numpy()
    return array
