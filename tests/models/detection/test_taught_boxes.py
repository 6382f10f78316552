"""limbeck.losses.SoftBoxes teaches what a teacher finds, by the scores that it finds it with."""

from __future__ import annotations

import torch
from tests.models.detection.scenes import CLASSES, HEIGHT, WIDTH, detector, scenes

from limbeck import Distiller, Term
from limbeck.losses import SoftBoxes
from limbeck.losses.detection.confidence import with_quality
from limbeck.losses.detection.soft_boxes import found_by


def test_soft_boxes_teach_what_the_teacher_finds() -> None:
    """An FCOS teacher that teaches the poor box of a sure location at an object's edge, which it does not find."""
    teacher = detector("fcos").eval()
    places = sum(teacher.levels)
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((2, places, CLASSES), -9.0)
    logits.scatter_(2, torch.randint(0, CLASSES, (2, places, 1), generator=generator), torch.randn(2, places, 1) * 2)
    corners = torch.rand(2, places, 2, generator=generator) * torch.tensor([WIDTH - 30.0, HEIGHT - 30.0])
    signal = {
        "logits": logits,
        "boxes": torch.cat([corners, corners + 8 + 20 * torch.rand(2, places, 2, generator=generator)], -1),
        "quality": torch.randn(2, places, generator=generator) * 2,
    }
    listed, taught, _ = found_by(
        with_quality(logits, signal["quality"]), signal["boxes"], score=0.2, overlap=0.6, most=100
    )
    for row, found in enumerate(teacher.detections(signal)):
        assert 5 < len(found) < 100
        assert torch.equal(listed[row], found.boxes)
        scores, kinds = taught[row, : len(found)].sigmoid().max(-1)
        torch.testing.assert_close(scores, found.scores)
        assert torch.equal(kinds, found.classes)


def test_soft_boxes_ask_for_the_quality_of_a_teacher_that_has_one() -> None:
    """A quality that nobody reads, or one asked of a teacher without it."""
    batch = scenes(2)
    fcos, retinanet, student = (detector(each).eval() for each in ("fcos", "retinanet", "retinanet"))
    for teacher, names in ((fcos, ("logits", "boxes", "quality")), (retinanet, ("logits", "boxes"))):
        distiller = Distiller(student, teacher, [Term(SoftBoxes(score=0.0))], example=batch)
        assert distiller.objective.terms[0].teacher == names
    named = Distiller(student, fcos, [Term(SoftBoxes(), teacher=("logits", "boxes", "quality"))], example=batch)
    assert named.objective.terms[0].teacher == ("logits", "boxes", "quality")
    signal, own = fcos(batch["inputs"]), student(batch["inputs"])
    scored = with_quality(signal["logits"], signal["quality"])
    mine, loss = (own["logits"], own["boxes"]), SoftBoxes(score=0.0)
    loss.meet(student, fcos)
    expected = loss(mine, (scored, signal["boxes"]), batch)
    given = tuple(signal[name] for name in ("logits", "boxes", "quality"))
    torch.testing.assert_close(loss(mine, given, batch), expected)
    assert not torch.allclose(loss(mine, (signal["logits"], signal["boxes"]), batch), expected)
