"""Predictions aligned at three levels, against numpy and published code's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import MLKD, kd, mlkd

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64) * 2


def frobenius(temperature: float, transposed: bool) -> float:
    """‖PPᵀ − QQᵀ‖² / B, or of the classes."""
    q, p = F.softmax(STUDENT / temperature, 1).numpy(), F.softmax(TEACHER / temperature, 1).numpy()
    q, p = (q.T, p.T) if transposed else (q, p)
    return float(np.linalg.norm(p @ p.T - q @ q.T) ** 2 / len(p))


@pytest.mark.parametrize("temperatures", [(1.0,), (2.0, 3.0, 4.0, 5.0, 6.0)])
def test_each_level_is_that_of_the_paper(temperatures: tuple[float, ...]) -> None:
    """A level that is divided by the wrong number, or left out of the sum over temperatures."""
    alone = mlkd(STUDENT, TEACHER, temperatures=temperatures, batch=0.0, classes=0.0)
    torch.testing.assert_close(alone, sum(kd(STUDENT, TEACHER, temperature=t) for t in temperatures))
    between = mlkd(STUDENT, TEACHER, temperatures=temperatures, instance=0.0, classes=0.0).mean().item()
    assert between == pytest.approx(sum(frobenius(t, False) for t in temperatures))
    across = mlkd(STUDENT, TEACHER, temperatures=temperatures, instance=0.0, batch=0.0)
    torch.testing.assert_close(across, torch.full_like(across, sum(frobenius(t, True) for t in temperatures)))
    whole = mlkd(STUDENT, TEACHER, temperatures=temperatures, instance=0.5, batch=2.0, classes=3.0).mean().item()
    assert whole == pytest.approx(0.5 * alone.mean().item() + 2.0 * between + 3.0 * across.mean().item())


def test_least_sure_keeps_the_items_that_numpy_says() -> None:
    """A quantile that keeps the confident items, or another share of them than the authors' percentile."""
    confidence = F.softmax(TEACHER, 1).amax(1).numpy()
    kept = torch.tensor(confidence <= np.percentile(confidence, 50))
    assert int(kept.sum()) == 4
    some = mlkd(STUDENT, TEACHER, batch=0.0, classes=0.0, least_sure=0.5)
    every = mlkd(STUDENT, TEACHER, batch=0.0, classes=0.0)
    torch.testing.assert_close(some, torch.where(kept, every, 0.0))


def test_least_sure_is_a_share_of_the_items_that_count() -> None:
    """A median over padding."""
    keep = torch.arange(8) % 3 != 1
    garbage = TEACHER.masked_fill(~keep.unsqueeze(1), torch.nan)
    masked = mlkd(STUDENT, garbage, keep, least_sure=0.5)
    torch.testing.assert_close(masked[keep], mlkd(STUDENT[keep], TEACHER[keep], least_sure=0.5))
    assert bool((masked[~keep] == 0).all())


@pytest.mark.parametrize("least_sure", [1.0, 0.5])
def test_nothing_valid_is_zero_with_a_graph(least_sure: float) -> None:
    """NaN from a batch in which everything is masked."""
    student = STUDENT.clone().requires_grad_()
    values = mlkd(student, TEACHER, torch.zeros(8, dtype=torch.bool), least_sure=least_sure)
    values.sum().backward()
    assert bool((values == 0).all())
    assert student.grad is not None
    assert bool((student.grad == 0).all())


def test_autocast_leaves_the_gram_matrices_in_float32() -> None:
    """Products of small probabilities in bfloat16, which differ by less than its steps."""
    student, teacher = STUDENT.float(), TEACHER.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mlkd(student, teacher)
    torch.testing.assert_close(inside, mlkd(student, teacher), rtol=0, atol=0)


def test_settings_out_of_range_are_named() -> None:
    """No temperature at all, which is a loss of 0; or a mask of classes in place of items."""
    with pytest.raises(LimbeckError, match="MLKD temperatures: expected at least one"):
        MLKD(temperatures=())
    with pytest.raises(LimbeckError, match="MLKD temperatures: expected a positive number, got -1"):
        MLKD(temperatures=(2.0, -1.0))
    with pytest.raises(LimbeckError, match="MLKD batch"):
        MLKD(batch=-1.0)
    with pytest.raises(LimbeckError, match="MLKD least_sure: expected a share in"):
        MLKD(least_sure=0.0)
    with pytest.raises(LimbeckError, match=r"expected a mask of shape \(8,\), one value an item, got \(8, 5\)"):
        mlkd(STUDENT, TEACHER, torch.ones(8, 5, dtype=torch.bool))
