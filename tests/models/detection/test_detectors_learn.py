"""Tiny detectors overfit eight pictures, and teach smaller ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.models.detection.scenes import detector, recall, scenes

from limbeck import Distiller, Term
from limbeck.losses import (
    FGD,
    PKD,
    BoxGIoU,
    CrossHead,
    Localization,
    ModelLoss,
    QualityFocal,
    QueryMatching,
    SoftBoxes,
)

SMALLER = {"channels": 8, "blocks": 1}
EDGES = ("logits", "boxes", "distribution", "edges")


@dataclass(frozen=True)
class Learned:
    """How each term fell on the same eight pictures: its mean in the last three steps over that in the first three, and
    its smallest value over its first."""

    falls: dict[str, float]
    lowest: dict[str, float]
    distiller: Distiller


def learn(model: Any, terms: list[Term], teacher: Any, steps: int, rate: float) -> Learned:
    """Trains a model, or lets a teacher teach it, for some steps."""
    torch.manual_seed(1)
    batch = scenes()
    distiller = Distiller(model, teacher, terms, example=batch).train()
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    seen: dict[str, list[float]] = {}
    for _ in range(steps):
        output = distiller(batch)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(distiller.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        for name, value in output.terms.items():
            seen.setdefault(name, []).append(float(value.detach()))
    falls = {name: sum(each[-3:]) / sum(each[:3]) for name, each in seen.items()}
    return Learned(falls, {name: min(each) / each[0] for name, each in seen.items()}, distiller)


@pytest.mark.parametrize(("kind", "rate"), [("rt_detr", 5e-3), ("d_fine", 2e-3)])
def test_a_set_detector_overfits_and_teaches_a_smaller_one(kind: str, rate: float) -> None:
    """A loss or matching that does not lead to the boxes, with other numbers of queries in teacher and student."""
    teacher = detector(kind, width=32, queries=12)
    learn(teacher, [Term(ModelLoss())], None, 110, rate)
    assert recall(teacher, scenes()) >= 0.6
    student = detector(kind, 1, width=16, queries=8)
    names = EDGES if kind == "d_fine" else EDGES[:2]
    terms = [Term(ModelLoss(), 0.1), Term(QueryMatching(), student=names, teacher=names)]
    learned = learn(student, terms, teacher.eval(), 60, 5e-3)
    falls = learned.falls if kind == "rt_detr" else learned.lowest
    assert falls["query-matching"] < 0.85
    assert falls["model-loss"] < 0.85


def test_a_dense_detector_overfits_and_teaches_a_smaller_one() -> None:
    """A loss that does not lead to the boxes: those of its own, and every one of the teacher's."""
    teacher = detector("fcos-bins")
    learn(teacher, [Term(ModelLoss())], None, 40, 4e-3)
    assert recall(teacher, scenes()) >= 0.9
    teacher.eval().zero_grad()
    student = detector("fcos-bins", 1, **SMALLER)
    heads = [sum(each.numel() for each in model.head.parameters()) for model in (student, teacher)]
    assert heads[0] < heads[1] / 2
    learn(student, [Term(ModelLoss()), Term(SoftBoxes())], teacher, 60, 1e-2)
    assert recall(student, scenes()) >= 0.7
    for terms, fall in [
        ([Term(QualityFocal()), Term(BoxGIoU()), Term(Localization(), 0.015)], 0.7),
        ([Term(CrossHead(after=1))], 0.8),
        ([Term(SoftBoxes())], 0.8),
    ]:
        learned = learn(detector("fcos-bins", 1, **SMALLER), terms, teacher, 12, 4e-3)
        assert all(each < fall for each in learned.falls.values()), learned.falls
    features = [Term(ModelLoss()), Term(FGD()), Term(PKD(), student="pyramid", teacher="pyramid")]
    learned = learn(detector("fcos-bins", 1), features, teacher, 12, 4e-3)
    assert all(each < 0.95 for each in learned.lowest.values()), learned.lowest
    names = [term.student for term in learned.distiller.objective.terms]
    assert names[1:4] == names[4:] == ["pyramid.0", "pyramid.1", "pyramid.2"]
    assert all(each.grad is None for each in teacher.parameters())


def test_a_set_detector_teaches_a_dense_one() -> None:
    """Boxes that another family does not understand."""
    teacher = detector("rt_detr").eval()
    with torch.no_grad():  # scores that teach
        teacher.network.model.decoder.class_embed[-1].bias += 4.0
    for student, bound in ((detector("retinanet"), 0.6), (detector("ssdlite"), 0.9), (detector("detr"), 0.985)):
        learned = learn(student, [Term(SoftBoxes())], teacher, 12, 4e-3)
        assert learned.falls["soft-boxes"] < bound
