"""Answers in different vocabularies: sorted probabilities, against a loop, SciPy's transport and the authors' order."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import wasserstein_distance
from tests.losses.contract import PROMISES, Case, Promise
from tests.losses.reference import softened
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses import ULD, Loss, cross_tokenizer, uld
from limbeck.types import LinearHead


def naive(student: Tensor, teacher: Tensor, _labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, ULD)
    values = []
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        q = sorted(softened(s, loss.temperature), reverse=True)
        p = sorted(softened(t, loss.temperature), reverse=True)
        length = max(len(q), len(p))
        q, p = q + [0.0] * (length - len(q)), p + [0.0] * (length - len(p))
        values.append(sum(abs(a - b) for a, b in zip(q, p, strict=True)))
    return values


CASES = [
    Case("uld", ULD, (8, 6), (8, 6), naive, mismatch=(7, 6)),
    Case("uld-larger-teacher", ULD, (8, 5), (8, 9), naive, mismatch=(7, 9)),
    Case("uld-larger-student-T2", lambda: ULD(2.0), (8, 9), (8, 4), naive, mismatch=(7, 4)),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    """What every loss promises."""
    promise(case)


generator = torch.Generator().manual_seed(0)
STUDENT = torch.randn(5, 7, generator=generator, dtype=torch.float64)
TEACHER = torch.randn(5, 11, generator=generator, dtype=torch.float64)


def test_it_is_the_transport_between_the_two_sets_of_probabilities() -> None:
    """Something else than a Wasserstein distance: SciPy moves one set of probabilities to the other, each of them a
    point of the same mass."""
    values = uld(STUDENT, TEACHER)
    for row, value in enumerate(values.tolist()):
        q = torch.cat([STUDENT[row].softmax(0), torch.zeros(4, dtype=torch.float64)])
        expected = 11 * wasserstein_distance(q.tolist(), TEACHER[row].softmax(0).tolist())
        assert value == pytest.approx(expected, rel=1e-12)


def test_tokens_have_no_name() -> None:
    """A class compared with its namesake, or sorted logits in place of probabilities."""
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(uld(STUDENT, STUDENT[:, order] + 3.0), torch.zeros(5, dtype=torch.float64))


def test_padding_of_a_vocabulary_weighs_nothing() -> None:
    """Entries with probability 0 that change the distance: vocabularies are filled with zeros, not with logits of 0."""
    padded = torch.nn.functional.pad(TEACHER, (0, 5), value=-math.inf)
    torch.testing.assert_close(uld(STUDENT, padded), uld(STUDENT, TEACHER))


def test_no_factor_for_the_temperature() -> None:
    """T² where the authors' code has none: at a high temperature two sharp answers are equally flat."""
    hot = uld(STUDENT, STUDENT * 2, temperature=1000.0)
    assert float(hot.max()) < 1e-2


def test_pieces_give_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake at the edge of a piece, which only large vocabularies reach."""
    weights = torch.arange(5.0, dtype=torch.float64)

    def both() -> tuple[Tensor, Tensor]:
        student = STUDENT.clone().requires_grad_()
        values = uld(student, TEACHER)
        (values * weights).sum().backward()
        assert student.grad is not None
        return values.detach(), student.grad

    whole = both()
    monkeypatch.setattr(cross_tokenizer, "CHUNK", 25)
    for one, other in zip(whole, both(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_texts_and_heads() -> None:
    """Logits (batch, length, classes) flattened in another order, or a head that is not written down."""
    student, teacher = STUDENT[:4].view(2, 2, 7), TEACHER[:4].view(2, 2, 11)
    values = uld(student, teacher)
    assert values.shape == (2, 2)
    torch.testing.assert_close(values.flatten(), uld(STUDENT[:4], TEACHER[:4]))
    head = LinearHead(TEACHER, torch.eye(11, dtype=torch.float64))
    torch.testing.assert_close(ULD()(STUDENT, head), uld(STUDENT, TEACHER))
    assert uld(STUDENT[:0], TEACHER[:0]).shape == (0,)


def test_mistakes_are_named() -> None:
    """Items that broadcast, a temperature of 0, or a second derivative that is silently 0."""
    with pytest.raises(LimbeckError, match=r"shape \(5, 7\), the teacher \(4, 11\)"):
        uld(STUDENT, TEACHER[:4])
    with pytest.raises(LimbeckError, match="ULD temperature"):
        ULD(0.0)
    student = STUDENT.clone().requires_grad_()
    with pytest.raises(LimbeckError, match="second derivative"):
        torch.autograd.grad(uld(student, TEACHER).sum(), student, create_graph=True)
