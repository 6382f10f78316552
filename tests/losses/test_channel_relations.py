"""Correlations between channels, against loops over channels."""

from __future__ import annotations

import math

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise, built
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import ICKD, Loss, ickd


def correlations(channels: list[list[float]]) -> list[list[float]]:
    found = []
    for a in channels:
        inner = [sum(x * y for x, y in zip(a, b, strict=True)) for b in channels]
        length = math.hypot(*inner) or 1.0
        found.append([each / length for each in inner])
    return found


def channels_of(features: Tensor) -> Tensor:
    return features.transpose(1, 2) if features.dim() == 3 else features.flatten(2)


def naive_plain(student: Tensor, teacher: Tensor) -> list[float]:
    values = []
    for s, t in zip(channels_of(student).tolist(), channels_of(teacher).tolist(), strict=True):
        mine, theirs = correlations(s), correlations(t)
        values.append(
            sum((a - b) ** 2 for p, q in zip(mine, theirs, strict=True) for a, b in zip(p, q, strict=True)) / len(s)
        )
    return values


def naive(student: Tensor, teacher: Tensor, _labels: Tensor, loss: Loss) -> list[float]:
    """By torch's own convolution and batch normalisation, with the loss's weights."""
    assert isinstance(loss, ICKD)
    assert loss.projection is not None
    norm = loss.normalisation
    assert norm is not None
    projected = F.conv1d(channels_of(student), loss.projection.weight.unsqueeze(-1))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    normal = F.batch_norm(projected, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False)
    return naive_plain(normal.transpose(1, 2), teacher)


CASES = [
    Case("maps", ICKD, (5, 3, 4, 4), (5, 6, 2, 2), naive, equal=False, couples=True, mismatch=(4, 6, 2, 2)),
    Case("few-positions", ICKD, (5, 3, 2, 2), (5, 6, 1, 3), naive, equal=False, couples=True, mismatch=(5, 4, 1, 3)),
    Case("tokens", ICKD, (5, 7, 4), (5, 7, 3), naive, equal=False, couples=True, mismatch=(5, 3)),
    Case("tokens-and-map", ICKD, (5, 9, 4), (5, 3, 2, 2), naive, equal=False, couples=True, mismatch=(5, 4, 2, 2)),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(student: Tensor, teacher: Tensor) -> ICKD:
    torch.manual_seed(0)
    loss = ICKD()
    loss.build(student, teacher)
    return loss.double().train()


def test_the_function_is_the_authors_loss_on_equal_channels() -> None:
    """Rows normalised over the wrong axis, or a mean over channels² in place of channels."""
    student, teacher = random(4, 5, 3, 3), random(4, 5, 2, 2, seed=1)
    torch.testing.assert_close(ickd(student, teacher).tolist(), naive_plain(student, teacher))
    torch.testing.assert_close(ickd(teacher, teacher), torch.zeros(4, dtype=torch.float64))
    with pytest.raises(LimbeckError, match="ICKD learns a map"):
        ickd(student, random(4, 6, 3, 3))


@pytest.mark.parametrize("side", [2, 5])
def test_a_channel_that_is_0_everywhere_correlates_with_none(side: int) -> None:
    """Rows of length 0 that count as length 1, in either way to compute the correlations."""
    student, teacher = random(3, 12, side, side), random(3, 12, side, 2, seed=1)
    student[:, 1], teacher[:, 1:3], teacher[2] = 0.0, 0.0, 0.0
    student.requires_grad_()
    values = ickd(student, teacher)
    torch.testing.assert_close(values.tolist(), naive_plain(student.detach(), teacher))
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert bool(gradient.isfinite().all())


def test_training_normalises_over_the_batch() -> None:
    """Another normalisation than torch's, or running statistics that do not follow."""
    student, teacher = random(4, 3, 2, 2), random(4, 5, 2, 2, seed=1)
    loss = trained(student, teacher)
    assert loss.projection is not None
    assert loss.normalisation is not None
    reference = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.BatchNorm2d(5)).double().train()
    reference[0].weight.data = loss.projection.weight.detach().view(5, 3, 1, 1)
    torch.testing.assert_close(loss(student, teacher), ickd(reference(student), teacher))
    torch.testing.assert_close(loss.normalisation.running_var, reference[1].running_var)


def test_masked_items_are_outside_the_batch_statistics() -> None:
    """Items that do not count and yet move the mean that normalises the others, now or in evaluation."""
    student, teacher = random(5, 3, 2, 2), random(5, 4, 2, 2, seed=1)
    keep = torch.tensor([True, False, True, True, False])
    few, masked = trained(student, teacher), trained(student, teacher)
    expected = few(student[keep], teacher[keep])
    spoilt = torch.where(keep.view(-1, 1, 1, 1), student, torch.nan).requires_grad_()
    values = masked(spoilt, teacher, keep)
    torch.testing.assert_close(values[keep], expected)
    assert bool((values[~keep] == 0).all())
    for name, value in few.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[name], value)
    values.sum().backward()
    assert spoilt.grad is not None
    assert bool(spoilt.grad.isfinite().all())
    masked(student, teacher, torch.zeros(5, dtype=torch.bool)).sum().backward()
    for name in ("normalisation.running_mean", "normalisation.running_var"):
        torch.testing.assert_close(masked.state_dict()[name], few.state_dict()[name])


@pytest.mark.parametrize("training", [True, False])
def test_padded_tokens_do_not_count(training: bool) -> None:
    """Channels that correlate over padding, or are normalised by it."""
    tokens = torch.arange(5) < torch.tensor([[5], [3], [4]])
    student, teacher = random(3, 5, 4), random(3, 5, 2, seed=1)
    student[~tokens], teacher[~tokens] = torch.nan, torch.nan
    loss = trained(student, teacher).train(training)
    whole = loss(student, teacher, None, tokens)
    assert loss.projection is not None
    assert loss.normalisation is not None
    loss = trained(student, teacher).train(training)
    assert loss.projection is not None
    assert loss.normalisation is not None
    rows = loss.normalisation(loss.projection(student[tokens]))
    mine, theirs = rows.split(tokens.sum(1).tolist()), teacher[tokens].split(tokens.sum(1).tolist())
    each = [ickd(a.unsqueeze(0), b.unsqueeze(0)) for a, b in zip(mine, theirs, strict=True)]
    torch.testing.assert_close(whole, torch.cat(each))


@pytest.mark.parametrize("side", [2, 4])
def test_mixed_precision_does_not_round_correlations(side: int) -> None:
    """Inner products that autocast makes bfloat16."""
    student, teacher = random(4, 3, side, side).float(), random(4, 8, side, side, seed=1).float()
    loss = trained(student, teacher).float().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(student, teacher)
    torch.testing.assert_close(inside, loss(student, teacher), rtol=0, atol=0)


def test_mistakes_are_named() -> None:
    """Vectors, which have no positions to correlate over; another layer; learned parts that nobody made."""
    with pytest.raises(LimbeckError, match="before the pooling"):
        ICKD().build(torch.zeros(2, 8), torch.zeros(2, 8))
    with pytest.raises(LimbeckError, match="give the Distiller example=batch"):
        ICKD()(torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2))
    loss = built(CASES[0])
    with pytest.raises(LimbeckError, match="built for a student of 3 channels, got 4"):
        loss(random(2, 4, 2, 2), random(2, 6, 2, 2))
