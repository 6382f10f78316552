"""limbeck.tasks.drawn_boxes: the pictures on which student and teacher differ most are those that are shown."""

from __future__ import annotations

import torch
from tests.sources.boxes.painted import detection_set

from limbeck.models.detection import Detections
from limbeck.tasks.drawn_boxes import PICTURES, compared_pictures, differences

COUNT = PICTURES + 4


def found(count: int, score: float = 0.9, left: float = 0.0) -> Detections:
    """As many boxes in a row, from some place on."""
    corners = torch.tensor([[left + 12.0 * at, 2, left + 12.0 * at + 8, 20] for at in range(count)]).reshape(-1, 4)
    return Detections(corners, torch.full((count,), score), torch.zeros(count, dtype=torch.int64))


def test_how_much_two_models_differ() -> None:
    """Boxes that only one of them finds counted once for both, twice for one, or where nobody is sure of them."""
    assert differences(found(3), found(3)) == 0
    assert differences(found(3), found(1)) == differences(found(1), found(3)) == 2
    assert differences(found(2), found(2, left=40)) == 4
    assert differences(found(2), found(2, score=0.4)) == 2
    other = found(2)
    assert differences(Detections(other.boxes, other.scores, other.classes + 1), found(2)) == 4


def test_the_pictures_that_differ_most_are_shown() -> None:
    """Those that differ least, or those of the student alone."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 3, 32, 64), dtype=torch.uint8, generator=generator)
    split = detection_set(pixels, [((1, (2, 2, 12, 12)),)] * COUNT)
    apart = torch.randperm(COUNT, generator=generator).tolist()  # of each picture another number
    teacher, student = [found(0)] * COUNT, [found(each) for each in apart]
    alone = [found(COUNT - each) for each in apart]
    shown = compared_pictures(split, teacher, {"alone": alone, "distilled": student})
    ranked = sorted(range(COUNT), key=lambda index: -apart[index])[:PICTURES]
    assert [each["caption"].split(":")[0] for each in shown] == [f"Picture {index + 1}" for index in ranked]
    assert [f" {apart[index]} boxes" in each["caption"] for each, index in zip(shown, ranked, strict=True)] == [
        True
    ] * PICTURES
    assert [panel["title"] for panel in shown[0]["panels"]] == ["truth", "teacher", "alone", "distilled"]
    first = [panel["text"] for panel in shown[0]["panels"]]
    assert first == ["1 green", "nothing", "1 red", f"{COUNT - 1} red"]
