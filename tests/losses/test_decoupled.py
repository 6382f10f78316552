"""Decoupled and normalised distillation, against the identities of their papers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import DKD, NKD, dkd, kd, nkd

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 10, generator=generator, dtype=torch.float64) * 2
LABELS = torch.tensor([0, 9, 3, 3, 5, 1])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_sum_of_the_parts_as_the_paper_splits_it(temperature: float) -> None:
    """Zhao et al. 2022, equation 5: KD = TCKD + (1 − p_y) · NCKD. Holds only if both parts are right."""
    target_part = dkd(STUDENT, TEACHER, LABELS, alpha=1.0, beta=0.0, temperature=temperature)
    others_part = dkd(STUDENT, TEACHER, LABELS, alpha=0.0, beta=1.0, temperature=temperature)
    p = (TEACHER / temperature).softmax(-1).gather(-1, LABELS.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(target_part + (1 - p) * others_part, kd(STUDENT, TEACHER, temperature=temperature))


def test_nkd_with_the_target_deleted() -> None:
    """The target left among the others: here its column is deleted, as in the authors' first code."""
    rest = torch.ones_like(STUDENT).scatter_(-1, LABELS.unsqueeze(-1), 0.0).bool()
    s, t = STUDENT[rest].view(6, 9) / 2.0, TEACHER[rest].view(6, 9) / 2.0
    others_part = F.cross_entropy(s, t.softmax(-1), reduction="none")
    weight = TEACHER.softmax(-1).gather(-1, LABELS.unsqueeze(-1)).squeeze(-1)
    target_part = weight * F.cross_entropy(STUDENT, LABELS, reduction="none")
    torch.testing.assert_close(
        nkd(STUDENT, TEACHER, LABELS, gamma=1.5, temperature=2.0), target_part + 1.5 * 4.0 * others_part
    )


def test_nkd_is_smallest_at_the_teacher_among_students_of_equal_confidence() -> None:
    """Not 0 at the teacher, but for a given probability of the target it must be smallest there."""
    at_teacher = nkd(TEACHER, TEACHER, LABELS, gamma=1.5, temperature=1.0)
    assert bool((at_teacher > 0).all())
    target = LABELS.unsqueeze(-1)
    for size in (0.1, 1.0, 3.0):
        other = TEACHER + size * torch.randn(6, 10, generator=generator, dtype=torch.float64)
        rest = TEACHER.scatter(-1, target, -torch.inf).logsumexp(-1, keepdim=True)
        other = other - other.scatter(-1, target, -torch.inf).logsumexp(-1, keepdim=True) + rest
        other = other.scatter(-1, target, TEACHER.gather(-1, target))
        assert bool((nkd(other, TEACHER, LABELS, gamma=1.5, temperature=1.0) > at_teacher).all())
    student = TEACHER.clone().requires_grad_()
    nkd(student, TEACHER, LABELS, gamma=1.5, temperature=1.0).sum().backward()
    assert student.grad is not None
    # What is left pulls the target up, and the others down evenly, in proportion to their probability.
    assert bool((student.grad.gather(-1, target) < 0).all())
    evenly = student.grad / TEACHER.softmax(-1)
    rest_mask = torch.ones_like(TEACHER).scatter_(-1, target, 0.0).bool()
    spread = evenly[rest_mask].view(6, 9)
    torch.testing.assert_close(spread, spread[:, :1].expand(6, 9))


@pytest.mark.parametrize("loss", [DKD(), NKD()], ids=["dkd", "nkd"])
def test_an_unlabelled_sample_takes_the_teachers_top_class(loss: DKD | NKD) -> None:
    """−1 read as the last class, which is what indexing makes of it."""
    top = TEACHER.argmax(-1)
    unlabelled = torch.full_like(LABELS, -1)
    assert torch.equal(loss(STUDENT, TEACHER, unlabelled), loss(STUDENT, TEACHER, top))
    assert torch.equal(loss(STUDENT, TEACHER, None), loss(STUDENT, TEACHER, top))
    some = torch.where(torch.arange(6) % 2 == 0, LABELS, -1)
    mixed = torch.where(torch.arange(6) % 2 == 0, LABELS, top)
    assert torch.equal(loss(STUDENT, TEACHER, some), loss(STUDENT, TEACHER, mixed))


def test_two_classes_leave_nothing_among_the_others() -> None:
    """NaN from a softmax over the one class that is left."""
    s, t = STUDENT[:, :2], TEACHER[:, :2]
    labels = LABELS % 2
    torch.testing.assert_close(dkd(s, t, labels, temperature=3.0), kd(s, t, temperature=3.0))


@pytest.mark.parametrize("loss", [DKD(), NKD()], ids=["dkd", "nkd"])
def test_labels_that_are_no_classes_are_named(loss: DKD | NKD) -> None:
    """Multi-hot targets truncated to class 0 or 1."""
    with pytest.raises(LimbeckError, match="expected int64 class indices"):
        loss(STUDENT, TEACHER, torch.zeros(6, 10))
    with pytest.raises(LimbeckError, match="at least 2 classes"):
        loss(STUDENT[:, :1], TEACHER[:, :1], LABELS)
    with pytest.raises(LimbeckError, match=r"expected labels of shape \(6,\)"):
        loss(STUDENT, TEACHER, LABELS.unsqueeze(-1))


def test_settings_out_of_range_are_named() -> None:
    """A negative weight, which drives the student away from its teacher."""
    with pytest.raises(LimbeckError, match="DKD beta: expected 0 or a positive number, got -1"):
        DKD(beta=-1.0)
    with pytest.raises(LimbeckError, match="NKD gamma"):
        NKD(gamma=float("nan"))
    with pytest.raises(LimbeckError, match="NKD temperature"):
        NKD(temperature=0.0)
