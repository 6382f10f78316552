"""Fidelity against torch.distributions and hand counts."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from limbeck.errors import LimbeckError
from limbeck.metrics import disagreements, fidelity


def test_kl_and_agreement() -> None:
    """The divergence with its arguments swapped, or summed instead of averaged."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 50, 6, generator=generator).double()
    values = fidelity(student, teacher, torch.full((50,), -1))
    expected = kl_divergence(Categorical(logits=teacher), Categorical(logits=student)).mean()
    assert values["teacher_kl"] == pytest.approx(float(expected))
    hits = sum(int(s.argmax() == t.argmax()) for s, t in zip(student, teacher, strict=True))
    assert values["agreement"] == pytest.approx(hits / 50)
    assert set(values) == {"agreement", "teacher_kl"}, "no sample is labelled"


def test_a_student_equal_to_its_teacher() -> None:
    """A cross-entropy called a divergence; NaN where both rule a class out; overflow at extreme logits."""
    logits = torch.tensor([[1000.0, -1000.0, -torch.inf], [0.0, 3.0, -torch.inf]])
    values = fidelity(logits, logits, torch.tensor([0, 0]))
    assert values["teacher_kl"] == 0.0
    assert (values["agreement"], values["both_right"], values["both_wrong"]) == (1.0, 0.5, 0.5)


def test_who_is_right() -> None:
    """Teacher and student swapped, or fractions of all samples where only some are labelled."""
    student = torch.eye(3)[[0, 0, 1, 1, 2]] * 5
    teacher = torch.eye(3)[[0, 1, 0, 1, 2]] * 5
    values = fidelity(student, teacher, torch.tensor([0, 0, 0, 0, -1]))
    assert [values[k] for k in ("both_right", "student_only", "teacher_only", "both_wrong")] == [0.25] * 4
    assert values["agreement"] == 0.6


def test_disagreements_come_in_order_of_interest() -> None:
    """Examples in the report that are not the ones its heading promises."""
    right, unsure, wrong, sure = [2.0, 0.0], [0.1, 0.0], [0.0, 2.0], [0.0, 4.0]
    student = torch.tensor([right, wrong, sure, unsure, right, right, sure])
    teacher = torch.tensor([right, right, right, right, wrong, right, right])
    labels = torch.tensor([0, 0, 0, 0, 0, -1, -1])
    assert disagreements(student, teacher, labels, k=5) == {"lost": [2, 1], "kept": [3, 0], "won": [4]}
    assert disagreements(student, teacher, labels, k=1) == {"lost": [2], "kept": [3], "won": [4]}


def test_mistakes_are_named() -> None:
    """A broadcast between different numbers of classes or samples."""
    with pytest.raises(LimbeckError, match="must be equal"):
        fidelity(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(LimbeckError, match="at least one sample"):
        disagreements(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0), 1)
