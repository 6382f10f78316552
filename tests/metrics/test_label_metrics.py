"""Metrics of several labels a sample, of numbers, and Matthews' correlation, against scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.metrics import classification_metrics, multilabel_metrics, regression_metrics


def several(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(200, 6, generator=generator)
    labels = (logits + torch.randn(200, 6, generator=generator) > 0.4).float()
    return logits, labels


def test_several_labels_equal_scikit_learn() -> None:
    """A threshold at another place than 0.5, or an average over the wrong axis."""
    logits, labels = several()
    truth, said = labels.numpy().astype(int), (logits.sigmoid() > 0.5).numpy().astype(int)
    assert multilabel_metrics(logits, labels) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(truth, said),
            "micro_f1": sk.f1_score(truth, said, average="micro"),
            "macro_f1": sk.f1_score(truth, said, average="macro"),
            "map": sk.average_precision_score(truth, logits.numpy(), average="macro"),
        }
    )


def test_several_labels_by_hand() -> None:
    """Micro and macro, or precision and recall, are taken for each other."""
    logits = torch.tensor([[2.0, -1.0, -3.0], [1.0, 1.0, -1.0], [-1.0, -2.0, -2.0], [-3.0, 4.0, -4.0]])
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])
    found = multilabel_metrics(logits, labels)
    # Class 0: 1 hit, 1 false alarm, 1 miss; class 1: 2 hits; class 2 is nowhere.
    assert found["accuracy"] == 0.5
    assert found["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 2))
    assert found["macro_f1"] == pytest.approx((0.5 + 1) / 2)
    assert found["map"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


@pytest.mark.parametrize("none", [-1.0, math.nan])
def test_what_is_unlabelled_counts_nowhere(none: float) -> None:
    """Unlabelled samples, or classes of a sample, are read as a no."""
    logits, labels = several()
    found = multilabel_metrics(logits, labels)
    more = torch.cat([logits, torch.full((3, 6), math.nan)])
    assert multilabel_metrics(more, torch.cat([labels, torch.full((3, 6), none)])) == found
    # One class that nobody labelled is as good as not there.
    wider = torch.cat([logits, torch.ones(200, 1)], 1)
    assert multilabel_metrics(wider, torch.cat([labels, torch.full((200, 1), none)], 1)) == found


def test_no_class_occurs() -> None:
    """F1 of nothing is a division by zero, or a zero that drags a mean down."""
    assert multilabel_metrics(-torch.ones(3, 2), torch.zeros(3, 2)) == {"accuracy": 1.0}
    assert multilabel_metrics(torch.ones(3, 2), torch.zeros(3, 2)) == {"accuracy": 0.0, "micro_f1": 0.0, "macro_f1": 0}


def numbers(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(300, generator=generator) * 5).round(decimals=1)
    return labels + torch.randn(300, generator=generator), labels


def test_numbers_equal_scipy() -> None:
    """Ties in ranks, or the wrong denominator of a mean."""
    predictions, labels = numbers()
    predictions = predictions.round(decimals=1)
    x, y = predictions.double().numpy(), labels.double().numpy()
    assert regression_metrics(predictions, labels) == pytest.approx(
        {
            "mse": sk.mean_squared_error(y, x),
            "mae": sk.mean_absolute_error(y, x),
            "pearson": stats.pearsonr(x, y).statistic,
            "spearman": stats.spearmanr(x, y).statistic,
        }
    )
    assert regression_metrics(labels, labels) == pytest.approx({"mse": 0, "mae": 0, "pearson": 1, "spearman": 1})
    assert regression_metrics(-labels.exp(), labels)["spearman"] == pytest.approx(-1)


def test_numbers_unlabelled_or_below_zero() -> None:
    """Negative labels are taken for unlabelled, or unlabelled samples make everything NaN."""
    predictions, labels = numbers()
    predictions, labels = predictions - 3, labels - 3
    found = regression_metrics(predictions, labels)
    more = torch.cat([predictions, torch.tensor([math.nan, 8.0])])
    assert regression_metrics(more, torch.cat([labels, torch.full((2,), math.nan)])) == found
    assert found["mse"] == pytest.approx(float((predictions - labels).double().square().mean()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_number_for_all(dtype: torch.dtype) -> None:
    """A student that has learned nothing yet stops the run with a warning of SciPy."""
    found = regression_metrics(torch.full((5,), 0.3, dtype=dtype), torch.arange(5.0))
    assert (found["pearson"], found["spearman"]) == (0, 0)
    assert regression_metrics(torch.ones(1), torch.zeros(1))["mse"] == 1


@pytest.mark.parametrize("classes", [2, 5])
def test_matthews(classes: int) -> None:
    """The formula for two classes where there are more, or its sign."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(400, classes, generator=generator)
    labels = torch.randint(0, classes - (classes > 2), (400,), generator=generator)
    logits[torch.arange(400), labels] += 1
    expected = sk.matthews_corrcoef(labels.numpy(), logits.argmax(1).numpy())
    assert classification_metrics(logits, labels)["mcc"] == pytest.approx(expected)
    if classes == 2:
        assert classification_metrics(-logits, labels)["mcc"] == pytest.approx(-expected)


def test_matthews_of_one_class() -> None:
    """A student that says one class for all divides by zero."""
    always = torch.tensor([[1.0, 0.0]] * 4)
    assert classification_metrics(always, torch.tensor([0, 1, 0, 1]))["mcc"] == 0
    assert classification_metrics(always, torch.zeros(4, dtype=torch.int64))["mcc"] == 0


def test_errors() -> None:
    """Shapes that broadcast give a number of nothing."""
    with pytest.raises(LimbeckError, match=r"one shape \(samples, classes\), got \(4, 3\) and \(4,\); class indices"):
        multilabel_metrics(torch.ones(4, 3), torch.ones(4))
    with pytest.raises(LimbeckError, match="multi-label metrics: no sample has a label"):
        multilabel_metrics(torch.ones(4, 3), -torch.ones(4, 3))
    with pytest.raises(LimbeckError, match="1 of 12 outputs are NaN or infinite; training diverged"):
        multilabel_metrics(torch.from_numpy(np.where(np.arange(12) == 5, np.nan, 1.0)).view(4, 3), torch.ones(4, 3))
    with pytest.raises(LimbeckError, match=r"one shape \(samples,\), got \(4, 1\) and \(4,\); squeeze"):
        regression_metrics(torch.ones(4, 1), torch.ones(4))
    with pytest.raises(LimbeckError, match="regression metrics: no sample has a label"):
        regression_metrics(torch.ones(2), torch.full((2,), math.nan))
    with pytest.raises(LimbeckError, match="4 of 4 outputs are NaN or infinite"):
        regression_metrics(torch.full((4,), math.inf), torch.ones(4))
