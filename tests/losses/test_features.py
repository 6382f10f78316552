"""Features matched, against torch's mean squared error."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import FeatureMSE, feature_cosine, feature_mse


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 7, 3), (4, 3, 5, 5)])
def test_is_torchs_mean_over_everything_but_the_batch(shape: tuple[int, ...]) -> None:
    """A sum over positions, so that the weight of a recipe depends on the size of the image."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *shape, generator=generator)
    values = feature_mse(student, teacher)
    expected = torch.stack([F.mse_loss(s, t) for s, t in zip(student, teacher, strict=True)])
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(values.mean(), F.mse_loss(student, teacher))


def test_a_mismatch_points_to_the_projector() -> None:
    """Broadcasting of 1 channel over 64, and features without a batch."""
    with pytest.raises(LimbeckError, match="projector between features"):
        FeatureMSE()(torch.zeros(4, 1, 5, 5), torch.zeros(4, 64, 5, 5))
    with pytest.raises(LimbeckError, match="keep the batch dimension"):
        feature_mse(torch.tensor(1.0), torch.tensor(1.0))


@pytest.mark.parametrize("shape", [(4, 3), (4, 7, 3), (4, 3, 5, 5)])
def test_cosine_is_torchs_at_each_position(shape: tuple[int, ...]) -> None:
    """A cosine of whole maps, in which one large position decides."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *shape, generator=generator)
    rows = [each if each.dim() < 4 else each.movedim(1, -1) for each in (student, teacher)]
    rows = [each.reshape(-1, 3) for each in rows]
    expected = F.cosine_embedding_loss(*rows, torch.ones(len(rows[0])), reduction="none")
    torch.testing.assert_close(feature_cosine(student, teacher), expected.view(4, -1).mean(1))


def test_cosine_does_not_see_length() -> None:
    """A loss that pulls lengths together as well, or divides by the length of nothing."""
    student, teacher = torch.tensor([[3.0, 0.0], [0.0, 0.0]], requires_grad=True), torch.tensor([[0.5, 0], [1, 0]])
    values = feature_cosine(student, teacher)
    values.sum().backward()
    assert values.tolist() == [0.0, 1.0]
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
