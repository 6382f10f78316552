"""Losses of models that give numbers."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck import Distiller, Term
from limbeck.errors import LimbeckError
from limbeck.losses import SupervisedMSE, squared_error


def test_equal_to_torch() -> None:
    """A factor of a half, or a sum where a mean is meant."""
    generator = torch.Generator().manual_seed(0)
    given, wanted = torch.randn(6, 3, generator=generator).double(), torch.randn(6, 3, generator=generator).double()
    given.requires_grad_()
    expected = torch.nn.functional.mse_loss(given, wanted, reduction="none").mean(1)
    assert torch.allclose(squared_error(given, wanted), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda x: squared_error(x, wanted), (given,))


def test_one_number_an_item() -> None:
    """(batch, 1) against (batch,) broadcasts to (batch, batch) where nobody looks."""
    given, wanted = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, -2.0])
    assert squared_error(given, wanted).tolist() == [4.0, 16.0]
    assert squared_error(given.squeeze(1), wanted).tolist() == [4.0, 16.0]


def test_unknown_values_cost_nothing() -> None:
    """NaN labels that reach the gradient; a negative label taken for a missing one."""
    given = torch.tensor([[1.0, 5.0], [2.0, 2.0]], requires_grad=True)
    values = squared_error(given, torch.tensor([[-1.0, math.nan], [math.nan, math.nan]]))
    values.sum().backward()
    assert values.tolist() == [4.0, 0.0]
    assert given.grad is not None
    assert given.grad.tolist() == [[4.0, 0.0], [0.0, 0.0]]


def test_mean_over_the_labelled_samples() -> None:
    """A mean over all samples, or over those with a label of at least 0."""
    student = torch.nn.Linear(1, 1, bias=False)
    batch = {"inputs": torch.ones(3, 1), "labels": torch.tensor([-2.0, math.nan, 1.0])}
    torch.nn.init.zeros_(student.weight)
    loss = Distiller(student, None, [Term(SupervisedMSE())])(batch).loss
    assert loss.item() == pytest.approx((4 + 1) / 2)


def test_class_indices_are_refused() -> None:
    """Indices taken for numbers train a model to say 3 where it should choose class 3."""
    with pytest.raises(LimbeckError, match=r"expected labels of shape \(2, 5\).*\(2,\).*Supervised"):
        squared_error(torch.zeros(2, 5), torch.zeros(2))
