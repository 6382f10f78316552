"""Correlations, against scipy's."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import pearsonr

from limbeck.errors import LimbeckError
from limbeck.losses import DIST, dist

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)


def test_correlations_are_those_of_scipy() -> None:
    """Correlation over the wrong axis, or of logits in place of probabilities; T² on both parts."""
    q, p = (STUDENT / 2).softmax(-1).numpy(), (TEACHER / 2).softmax(-1).numpy()
    between = torch.tensor([1 - pearsonr(a, b).statistic for a, b in zip(q, p, strict=True)])
    within = sum(1 - pearsonr(a, b).statistic for a, b in zip(q.T, p.T, strict=True)) / 5
    only_between = dist(STUDENT, TEACHER, beta=1.0, gamma=0.0, temperature=2.0)
    torch.testing.assert_close(only_between, 4 * between.double(), rtol=1e-5, atol=0)
    only_within = dist(STUDENT, TEACHER, beta=0.0, gamma=1.0, temperature=2.0)
    torch.testing.assert_close(only_within, torch.full_like(only_within, 4 * within), rtol=1e-5, atol=0)
    # The mean over items is the paper's loss, equation 12.
    loss = dist(STUDENT, TEACHER, beta=3.0, gamma=0.5, temperature=2.0).mean().item()
    assert loss == pytest.approx(4 * (3 * between.mean().item() + 0.5 * within), rel=1e-5)


def test_a_full_mask_changes_nothing() -> None:
    """A masked path that computes something else."""
    everything = torch.ones(8, dtype=torch.bool)
    torch.testing.assert_close(dist(STUDENT, TEACHER, everything), dist(STUDENT, TEACHER), rtol=0, atol=1e-14)


def test_nothing_valid_is_zero_with_a_graph() -> None:
    """NaN from a batch in which everything is masked."""
    student = STUDENT.clone().requires_grad_()
    values = dist(student, TEACHER, torch.zeros(8, dtype=torch.bool))
    values.sum().backward()
    assert bool((values == 0).all())
    assert student.grad is not None
    assert bool((student.grad == 0).all())


def test_the_masks_complement_does_not_matter() -> None:
    """The statistic over classes of a masked sample leaking into the batch: its mean, or its count."""
    keep = torch.arange(8) < 5
    spoilt = STUDENT.clone()
    spoilt[5:] = -STUDENT[5:]
    torch.testing.assert_close(dist(spoilt, TEACHER, keep), dist(STUDENT, TEACHER, keep), rtol=0, atol=0)


def test_a_single_sample_has_no_relation_within_a_class() -> None:
    """NaN from the correlation of one number, in a last batch of one."""
    values = dist(STUDENT[:1], TEACHER[:1], beta=0.0)
    assert values.item() == 1.0


def test_a_mask_of_another_shape_is_named() -> None:
    """A mask of classes in place of items."""
    with pytest.raises(LimbeckError, match=r"expected a mask of shape \(8,\), one value an item, got \(8, 5\)"):
        dist(STUDENT, TEACHER, torch.ones(8, 5, dtype=torch.bool))


def test_settings_out_of_range_are_named() -> None:
    """A negative weight, or one class, whose correlation does not exist."""
    with pytest.raises(LimbeckError, match="DIST gamma"):
        DIST(gamma=-0.1)
    with pytest.raises(LimbeckError, match="at least 2 classes"):
        dist(STUDENT[:, :1], TEACHER[:, :1])
