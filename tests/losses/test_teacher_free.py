"""The virtual teacher, against the authors' recipe by torch's own functions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import Supervised, TfKD, tf_kd

generator = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 10, generator=generator, dtype=torch.float64) * 2
LABELS = torch.tensor([0, 9, 3, 3, 5, 1])


def virtual(correct: float, temperature: float) -> torch.Tensor:
    """The virtual teacher's softened answer, (batch, classes)."""
    probabilities = torch.full_like(LOGITS, (1 - correct) / 9)
    probabilities[torch.arange(6), LABELS] = correct
    return F.softmax(probabilities / temperature, dim=1)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_it_is_the_divergence_of_the_authors_code(temperature: float) -> None:
    """Probabilities taken as they are in place of softened, or a mean over classes in place of the sum."""
    expected = F.kl_div(F.log_softmax(LOGITS, 1), virtual(0.99, temperature), reduction="none").sum(1)
    torch.testing.assert_close(tf_kd(LOGITS, LABELS, temperature=temperature), expected)
    # Their KLDivLoss() is a mean over classes too, times a multiplier of 100 for the 100 classes of CIFAR-100.
    loss = torch.nn.KLDivLoss(reduction="batchmean")(F.log_softmax(LOGITS, 1), virtual(0.99, temperature))
    torch.testing.assert_close(tf_kd(LOGITS, LABELS, temperature=temperature).mean(), loss)


def test_it_is_smallest_at_the_virtual_teacher() -> None:
    """An entropy left out, so that the loss is a cross-entropy."""
    student = virtual(0.9, 0.5).log().requires_grad_()
    values = tf_kd(student, LABELS, correct=0.9, temperature=0.5)
    values.sum().backward()
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-12)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-12)


def test_a_high_temperature_is_label_smoothing_but_for_constants() -> None:
    """The gradient is that of cross-entropy with a smoothing of classes · (softened rest)."""
    rest = float(virtual(0.99, 20.0)[0, 1])
    one, other = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    tf_kd(one, LABELS, temperature=20.0).sum().backward()
    Supervised(label_smoothing=10 * rest)(other, LABELS).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_extreme_settings_stay_finite() -> None:
    """log 0 of a virtual teacher that is one-hot after softening."""
    for temperature in (1e-6, 1e6):
        assert bool(tf_kd(LOGITS, LABELS, temperature=temperature).isfinite().all())
    torch.testing.assert_close(
        tf_kd(LOGITS, LABELS, temperature=1e-6), F.cross_entropy(LOGITS, LABELS, reduction="none")
    )


def test_what_cannot_be_is_named() -> None:
    """Labels that mixing made, no labels at all, or a teacher that is certain."""
    with pytest.raises(LimbeckError, match="expected int64 class indices"):
        TfKD()(LOGITS, torch.zeros(6, 10))
    with pytest.raises(LimbeckError, match="TfKD: the batch has no labels"):
        TfKD()(LOGITS, None)
    with pytest.raises(LimbeckError, match=r"TfKD correct: expected a probability in \(0, 1\), got 1.0"):
        TfKD(correct=1.0)
    with pytest.raises(LimbeckError, match="at least 2 classes"):
        tf_kd(LOGITS[:, :1], LABELS)
