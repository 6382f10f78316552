"""Centred kernel alignment, from its definition by feature covariances."""

from __future__ import annotations

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor

from limbeck.losses import CKA, Loss, cka


def alignment(student: Tensor, teacher: Tensor) -> float:
    """The paper's form over features, which the loss does not use: ‖YᵀX‖² / (‖XᵀX‖ · ‖YᵀY‖) of centred columns."""
    x, y = ([[v - sum(c) / len(c) for v in c] for c in zip(*side.tolist(), strict=True)] for side in (student, teacher))

    def squared(a: list[list[float]], b: list[list[float]]) -> float:
        return sum(sum(p * q for p, q in zip(one, other, strict=True)) ** 2 for one in a for other in b)

    return squared(x, y) / float((squared(x, x) * squared(y, y)) ** 0.5)


def naive(student: Tensor, teacher: Tensor, _labels: Tensor, _loss: Loss) -> list[float]:
    return [1 - alignment(student, teacher)] * len(student)


def naive_pooled(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    return naive(student.mean((2, 3)), teacher.mean(1), labels, loss)


CASES = [
    Case("vectors", CKA, (6, 5), (6, 5), naive, couples=True, mismatch=(5, 5)),
    Case("other-width", CKA, (6, 3), (6, 9), naive, couples=True),
    Case("maps-and-tokens", CKA, (5, 3, 2, 2), (5, 4, 7), naive_pooled, couples=True),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scale_shift_and_rotation_do_not_matter() -> None:
    """What linear CKA is made for; a missing centring shows in the shift."""
    teacher = random(8, 5)
    student = 3.0 * teacher @ torch.linalg.qr(random(5, 5, seed=2)).Q + 50.0
    torch.testing.assert_close(cka(student, teacher), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-10)
    assert float(cka(random(8, 5, seed=3), teacher).mean()) > 0.1


def test_an_item_alone_is_zero_with_a_graph() -> None:
    """A last batch of one that costs the largest loss, or NaN."""
    student = random(3, 4).requires_grad_()
    for where in (torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool)):
        values = cka(student, random(3, 4, seed=1), where)
        (gradient,) = torch.autograd.grad(values.sum(), student)
        assert bool((values == 0).all())
        assert bool((gradient == 0).all())
    assert cka(student[:1], random(1, 4)).tolist() == [0.0]


def test_mixed_precision_does_not_round_inner_products() -> None:
    """Inner products that autocast makes bfloat16."""
    student, teacher = random(8, 32).float(), random(8, 32, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cka(student, teacher)
    torch.testing.assert_close(inside, cka(student, teacher), rtol=0, atol=0)
