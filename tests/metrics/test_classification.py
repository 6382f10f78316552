"""Classification metrics against scikit-learn, torch and naive loops."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from limbeck.errors import LimbeckError
from limbeck.metrics import classification_details, classification_metrics


def sample(n: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right more often than not, with every class among the labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), labels] += 1.0
    return logits, labels


def test_hand_numbers() -> None:
    """A swapped axis, a wrong class count or a wrong base of the logarithm."""
    logits = torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
    metrics = classification_metrics(logits, torch.tensor([0, 1, 2, 2]))
    assert metrics["accuracy"] == 0.75
    assert metrics["nll"] == pytest.approx(-math.log(0.9 * 0.7 * 0.25 * 0.8) / 4)
    # F1 of class 0: 1 of 2 predicted, 1 of 1 found: 2/3; class 1: 1; class 2: 1 of 1, 1 of 2: 2/3.
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    # Each sample is alone in its bin: |1 - 0.9|, |1 - 0.7|, |0 - 0.5|, |1 - 0.8|.
    assert metrics["ece"] == pytest.approx((0.1 + 0.3 + 0.5 + 0.2) / 4)
    assert "top5" not in metrics


@pytest.mark.parametrize("classes", [2, 7])
def test_equal_to_naive_loops(classes: int) -> None:
    """A library's option read wrongly: the averaging, the bins, the number of classes."""
    logits, labels = sample(300, classes)
    metrics = classification_metrics(logits, labels)
    probabilities = logits.double().softmax(-1).numpy()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    ece = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics["ece"] == pytest.approx(ece, abs=1e-6)
    truth = np.eye(classes)[labels.numpy()]
    each = [naive_average_precision(truth[:, c], probabilities[:, c]) for c in range(classes)]
    assert metrics["macro_average_precision"] == pytest.approx(np.mean(each))
    assert metrics["micro_average_precision"] == pytest.approx(
        naive_average_precision(truth.ravel(), probabilities.ravel())
    )
    if classes > 5:
        ranks = (-probabilities).argsort(1)[:, :5]
        hits = [y in row for y, row in zip(labels.tolist(), ranks, strict=True)]
        assert metrics["top5"] == pytest.approx(np.mean(hits))


def naive_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """The mean precision at the ranks of the positives; no ties."""
    ranked = truth[(-scores).argsort()]
    return float(np.mean([ranked[: i + 1].mean() for i in np.flatnonzero(ranked)]))


def test_unlabelled_samples_count_for_nothing() -> None:
    """Unlabelled samples read as class -1, i.e. as the last class."""
    logits, labels = sample(60, 4)
    more = torch.cat([logits, 9 * torch.ones(5, 4)])
    unlabelled = torch.cat([labels, torch.full((5,), -1)])
    assert classification_metrics(more, unlabelled) == classification_metrics(logits, labels)
    assert classification_details(more, unlabelled, "abcd") == classification_details(logits, labels, "abcd")


def test_a_class_without_samples_is_left_out_of_the_macro_mean() -> None:
    """A class that the split lacks pulling the mean to zero, or a warning out of a library."""
    logits, labels = sample(90, 3)
    padded = torch.cat([logits, torch.full((90, 1), -30.0)], 1)
    alone, with_absent = classification_metrics(logits, labels), classification_metrics(padded, labels)
    assert with_absent["macro_average_precision"] == pytest.approx(alone["macro_average_precision"])
    assert with_absent["macro_f1"] == pytest.approx(alone["macro_f1"])
    assert classification_details(padded, labels, "abcd")["per_class"]["average_precision"][3] is None


def test_logits_between_zero_and_one_are_still_logits() -> None:
    """torchmetrics takes values in [0, 1] for probabilities and skips the softmax."""
    metrics = classification_metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert metrics["ece"] == pytest.approx(1 - 1 / (1 + math.exp(-1)))


def test_details_agree_with_scikit_learn_and_the_metrics() -> None:
    """A transposed confusion, or a reliability diagram that tells another calibration than the number."""
    logits, labels = sample(500, 4, seed=3)
    details = classification_details(logits, labels, ["a", "b", "c", "d"])
    predicted = logits.argmax(1)
    report = sk.classification_report(labels, predicted, output_dict=True)
    for index in range(4):
        for name in ("precision", "recall", "support"):
            assert details["per_class"][name][index] == pytest.approx(report[str(index)][name])
        assert details["per_class"]["f1"][index] == pytest.approx(report[str(index)]["f1-score"])
    assert details["confusion"][1][2] == int(((labels == 1) & (predicted == 2)).sum())
    bins = details["reliability"]
    assert sum(bins["count"]) == 500
    ece = sum(
        n / 500 * abs(a - c) for n, a, c in zip(bins["count"], bins["accuracy"], bins["confidence"], strict=True) if n
    )
    assert ece == pytest.approx(classification_metrics(logits, labels)["ece"], abs=1e-6)
    assert json.loads(json.dumps(details, allow_nan=False)) == details


def test_thinned_curves_keep_their_area_and_their_ends() -> None:
    """A thinned curve that shows another average precision than the table."""
    logits, labels = sample(3000, 4, seed=1)
    curve = classification_details(logits, labels, "abcd")["pr_curves"]["micro"]
    recall, precision = np.array(curve["recall"]), np.array(curve["precision"])
    assert len(recall) <= 60
    assert (np.diff(recall) > 0).all()
    assert (recall[0], recall[-1]) == (0.0, 1.0)
    area = float(np.sum(np.diff(recall) * precision[1:]))
    assert area == pytest.approx(classification_metrics(logits, labels)["micro_average_precision"], abs=0.01)


def test_many_classes_keep_the_ends_only() -> None:
    """A details file that grows by a curve for each of a thousand classes."""
    logits, labels = sample(440, 22)
    logits[labels == 7] = -logits[labels == 7]
    curves = classification_details(logits, labels, [f"c{i}" for i in range(22)])["pr_curves"]["per_class"]
    assert len(curves) == 10
    assert "c7" in curves


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.long), r"\(3, 2\) and \(4,\)"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "label 2 is out of range"),
        (torch.zeros(3, 2), torch.full((3,), -1), "no sample has a label"),
        (torch.tensor([[0.0, torch.nan], [0.0, 1.0]]), torch.tensor([0, 1]), "1 of 2 samples are NaN"),
    ],
)
def test_mistakes_are_named(logits: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    """A traceback from inside scikit-learn, or a number that means nothing."""
    with pytest.raises(LimbeckError, match=message):
        classification_metrics(logits, labels)


def test_details_want_a_name_a_class() -> None:
    """Names of another data set shifting every class by one."""
    with pytest.raises(LimbeckError, match="expected 4 class names, one a logit, got 3"):
        classification_details(*sample(8, 4), ["a", "b", "c"])


def test_minus_infinity_rules_a_class_out() -> None:
    """A masked class mistaken for a diverged training."""
    logits, labels = sample(30, 3)
    masked = torch.cat([logits, torch.full((30, 1), -torch.inf)], 1)
    nll = classification_metrics(logits, labels)["nll"]
    assert classification_metrics(masked, labels)["nll"] == pytest.approx(nll)
