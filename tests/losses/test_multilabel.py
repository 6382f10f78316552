"""Binary divergences, against torch's binary cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import SigmoidKD, kd, sigmoid_kd

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 10, generator=generator, dtype=torch.float64) * 2


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_is_torchs_cross_entropy_less_the_teachers_entropy(temperature: float) -> None:
    """A cross-entropy that is not 0 at the teacher, or a temperature on one side only."""
    s, t = STUDENT / temperature, TEACHER / temperature
    p = t.sigmoid()
    entropy = F.binary_cross_entropy(p, p, reduction="none")
    expected = F.binary_cross_entropy_with_logits(s, p, reduction="none") - entropy
    torch.testing.assert_close(
        sigmoid_kd(STUDENT, TEACHER, temperature=temperature), temperature**2 * expected.mean(-1)
    )


def test_one_class_is_kd_of_two() -> None:
    """A Bernoulli is a softmax over (z, 0)."""

    def pair(logits: torch.Tensor) -> torch.Tensor:
        return torch.cat([logits, torch.zeros_like(logits)], -1)

    s, t = STUDENT[:, :1], TEACHER[:, :1]
    torch.testing.assert_close(sigmoid_kd(s, t, temperature=2.0), kd(pair(s), pair(t), temperature=2.0))


def test_small_probabilities_keep_their_digits() -> None:
    """1 − σ(z) rounded to 0 in float32 from z = 17 on, so that a sure teacher teaches nothing."""
    student, teacher = torch.tensor([[30.0]]), torch.tensor([[20.0]])
    p, q = math.exp(-20) / (1 + math.exp(-20)), math.exp(-30) / (1 + math.exp(-30))
    expected = p * math.log(p / q) + (1 - p) * (math.log1p(-p) - math.log1p(-q))
    assert sigmoid_kd(student, teacher, temperature=1.0).item() == pytest.approx(expected, rel=1e-4)


def test_a_temperature_out_of_range_is_named() -> None:
    """A division by 0 at the first step."""
    with pytest.raises(LimbeckError, match="SigmoidKD temperature: expected a positive number, got 0"):
        SigmoidKD(temperature=0.0)
