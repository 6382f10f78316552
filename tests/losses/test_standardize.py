"""Standardized logits, and the wrapper that compares them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.losses import CTKD, DIST, DKD, KD, LogitMSE, Loss, Standardized, Supervised, Weighted, kd, standardize
from limbeck.objective import Objective
from limbeck.terms import Term
from limbeck.types import Signal

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 10, generator=generator, dtype=torch.float64) * 4 + 2


def test_z_scores_are_those_of_torch() -> None:
    """The biased deviation: the authors' code takes torch.std's default."""
    z = standardize(STUDENT)
    expected = (STUDENT - STUDENT.mean(-1, keepdim=True)) / STUDENT.std(-1, keepdim=True)
    torch.testing.assert_close(z, expected, rtol=1e-6, atol=0)


def test_scale_and_shift_of_the_student_are_free() -> None:
    """The point of the method: a student whose logits are a·t + b has learnt all there is."""
    values = Standardized()(3.0 * TEACHER - 7.0, TEACHER)
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-12)
    assert bool((kd(3.0 * TEACHER - 7.0, TEACHER, temperature=2.0) > 0.1).all())


def test_default_is_kd_at_the_papers_base_temperature() -> None:
    """A wrapped loss that loses its temperature, or T² with it."""
    expected = kd(standardize(STUDENT), standardize(TEACHER), temperature=2.0)
    assert torch.equal(Standardized()(STUDENT, TEACHER), expected)
    assert torch.equal(Standardized(KD(2.0))(STUDENT, TEACHER), expected)


def test_inputs_are_those_of_the_wrapped_loss() -> None:
    """Labels standardized as if they were logits, or a mask that never arrives."""
    labels = torch.tensor([0, 1, 2, 3, 4, -1])
    keep = torch.arange(6) < 4
    assert Standardized(DKD()).inputs == ("teacher", "labels")
    assert Standardized(DIST()).inputs == ("teacher", "where")
    assert Standardized(LogitMSE()).inputs == ("teacher",)
    s, t = standardize(STUDENT), standardize(TEACHER)
    assert torch.equal(Standardized(DKD())(STUDENT, TEACHER, labels), DKD()(s, t, labels))
    assert torch.equal(Standardized(DIST())(STUDENT, TEACHER, keep), DIST()(s, t, keep))


def test_equal_logits_have_a_finite_gradient() -> None:
    """NaN from the deviation's slope at 0, in a student whose head starts at 0."""
    student = torch.zeros(6, 10, requires_grad=True)
    Standardized()(student, TEACHER.float()).sum().backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_a_loss_on_labels_is_refused() -> None:
    """A cross-entropy of standardized logits, which nobody means."""
    with pytest.raises(LimbeckError, match="Supervised compares with no teacher"):
        Standardized(Supervised())
    with pytest.raises(LimbeckError, match="standardize: expected logits of shape"):
        standardize(STUDENT[:, :1])


@pytest.mark.parametrize("wrapper", [Standardized, partial(Weighted, by="confidence")])
def test_a_wrapped_loss_learns_and_is_told_of_progress(wrapper: Callable[[Loss], Loss]) -> None:
    """A learned temperature inside a wrapper that is never built, or stays where it began."""
    inner = CTKD(instance=True)
    loss = wrapper(inner)
    logits, other = torch.randn(2, 6, 5)
    objective = Objective([Term(loss)])
    loss.build(logits, other)
    objective.progress(10.0, 0.5)
    assert inner.strength == 1.0
    total, _ = objective(Signal({"logits": logits.requires_grad_()}), Signal({"logits": other}), None)
    total.backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())
