"""Samples weighed by the teacher's answer."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import entropy
from tests.losses import reference as naive
from tests.losses import reference_answers as answers
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import (
    DIST,
    DKD,
    KD,
    WSLD,
    FeatureMSE,
    LogitMSE,
    Standardized,
    Supervised,
    Weighted,
    kd,
    wsld,
)  # fmt: skip

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64) * 2
LABELS = torch.tensor([0, 4, 3, 3, -1, 1])


def test_wsld_is_the_authors_code_less_the_teachers_entropy() -> None:
    """A weight at the temperature, a ratio upside down, or T² of the weight."""
    labels = LABELS.clamp(min=0)
    mine = F.cross_entropy(STUDENT, labels, reduction="none")
    theirs = F.cross_entropy(TEACHER, labels, reduction="none")
    weight = 1 - torch.exp(-mine / (theirs + 1e-7))
    p = F.softmax(TEACHER / 2, 1)
    cross = -(p * F.log_softmax(STUDENT / 2, 1)).sum(1)
    own = torch.tensor([entropy(row) for row in p.numpy()])
    torch.testing.assert_close(wsld(STUDENT, TEACHER, labels, temperature=2.0), weight * 4 * (cross - own))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_wslds_weight_is_a_constant(temperature: float) -> None:
    """A student that lowers its loss by agreeing with the label in order to be taught less."""
    student = STUDENT.clone().requires_grad_()
    upstream = torch.linspace(-1.0, 2.0, 6, dtype=torch.float64)
    wsld(student, TEACHER, LABELS, temperature=temperature).mul(upstream).sum().backward()
    weights = answers.wsld_weights(STUDENT.tolist(), TEACHER.tolist(), LABELS.tolist())

    def frozen(rows: naive.Rows) -> list[float]:
        return answers.times(weights, answers.kd(rows, TEACHER.tolist(), temperature))

    expected = naive.gradient(frozen, STUDENT.tolist(), upstream.tolist())
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_student_that_is_right_already_is_left_alone() -> None:
    """A weight that grows where the student needs no teacher; NaN where both are certain."""
    sure = F.one_hot(LABELS.clamp(min=0), 5).double() * 50
    assert bool((wsld(sure, TEACHER, LABELS.clamp(min=0)) < 1e-15).all())
    assert bool(wsld(sure, sure * 2, LABELS.clamp(min=0)).isfinite().all())
    certain = wsld(STUDENT, sure, LABELS.clamp(min=0))
    torch.testing.assert_close(certain, kd(STUDENT, sure, temperature=2.0))


def test_wsld_takes_the_teachers_top_class_without_labels() -> None:
    """−1 read as the last class."""
    top = TEACHER.argmax(1)
    assert torch.equal(WSLD()(STUDENT, TEACHER, None), WSLD()(STUDENT, TEACHER, top))
    assert torch.equal(WSLD()(STUDENT, TEACHER, torch.full_like(top, -1)), WSLD()(STUDENT, TEACHER, top))


def test_only_right_answers_count_by_default() -> None:
    """A sample without a label that is dropped, or a wrong teacher that is followed."""
    top = TEACHER.argmax(1)
    labels = torch.stack([top[0], (top[1] + 1) % 5, top[2], (top[3] + 2) % 5, top.new_tensor(-1), top[5]])
    plain = kd(STUDENT, TEACHER, temperature=4.0)
    counts = torch.tensor([True, False, True, False, True, True])
    assert torch.equal(Weighted()(STUDENT, TEACHER, labels), torch.where(counts, plain, 0.0))
    assert torch.equal(Weighted()(STUDENT, TEACHER, None), plain)


def test_weights_by_certainty_are_those_of_scipy() -> None:
    """An entropy in bits, of the softened answer, or its complement."""
    p = F.softmax(TEACHER, 1)
    certainty = 1 - torch.tensor([entropy(row) for row in p.numpy()]) / torch.tensor(5.0, dtype=torch.float64).log()
    plain = kd(STUDENT, TEACHER, temperature=2.0)
    torch.testing.assert_close(Weighted(KD(2.0), by="entropy")(STUDENT, TEACHER), certainty * plain)
    torch.testing.assert_close(Weighted(KD(2.0), by="confidence")(STUDENT, TEACHER), p.amax(1) * plain)
    flat = torch.zeros_like(TEACHER)
    assert bool((Weighted(by="entropy")(STUDENT, flat) >= 0).all())


def test_inputs_are_those_of_the_wrapped_loss_and_of_the_weight() -> None:
    """Labels given twice or not at all, or a mask that never arrives."""
    keep = torch.arange(6) < 4
    assert Weighted(KD()).inputs == ("teacher", "labels")
    assert Weighted(DKD()).inputs == ("teacher", "labels")
    assert Weighted(DIST()).inputs == ("teacher", "where", "labels")
    assert Weighted(DIST(), by="entropy").inputs == ("teacher", "where")
    assert Weighted(Standardized(LogitMSE()), by="confidence").inputs == ("teacher",)
    top = TEACHER.argmax(1)
    assert torch.equal(Weighted(DKD())(STUDENT, TEACHER, top), DKD()(STUDENT, TEACHER, top))
    spoilt = TEACHER.masked_fill(~keep.unsqueeze(1), torch.nan)
    values = Weighted(DIST(), by="confidence")(STUDENT, spoilt, keep)
    assert bool((values[~keep] == 0).all())
    assert bool(values.isfinite().all())


def test_what_cannot_be_weighed_is_named() -> None:
    """A loss on labels or on features, or a weight that does not exist."""
    for loss in (Supervised(), FeatureMSE()):
        with pytest.raises(LimbeckError, match="compares no logits with a teacher's"):
            Weighted(loss)
    with pytest.raises(LimbeckError, match="Weighted by: expected one of correct, entropy, confidence, got 'margin'"):
        Weighted(by="margin")  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="expected int64 class indices"):
        Weighted()(STUDENT, TEACHER, torch.zeros(6, 5))
