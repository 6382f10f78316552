"""Similarities within the batch, against loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import SP, Loss, sp


def similarities(features: Tensor) -> list[list[float]]:
    rows = features.flatten(1).tolist()
    found = []
    for a in rows:
        inner = [sum(x * y for x, y in zip(a, b, strict=True)) for b in rows]
        length = math.hypot(*inner)
        found.append([each / length for each in inner])
    return found


def naive(student: Tensor, teacher: Tensor, _labels: Tensor, _loss: Loss) -> list[float]:
    mine, theirs = similarities(student), similarities(teacher)
    return [sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(mine) for s, t in zip(mine, theirs, strict=True)]


CASES = [
    Case("vectors", SP, (6, 5), (6, 5), naive, couples=True, mismatch=(5, 5)),
    Case("maps", SP, (6, 3, 2, 2), (6, 5, 4, 4), naive, couples=True, mismatch=(5, 3, 2, 2)),
    Case("map-and-tokens", SP, (5, 3, 2, 2), (5, 4, 7), naive, couples=True),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_mean_is_the_papers_loss() -> None:
    """A weight of 3000 belongs to the squared Frobenius norm over the square of the batch size."""
    student, teacher = random(8, 3, 4, 4), random(8, 5, 2, 2, seed=1)
    mine, theirs = (F.normalize(f.flatten(1) @ f.flatten(1).t()) for f in (student, teacher))
    torch.testing.assert_close(sp(student, teacher).mean(), torch.linalg.matrix_norm(mine - theirs) ** 2 / 64)


def test_padded_tokens_do_not_count() -> None:
    """A text's similarity that depends on how far its batch is padded."""
    tokens = torch.arange(5) < torch.tensor([[5], [3], [2], [4]])
    student, teacher = random(4, 5, 3), random(4, 5, 6, seed=1)
    expected = sp(*(f.masked_fill(~tokens.unsqueeze(-1), 0.0) for f in (student, teacher)))
    student[~tokens], teacher[~tokens] = torch.nan, torch.nan
    torch.testing.assert_close(SP()(student, teacher, None, tokens), expected, rtol=0, atol=0)
    with pytest.raises(LimbeckError, match=r"mask of tokens of shape \(4, 5\)"):
        sp(student, teacher, None, tokens[:, :4])


def test_a_dead_feature_does_not_explode() -> None:
    """A sample whose feature is 0 after ReLU: its gradient grows by one over the smallest length that divides."""
    student = random(4, 6)
    student[1] = 0.0
    student = student.float().requires_grad_()
    values = sp(student, random(4, 6, seed=1).float())
    values.sum().backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert float(student.grad.abs().max()) < 1e3


def test_an_item_alone_is_zero_with_a_graph() -> None:
    """A last batch of one that teaches something, or NaN."""
    student = random(3, 4).requires_grad_()
    for where in (torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool)):
        values = sp(student, random(3, 4, seed=1), where)
        (gradient,) = torch.autograd.grad(values.sum(), student)
        torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-30)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_mixed_precision_does_not_round_similarities() -> None:
    """Inner products that autocast makes bfloat16."""
    student, teacher = random(8, 32).float(), random(8, 32, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = sp(student, teacher)
    torch.testing.assert_close(inside, sp(student, teacher), rtol=0, atol=0)
