"""What two detectors compare: the boxes that a teacher finds, and what its head makes of a student's features."""

from __future__ import annotations

import torch
from tests.losses import detection_reference as naive
from tests.models.detection.scenes import CLASSES, HEIGHT, WIDTH, detector, scenes

from limbeck import Distiller, Term
from limbeck.losses import CrossHead, SoftBoxes
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


def test_cross_head_equals_its_parts_by_hand() -> None:
    """The student's features through the wrong blocks or tower, at another scale, or weights that are swapped."""
    teacher, student = detector("fcos").eval(), detector("fcos", 1, channels=8).eval()
    with torch.no_grad():
        for each in (*teacher.head.parameters(), *student.head.parameters()):
            each += torch.randn(each.shape, generator=torch.Generator().manual_seed(each.numel())) * 0.1
        teacher.head.regression_head.bbox_reg.bias += 6.0  # all boxes have a width and height
    batch, loss = scenes(2), CrossHead(classes=0.4, boxes=0.75, after=1)
    loss.meet(student, teacher)
    own, taught = student(batch["inputs"]), teacher(batch["inputs"])
    mine = tuple(own[name] for name in loss.student_signals)
    theirs = tuple(taught[name] for name in loss.teacher_signals)
    loss.build(mine, theirs)
    got = loss(mine, theirs)
    kinds, places = teacher.head.classification_head, teacher.head.regression_head
    assert loss.widen is not None
    answers: list[list[torch.Tensor]] = [[], []]
    for side, (tower, last) in enumerate(((kinds.conv, kinds.cls_logits), (places.conv, places.bbox_reg))):
        assert [type(layer).__name__ for layer in tower] == ["Conv2d", "GroupNorm", "ReLU"] * 2
        wide, start = mine[side] @ loss.widen[side].weight.T + loss.widen[side].bias, 0
        for stride in (8, 16, 32):
            rows, columns = HEIGHT // stride, WIDTH // stride
            stop = start + rows * columns
            ours, other = (each[:, start:stop].reshape(-1, 16) for each in (wide, theirs[side]))
            scaled = (ours - ours.mean(0)) / ours.std(0) * other.std(0) + other.mean(0)
            maps = scaled.view(2, rows, columns, 16).permute(0, 3, 1, 2)
            found = last(tower[3:](maps.relu()))
            answers[side].append(found.permute(0, 2, 3, 1).reshape(2, rows * columns, -1))
            start = stop
    anchors = teacher.anchors_on(torch.device("cpu"))
    boxes = teacher.network.box_coder.decode(torch.cat(answers[1], 1).relu(), anchors)
    by_class = naive.quality_focal(torch.cat(answers[0], 1).tolist(), theirs[2].tolist(), 1.0)
    by_box = naive.boxes(boxes.tolist(), theirs[3].tolist(), theirs[2].tolist(), 1)
    expected = 0.4 * torch.tensor(by_class) + 0.75 * torch.tensor(by_box)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
