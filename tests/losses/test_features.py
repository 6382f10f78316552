"""Features matched, against torch's mean squared error."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.checks import LimbeckError
from limbeck.losses import FeatureMSE, feature_mse


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
