"""Conditional probabilities, against loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics.pairwise import cosine_similarity
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor

from limbeck.losses import PKT, Loss, pkt


def conditional(features: Tensor) -> list[list[float]]:
    rows = features.tolist()
    found = []
    for a in rows:
        similar = []
        for b in rows:
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
            similar.append((cosine + 1) / 2)
        found.append([each / sum(similar) for each in similar])
    return found


def naive(student: Tensor, teacher: Tensor, _labels: Tensor, _loss: Loss) -> list[float]:
    mine, theirs = conditional(student), conditional(teacher)
    return [
        sum(p * math.log((p + 1e-7) / (q + 1e-7)) for q, p in zip(qs, ps, strict=True)) / len(mine)
        for qs, ps in zip(mine, theirs, strict=True)
    ]


def naive_pooled(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    return naive(student.mean((2, 3)), teacher.mean(1), labels, loss)


CASES = [
    Case("vectors", PKT, (6, 5), (6, 5), naive, couples=True, mismatch=(5, 5)),
    Case("other-width", PKT, (6, 3), (6, 9), naive, couples=True),
    Case("maps-and-tokens", PKT, (5, 3, 2, 2), (5, 4, 7), naive_pooled, couples=True),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_divergence_of_scipy() -> None:
    """Values of 1e-3 that an absolute tolerance lets pass whatever they are; the order of the divergence."""
    student, teacher = random(8, 5), random(8, 7, seed=1)
    q, p = ((cosine_similarity(side.numpy()) + 1) / 2 for side in (student, teacher))
    expected = [entropy(a, b) / 8 for a, b in zip(p, q, strict=True)]
    torch.testing.assert_close(pkt(student, teacher).tolist(), expected, rtol=1e-4, atol=1e-9)


def test_an_item_alone_is_zero_with_a_graph() -> None:
    """A last batch of one that teaches something, or NaN from no probability."""
    student = random(3, 4).requires_grad_()
    for where in (torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool)):
        values = pkt(student, random(3, 4, seed=1), where)
        (gradient,) = torch.autograd.grad(values.sum(), student)
        torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-15)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_mixed_precision_does_not_round_similarities() -> None:
    """Inner products that autocast makes bfloat16."""
    student, teacher = random(8, 32).float(), random(8, 32, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pkt(student, teacher)
    torch.testing.assert_close(inside, pkt(student, teacher), rtol=0, atol=0)
