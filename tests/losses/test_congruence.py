"""Correlations by a kernel, against loops over pairs and the Gaussian itself."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import CC, Loss, cc


def kernel(features: Tensor, gamma: float, order: int) -> list[list[float]]:
    rows = features.tolist()
    found = []
    for a in rows:
        found.append([])
        for b in rows:
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
            found[-1].append(
                math.exp(-2 * gamma)
                * sum((2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))
            )  # fmt: skip
    return found


def naive(student: Tensor, teacher: Tensor, _labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, CC)
    mine, theirs = kernel(student, loss.gamma, loss.order), kernel(teacher, loss.gamma, loss.order)
    return [sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(mine) for s, t in zip(mine, theirs, strict=True)]


def naive_pooled(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    return naive(student.mean((2, 3)), teacher.mean(1), labels, loss)


CASES = [
    Case("vectors", CC, (6, 5), (6, 5), naive, couples=True, mismatch=(5, 5)),
    Case("order-3", lambda: CC(0.7, 3), (6, 3), (6, 9), naive, couples=True),
    Case("maps-and-tokens", CC, (5, 3, 2, 2), (5, 4, 7), naive_pooled, couples=True),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_high_order_is_the_gaussian_kernel() -> None:
    """A series that is not that of exp(−γ · distance²) of vectors at length 1."""
    student, teacher = random(8, 5), random(8, 7, seed=1)
    mine, theirs = (
        torch.from_numpy(rbf_kernel(F.normalize(side, dim=1).numpy(), gamma=0.4)) for side in (student, teacher)
    )
    torch.testing.assert_close(cc(student, teacher, order=20).mean(), F.mse_loss(mine, theirs))
    # The paper's order is not far from it.
    torch.testing.assert_close(cc(student, teacher).mean(), F.mse_loss(mine, theirs), rtol=0.2, atol=0)


def test_an_item_alone_is_zero_with_a_graph() -> None:
    """A last batch of one that teaches something, or NaN."""
    student = random(3, 4).requires_grad_()
    for where in (torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool)):
        values = cc(student, random(3, 4, seed=1), where)
        (gradient,) = torch.autograd.grad(values.sum(), student)
        torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-30)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


def test_mixed_precision_does_not_round_correlations() -> None:
    """Inner products that autocast makes bfloat16."""
    student, teacher = random(8, 32).float(), random(8, 32, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cc(student, teacher)
    torch.testing.assert_close(inside, cc(student, teacher), rtol=0, atol=0)


def test_settings_out_of_range_are_named() -> None:
    """A series of its constant only, which teaches nothing."""
    with pytest.raises(LimbeckError, match="CC order"):
        CC(order=0)
    with pytest.raises(LimbeckError, match="CC gamma"):
        CC(gamma=0.0)
