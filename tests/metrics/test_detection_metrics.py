"""limbeck.metrics.detection: COCO's average precision against pycocotools, and by hand."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.metrics.detection import coco_scores, matches, missed, recall_curves, teacher_ap50

CLASSES = ("a", "b", "c")


@dataclass
class Seen:
    """What was found, or what is true, in a picture."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    crowds: Tensor
    areas: Tensor


def seen(*rows: tuple[Any, ...]) -> Seen:
    """From corners, a class and a score (of what is true whether it is a crowd) in each row."""
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).reshape(-1, 4)
    last = torch.tensor([float(row[5]) if len(row) > 5 else 0.0 for row in rows])
    classes = torch.tensor([row[4] for row in rows], dtype=torch.int64)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Seen(boxes, classes, last, last.bool(), areas)


def random_case(seed: int, pictures: int, objects: int, found: int, size: int = 200) -> tuple[list[Seen], list[Seen]]:
    """What was found and what is true: empty pictures, tiny and large objects, crowds, equal scores, over a hundred
    boxes."""
    draw = np.random.default_rng(seed)
    truths, guesses = [], []
    for _ in range(pictures):
        count = int(draw.integers(0, objects + 1))
        sides = draw.uniform(1, 120, (count, 2))
        corners = draw.uniform(0, size, (count, 2))
        boxes = np.concatenate([corners, corners + sides], 1)
        kinds = draw.integers(0, 3, count)
        crowds = torch.tensor(draw.random(count) < 0.15)
        areas = torch.tensor(sides.prod(1) * draw.uniform(0.6, 1, count)).float()
        truths.append(Seen(torch.tensor(boxes).float(), torch.tensor(kinds), torch.ones(count), crowds, areas))
        many = int(draw.integers(0, found + 1))
        at = draw.integers(0, count, many) if count else np.zeros(many, np.int64)
        near = boxes[at] + draw.normal(0, 4, (many, 4)) if count else draw.uniform(0, size, (many, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.5)
        said = np.where(draw.random(many) < 0.7, kinds[at] if count else 0, draw.integers(0, 3, many))
        scores = torch.tensor(draw.random(many).round(2)).float()
        empty = torch.zeros(many)
        guesses.append(Seen(torch.tensor(near).float(), torch.tensor(said).long(), scores, empty.bool(), empty))
    return guesses, truths


def by_pycocotools(found: list[Seen], truths: list[Seen]) -> COCOeval:
    annotations = []
    for picture, truth in enumerate(truths):
        for box, kind, crowd, area in zip(
            truth.boxes.double().tolist(), truth.classes.tolist(), truth.crowds.tolist(), truth.areas.tolist(),
            strict=True,
        ):  # fmt: skip
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            annotations.append({"id": len(annotations) + 1, "image_id": picture, "category_id": kind, "bbox": sides,
                                "area": area, "iscrowd": int(crowd)})  # fmt: skip
    rows = [
        [picture, box[0], box[1], box[2] - box[0], box[3] - box[1], score, kind]
        for picture, each in enumerate(found)
        for box, score, kind in zip(
            each.boxes.double().tolist(), each.scores.double().tolist(), each.classes.tolist(), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {"images": [{"id": each} for each in range(len(truths))], "annotations": annotations,
                         "categories": [{"id": each, "name": str(each)} for each in range(3)]}  # fmt: skip
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(np.array(rows)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize(
    ("seed", "pictures", "objects", "found"),
    [(0, 12, 4, 4), (1, 12, 10, 30), (2, 6, 40, 60), (3, 3, 60, 400), (4, 12, 1, 3)],
)
def test_equal_to_pycocotools(seed: int, pictures: int, objects: int, found: int) -> None:
    """An AP that compares with nobody's: other recalls, other areas, boxes beyond the hundredth, crowds that count."""
    guesses, truths = random_case(seed, pictures, objects, found)
    mine, theirs = coco_scores(guesses, truths, 3), by_pycocotools(guesses, truths)
    assert np.allclose(mine.precision, theirs.eval["precision"][..., -1], atol=1e-12)
    assert np.allclose(mine.recall, theirs.eval["recall"][..., -1], atol=1e-12)
    metrics = mine.metrics()
    for key, at in (("ap", 0), ("ap50", 1), ("ap75", 2), ("ap_small", 3), ("ap_medium", 4), ("ap_large", 5), ("ar", 8)):
        if theirs.stats[at] < 0:
            assert key not in metrics
        else:
            assert metrics[key] == pytest.approx(theirs.stats[at], abs=1e-12)
    curves = recall_curves(guesses, truths, CLASSES)["per_class"]
    for index, name in enumerate(CLASSES):
        if name in curves:
            reference = theirs.eval["precision"][0, :, index, 0, -1]
            assert np.allclose(curves[name]["precision"], reference, atol=1e-12)


def test_by_hand() -> None:
    """AP against numbers that were worked out on paper."""
    truth = [seen((0, 0, 10, 10, 0), (20, 0, 30, 10, 0))]
    # Right, wrong, right: precision 1 up to recall 1/2, then 2/3 up to 1; 51 of the 101 recalls are in the first half.
    found = [seen((0, 0, 10, 10, 0, 0.9), (50, 50, 60, 60, 0, 0.8), (20, 0, 30, 10, 0, 0.7))]
    metrics = coco_scores(found, truth, 1).metrics()
    assert metrics["ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert metrics["ap_small"] == metrics["ap"]
    assert "ap_large" not in metrics
    assert metrics["ar"] == 1.0
    # 8 of 10 pixels in width: an IoU of 0.8, so found at 7 of the 10 overlaps.
    near = [seen((0, 0, 8, 10, 0, 0.9), (20, 0, 28, 10, 0, 0.8))]
    assert coco_scores(near, truth, 1).metrics() == pytest.approx(
        {"ap": 0.7, "ap50": 1.0, "ap75": 1.0, "ap_small": 0.7, "ar": 0.7}
    )
    # Two boxes on one object: the second is wrong.
    twice = [seen((0, 0, 10, 10, 0, 0.9), (0, 0, 10, 10, 0, 0.8))]
    assert coco_scores(twice, truth, 1).metrics()["ap50"] == pytest.approx(51 / 101)


def test_nothing_found_and_nothing_there() -> None:
    """A crash of the library, or an AP of -1."""
    truth, nothing = seen((0, 0, 10, 10, 0), (0, 0, 100, 100, 2)), seen()
    metrics = coco_scores([nothing, nothing], [truth, nothing], 3).metrics()
    assert metrics == {"ap": 0, "ap50": 0, "ap75": 0, "ap_small": 0, "ap_large": 0, "ar": 0}
    assert coco_scores([nothing], [nothing], 3).metrics() == {}
    assert coco_scores([truth], [nothing], 3).metrics() == {}
    assert coco_scores([], [], 3).metrics() == {}
    curves = recall_curves([nothing], [truth], CLASSES)
    assert curves["micro"]["precision"] == [0.0] * 101
    assert curves["per_class"].keys() == {"a", "c"}
    assert curves["support"] == [1, 0, 1]
    assert curves["f1"] == [0, 0, 0]
    with pytest.raises(LimbeckError, match="as many pictures"):
        coco_scores([nothing], [], 3)


def test_a_crowd_takes_any_number_of_boxes() -> None:
    """Boxes in a crowd counted as wrong, or a crowd as an object that nobody finds."""
    truth = [seen((0, 0, 100, 100, 0, 1.0), (200, 0, 210, 10, 0))]
    found = [seen((10, 10, 20, 20, 0, 0.9), (30, 30, 40, 40, 0, 0.8), (200, 0, 210, 10, 0, 0.5), (5, 5, 9, 9, 1, 0.9))]
    scores = coco_scores(found, truth, 2)
    assert scores.metrics()["ap"] == pytest.approx(1.0)
    own = matches(found[0], truth[0])
    assert own.truth.tolist() == [-1, -1, -1, 1]
    assert own.ignored.tolist() == [True, False, True, False]
    assert scores.per_class(["a", "b"]) == {"a": {"ap": pytest.approx(1.0), "ap50": pytest.approx(1.0)}}


def test_what_the_student_misses() -> None:
    """An object that neither finds counted as missed, or a box of another class taken for it."""
    truth = [seen((0, 0, 10, 10, 0), (20, 0, 30, 10, 1), (40, 0, 50, 10, 0)), seen((0, 0, 10, 10, 1))]
    teacher = [
        seen((0, 0, 10, 10, 0, 0.9), (20, 0, 30, 10, 1, 0.8), (40, 0, 50, 10, 0, 0.4)),
        seen((0, 0, 10, 9, 1, 0.6)),
    ]
    student = [seen((0, 0, 10, 9, 0, 0.7), (20, 0, 30, 10, 0, 0.9)), seen((0, 0, 10, 10, 1, 0.3))]
    lost = missed(student, teacher, truth)
    assert (lost.found, lost.missed) == (3, 2)
    assert lost.share == pytest.approx(2 / 3)
    assert lost.by_class == {0: (1, 0), 1: (2, 2)}
    assert missed(student, teacher, truth, score=0.3).by_class == {0: (2, 1), 1: (2, 1)}
    assert missed(student, student, truth).share == 0.0
    assert missed(student, [seen(), seen()], truth).share == 0.0


def test_as_near_as_possible_to_the_teacher() -> None:
    """Agreement below 1 with oneself, or counting what the teacher itself is not sure of."""
    found = [seen((0, 0, 10, 10, 0, 0.9), (20, 0, 30, 10, 1, 0.8), (40, 0, 50, 10, 0, 0.2)), seen()]
    assert teacher_ap50(found, found, 2) == pytest.approx(1.0)
    assert teacher_ap50([seen(), seen()], found, 2) == 0.0
    assert teacher_ap50(found, [seen(), seen()], 2) is None


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback in the place of the line that installs it."""
    import sys

    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(LimbeckError, match=r'pip install "limbeck\[detection\]"'):
        coco_scores([seen((0, 0, 1, 1, 0, 0.5))], [seen((0, 0, 1, 1, 0))], 1)


@pytest.mark.parametrize("place", ["boxes", "scores"])
def test_answers_that_are_not_finite_are_named(place: str) -> None:
    """A training that went astray, told by a traceback of the library that measures it."""
    found = [seen((0, 0, 10, 10, 0, 0.9)), seen((0, 0, 10, 10, 0, 0.9))]
    getattr(found[1], place)[0] = float("nan")
    with pytest.raises(LimbeckError, match=r"finds in picture 1 is not finite"):
        coco_scores(found, [seen((0, 0, 10, 10, 0))] * 2, 3)
