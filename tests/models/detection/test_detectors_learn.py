"""Tiny detectors overfit eight pictures, and teach smaller ones."""

from __future__ import annotations

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

EDGES = ("logits", "boxes", "distribution", "edges")


def learn(model: Any, terms: list[Term], teacher: Any, steps: int, rate: float) -> tuple[dict[str, float], Distiller]:
    """How far each term falls in some steps on the same eight pictures: its smallest value over its first."""
    torch.manual_seed(1)
    batch = scenes()
    distiller = Distiller(model, teacher, terms, example=batch).train()
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    seen: list[dict[str, float]] = []
    for _ in range(steps):
        output = distiller(batch)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(distiller.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seen.append({name: float(value.detach()) for name, value in output.terms.items()})
    return {name: min(each[name] for each in seen) / first for name, first in seen[0].items()}, distiller


@pytest.mark.parametrize(("kind", "rate"), [("rt_detr", 5e-3), ("d_fine", 2e-3)])
def test_a_set_detector_overfits_and_teaches_a_smaller_one(kind: str, rate: float) -> None:
    """A loss or matching that does not lead to the boxes, with other numbers of queries in teacher and student."""
    teacher = detector(kind, width=32, queries=12)
    learn(teacher, [Term(ModelLoss())], None, 110, rate)
    assert recall(teacher, scenes()) >= 0.6
    student = detector(kind, 1, width=16, queries=8)
    names = EDGES if kind == "d_fine" else EDGES[:2]
    terms = [Term(ModelLoss(), 0.1), Term(QueryMatching(), student=names, teacher=names)]
    falls, _ = learn(student, terms, teacher.eval(), 60, 5e-3)
    assert falls["query-matching"] < 0.85
    assert falls["model-loss"] < 0.85


def test_a_dense_detector_overfits_and_teaches_a_smaller_one() -> None:
    """A loss that does not lead to the boxes: those of its own, and every one of the teacher's."""
    teacher = detector("fcos-bins")
    learn(teacher, [Term(ModelLoss())], None, 40, 4e-3)
    assert recall(teacher, scenes()) >= 0.9
    teacher.eval().zero_grad()
    for terms, fall in [
        ([Term(QualityFocal()), Term(BoxGIoU()), Term(Localization(), 0.015)], 0.7),
        ([Term(CrossHead(after=1))], 0.8),
        ([Term(SoftBoxes())], 0.8),
        ([Term(ModelLoss()), Term(FGD()), Term(PKD(), student="pyramid", teacher="pyramid")], 0.95),
    ]:
        falls, distiller = learn(detector("fcos-bins", 1), terms, teacher, 12, 4e-3)
        assert all(each < fall for each in falls.values()), falls
        assert all(each.grad is None for each in teacher.parameters())
        if terms[0].loss.name == "model-loss":
            names = [term.student for term in distiller.objective.terms]
            assert names[1:4] == names[4:] == ["pyramid.0", "pyramid.1", "pyramid.2"]


def test_a_set_detector_teaches_a_dense_one() -> None:
    """Boxes that another family does not understand."""
    teacher = detector("rt_detr").eval()
    with torch.no_grad():  # scores that teach
        teacher.network.model.decoder.class_embed[-1].bias += 4.0
    for student in (detector("retinanet"), detector("ssdlite"), detector("detr")):
        falls, _ = learn(student, [Term(SoftBoxes())], teacher, 6, 4e-3)
        assert falls["soft-boxes"] < 1.0
