"""A transformed teacher, against its powers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import TTM, WTTM, kd, ttm, wttm

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 10, generator=generator, dtype=torch.float64) * 2


@pytest.mark.parametrize("temperature", [1.0, 5.0, 10.0])
def test_they_are_the_divergences_of_the_authors_code(temperature: float) -> None:
    """A temperature on the student's side, a T², or a weight of the wrong power."""
    powers = F.softmax(TEACHER, 1).pow(1 / temperature)
    total = powers.sum(1)
    divergence = F.kl_div(F.log_softmax(STUDENT, 1), powers / total.unsqueeze(1), reduction="none").sum(1)
    torch.testing.assert_close(ttm(STUDENT, TEACHER, temperature=temperature), divergence)
    torch.testing.assert_close(wttm(STUDENT, TEACHER, temperature=temperature), total * divergence)


def test_at_temperature_1_both_are_kd() -> None:
    """A power that is applied twice."""
    for function in (ttm, wttm):
        torch.testing.assert_close(function(STUDENT, TEACHER, temperature=1.0), kd(STUDENT, TEACHER, temperature=1.0))


@pytest.mark.parametrize("loss", [TTM(4.0), WTTM(4.0)], ids=["ttm", "wttm"])
def test_smallest_where_the_student_is_the_transformed_teacher(loss: TTM | WTTM) -> None:
    """A loss that is not 0 at its own aim."""
    student = (TEACHER / 4.0 + 3.0).requires_grad_()
    values = loss(student, TEACHER)
    values.sum().backward()
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-12)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-12)
    for size in (0.1, 1.0, 5.0):
        step = size * torch.randn(6, 10, generator=generator, dtype=torch.float64)
        assert bool((loss(TEACHER / 4.0 + step, TEACHER) > 1e-6).all())


def test_less_sure_teachers_weigh_more() -> None:
    """A weight the wrong way round: 1 for a one-hot teacher, classes^(1 − γ) for one that knows nothing."""
    flat, sharp = torch.zeros(1, 10, dtype=torch.float64), F.one_hot(torch.tensor([3]), 10).double() * 1e4
    student = STUDENT[:1]
    weight = wttm(student, flat, temperature=5.0) / ttm(student, flat, temperature=5.0)
    assert float(weight) == pytest.approx(10 ** (1 - 1 / 5))
    weight = wttm(student, sharp, temperature=5.0) / ttm(student, sharp, temperature=5.0)
    assert float(weight) == pytest.approx(1.0)


def test_settings_out_of_range_are_named() -> None:
    """An infinite power."""
    with pytest.raises(LimbeckError, match="WTTM temperature"):
        WTTM(0.0)
    with pytest.raises(LimbeckError, match="ttm temperature"):
        ttm(STUDENT, TEACHER, temperature=-1.0)
