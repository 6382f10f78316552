"""How right a classifier is: one number a metric for the row, and the curves and confusion behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from limbeck.checks import labels_in_range
from limbeck.errors import LimbeckError
from limbeck.types import UNLABELLED

CALIBRATION_BINS = 15
CURVE_POINTS = 60
MANY_CLASSES = 20
ENDS_OF_MANY = 5

Floats = NDArray[np.float64]


def classification_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The numbers of a row, over the labelled samples.

    `logits` (samples, classes), `labels` (samples,) int64 with -1 where unlabelled. All are fractions in [0,
    1] but `nll`, the mean negative log-likelihood in nats, and `mcc`:

    - `accuracy`; `top5` (only with more than five classes); `macro_f1`: the mean F1 of the classes that occur
      in the labels or the predictions;
    - `mcc`: the correlation of predictions and labels in [-1, 1], 0 where either are all one class (Matthews
      1975; Gorodkin 2004 for more than two classes);
    - `ece`: expected calibration error, 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599, equation
      3);
    - `micro_average_precision`, `macro_average_precision`: one class against the rest, all decisions in one
      ranking, or the mean of the classes that occur in the labels.

    Raises LimbeckError where shapes or labels do not fit, no sample is labelled, or logits are NaN.
    """
    logits, labels = _labelled(logits, labels)
    classes = logits.shape[1]
    probabilities = logits.softmax(-1)
    truth, predicted = labels.numpy(), probabilities.argmax(-1).numpy()
    scores = probabilities.numpy()
    positives = _one_hot(truth, classes)
    present = positives.any(axis=0)
    metrics = {"accuracy": float(accuracy_score(truth, predicted))}
    if classes > 5:
        metrics["top5"] = float(top_k_accuracy_score(truth, scores, k=5, labels=range(classes)))
    metrics |= {
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        "mcc": _matthews(truth, predicted, classes),
        "nll": float(torch.nn.functional.cross_entropy(logits, labels)),
        # Probabilities, not logits: torchmetrics takes logits that happen to lie in [0, 1] for probabilities.
        "ece": float(multiclass_calibration_error(probabilities, labels, classes, n_bins=CALIBRATION_BINS)),
        "micro_average_precision": float(average_precision_score(positives, scores, average="micro")),
        "macro_average_precision": float(np.mean(_average_precisions(positives[:, present], scores[:, present]))),
    }
    return metrics


def classification_details(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """What the report draws, ready for JSON, over the labelled samples.

    `logits` (samples, classes), `labels` (samples,) with -1 where unlabelled, `classes` the names in index
    order.

    - `classes`: the names;
    - `per_class`: `f1`, `precision`, `recall`, `average_precision` (None for a class without a sample) and
      `support`, each a list in class order;
    - `confusion`: counts, a row for each true class, a column for each predicted one;
    - `pr_curves`: `micro` and `per_class` (by name), each with `recall` (rising) and `precision`, at most 60
      points; with more than 20 classes only those with the five lowest and five highest average precisions;
    - `reliability`: `confidence`, `accuracy` (None for an empty bin) and `count` of 15 bins of equal width.

    Raises LimbeckError as `classification_metrics` does, and where the names are not one a class.
    """
    logits, labels = _labelled(logits, labels)
    if len(classes) != logits.shape[1]:
        raise LimbeckError(
            f"classification details: expected {logits.shape[1]} class names, one a logit, got "
            f"{len(classes)}; give the names in index order"
        )
    probabilities = logits.softmax(-1)
    truth, predicted = labels.numpy(), probabilities.argmax(-1).numpy()
    scores = probabilities.numpy()
    positives = _one_hot(truth, len(classes))
    every = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=every, zero_division=0)
    present = np.flatnonzero(positives.any(axis=0))
    precisions = dict(
        zip(present.tolist(), _average_precisions(positives[:, present], scores[:, present]), strict=True)
    )
    drawn = sorted(precisions, key=precisions.__getitem__)
    if len(classes) > MANY_CLASSES and len(drawn) > 2 * ENDS_OF_MANY:
        drawn = drawn[:ENDS_OF_MANY] + drawn[-ENDS_OF_MANY:]
    return {
        "classes": [str(name) for name in classes],
        "per_class": {
            "f1": f1.tolist(),
            "precision": precision.tolist(),
            "recall": recall.tolist(),
            "average_precision": [precisions.get(index) for index in every.tolist()],
            "support": support.tolist(),
        },
        "confusion": confusion_matrix(truth, predicted, labels=every).tolist(),
        "pr_curves": {
            "micro": _curve(positives.ravel(), scores.ravel()),
            "per_class": {
                str(classes[index]): _curve(positives[:, index], scores[:, index]) for index in sorted(drawn)
            },
        },
        "reliability": _reliability(scores.max(-1), truth == predicted),
    }


def _labelled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labelled samples, checked, on the CPU, the logits in float64."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise LimbeckError(
            "classification metrics: expected logits (samples, classes) and labels (samples,), got "
            f"{tuple(logits.shape)} and {tuple(labels.shape)}; flatten other dimensions into samples first"
        )
    logits, labels = logits.detach().cpu().double(), labels.detach().cpu().long()
    labels_in_range(labels, logits.shape[1], "classification metrics")
    labelled = labels != UNLABELLED
    logits, labels = logits[labelled], labels[labelled]
    if len(labels) == 0:
        raise LimbeckError(
            "classification metrics: no sample has a label (all are -1); evaluate on a split that has labels"
        )
    # A logit of -inf rules a class out, which is fine; NaN or +inf leaves no probabilities.
    broken = int(logits.softmax(-1).isnan().any(-1).sum())
    if broken:
        raise LimbeckError(
            f"classification metrics: the logits of {broken} of {len(labels)} samples are NaN or infinite; "
            "training diverged: lower the learning rate, or train in float32 or bfloat16"
        )
    return logits, labels


def _one_hot(truth: NDArray[np.int64], classes: int) -> NDArray[np.int8]:
    return np.eye(classes, dtype=np.int8)[truth]


def _matthews(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> float:
    true, said = (np.bincount(each, minlength=classes).astype(np.float64) for each in (truth, predicted))
    samples, right = float(len(truth)), float((truth == predicted).sum())
    spread = np.sqrt((samples**2 - true @ true) * (samples**2 - said @ said))
    return float((right * samples - true @ said) / spread) if spread > 0 else 0.0


def _average_precisions(positives: NDArray[np.int8], scores: Floats) -> list[float]:
    """Average precision of each column; each has at least one positive."""
    return [float(average_precision_score(p, s)) for p, s in zip(positives.T, scores.T, strict=True)]


def _curve(positives: NDArray[np.int8], scores: Floats) -> dict[str, list[float]]:
    """Precision where each of 60 evenly spaced recalls is first reached, recall rising."""
    precision, recall, _ = precision_recall_curve(positives, scores)
    precision, recall = precision[::-1], recall[::-1]
    kept = np.unique(np.searchsorted(recall, np.linspace(0.0, 1.0, CURVE_POINTS), side="left"))
    return {"recall": recall[kept].tolist(), "precision": precision[kept].tolist()}


def _reliability(confidence: Floats, right: NDArray[np.bool_]) -> dict[str, list[Any]]:
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = [np.bincount(bins, weights=w, minlength=CALIBRATION_BINS) for w in (confidence, right)]
    means = [[float(s / n) if n else None for s, n in zip(total, count, strict=True)] for total in sums]
    return {"confidence": means[0], "accuracy": means[1], "count": count.tolist()}
