"""The losses against labels, against torch's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import Supervised, SupervisedBCE, binary_cross_entropy, cross_entropy

generator = torch.Generator().manual_seed(0)
LOGITS = torch.randn(6, 4, generator=generator) * 2
LABELS = torch.tensor([0, 3, -1, 1, 2, -1])
KNOWN = LABELS >= 0
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_labelled_items_are_torchs_to_the_bit(smoothing: float, weights: torch.Tensor | None) -> None:
    """A smoothing or a weight that means something else than in torch."""
    values = cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, class_weights=weights)
    expected = F.cross_entropy(
        LOGITS[KNOWN], LABELS[KNOWN], weight=weights, label_smoothing=smoothing, reduction="none"
    )
    assert torch.equal(values[KNOWN], expected)
    assert bool((values[~KNOWN] == 0).all())


def test_nothing_labelled_is_zero_with_a_graph() -> None:
    """NaN from the mean of nothing, in a batch without a label."""
    logits = LOGITS.clone().requires_grad_()
    for values in (
        cross_entropy(logits, torch.full((6,), -1), label_smoothing=0.1, class_weights=WEIGHTS),
        binary_cross_entropy(logits, torch.full((6, 4), -1.0), pos_weight=WEIGHTS),
    ):
        logits.grad = None
        values.sum().backward()
        assert bool((values == 0).all())
        assert logits.grad is not None
        assert bool((logits.grad == 0).all())


def test_narrow_integers_are_labels_too() -> None:
    """ "expected scalar type Long", from a data set that stores int32."""
    assert torch.equal(cross_entropy(LOGITS, LABELS.to(torch.int32)), cross_entropy(LOGITS, LABELS))


def test_class_weights_move_and_are_saved_with_the_module() -> None:
    """Weights left on the CPU by .to(device), or changed by the caller's list."""
    loss = Supervised(class_weights=WEIGHTS)
    assert list(loss.state_dict()) == ["class_weights"]
    assert not list(loss.parameters())
    assert loss.class_weights is not WEIGHTS
    assert loss.to("meta").class_weights is not None
    assert loss.class_weights is not None
    assert loss.class_weights.is_meta
    assert Supervised().state_dict() == {}
    values = Supervised(class_weights=[0.5, 1.0, 2.0, 0.0])(LOGITS.double(), LABELS)
    torch.testing.assert_close(values, cross_entropy(LOGITS.double(), LABELS, class_weights=WEIGHTS.double()))


def test_binary_is_torchs_mean_over_the_labelled_classes() -> None:
    """A mean over all classes, which makes a half-labelled item count for half."""
    targets = torch.tensor([[1.0, 0.0, 0.3, 1.0]]).repeat(6, 1)
    torch.testing.assert_close(
        binary_cross_entropy(LOGITS, targets, pos_weight=WEIGHTS),
        F.binary_cross_entropy_with_logits(LOGITS, targets, pos_weight=WEIGHTS, reduction="none").mean(-1),
    )
    targets[:, 1], targets[:, 2] = -1.0, math.nan
    torch.testing.assert_close(
        binary_cross_entropy(LOGITS, targets),
        F.binary_cross_entropy_with_logits(LOGITS[:, [0, 3]], targets[:, [0, 3]], reduction="none").mean(-1),
    )


def test_binary_takes_integer_targets() -> None:
    """Multi-hot int64 targets, which torch refuses."""
    targets = torch.tensor([[1, 0, -1, 1]]).repeat(6, 1)
    assert torch.equal(binary_cross_entropy(LOGITS, targets), binary_cross_entropy(LOGITS, targets.float()))


def test_mistakes_in_labels_are_named() -> None:
    """Class indices given to the binary loss and targets given to the other, told apart."""
    with pytest.raises(LimbeckError, match=r"cross_entropy: expected int64 .*SupervisedBCE"):
        Supervised()(LOGITS, torch.zeros(6, 4))
    with pytest.raises(LimbeckError, match=r"expected labels of shape \(6,\) for logits of shape \(6, 4\)"):
        Supervised()(LOGITS, LABELS[:5])
    with pytest.raises(LimbeckError, match=r"expected targets of shape \(6, 4\).*class indices go to Supervised"):
        SupervisedBCE()(LOGITS, LABELS)
    for loss in (Supervised(), SupervisedBCE()):
        with pytest.raises(LimbeckError, match="the batch has no labels"):
            loss(LOGITS, None)


def test_mistakes_in_settings_are_named() -> None:
    """Weights for another number of classes, or negative ones."""
    with pytest.raises(LimbeckError, match="expected 4 numbers, one a class, got shape"):
        Supervised(class_weights=[1.0, 2.0])(LOGITS, LABELS)
    with pytest.raises(LimbeckError, match="SupervisedBCE pos_weight: expected one number a class"):
        SupervisedBCE(pos_weight=[1.0, -2.0])
    with pytest.raises(LimbeckError, match="label_smoothing: expected a number from 0 to 1"):
        Supervised(label_smoothing=1.5)


def test_probabilities_as_labels_against_torch() -> None:
    """Mixed labels that are taken for one class, or unlabelled rows that teach."""
    torch.manual_seed(0)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0], [-1.0, -1.0, -1.0], [0.5, 0.25, 0.25]])
    values = cross_entropy(logits, targets)
    expected = -(targets.double() * logits.log_softmax(-1)).sum(-1)
    expected = torch.where(targets[:, 0] >= 0, expected, 0.0)
    torch.testing.assert_close(values, expected)
    mine, theirs = (torch.autograd.grad(each.sum(), logits, retain_graph=True)[0] for each in (values, expected))
    torch.testing.assert_close(mine, theirs)
    with pytest.raises(LimbeckError, match="probabilities that add up to 1"):
        cross_entropy(logits, torch.ones(4, 3))
