"""How right a model is where a sample has several labels, or a number."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from torch import Tensor

from limbeck.errors import LimbeckError

Floats = NDArray[np.float64]


def multilabel_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The numbers of a classifier whose classes are each a yes or a no, as fractions in [0, 1].

    `logits` (samples, classes); `labels` (samples, classes) 0 or 1, negative or NaN where a class of a sample is
    unlabelled, which then counts nowhere. A class is said where its probability is above 0.5.

    - `accuracy`: samples whose labelled classes are all right (subset accuracy);
    - `micro_f1`: F1 of all decisions together; `macro_f1`: the mean F1 of the classes that occur in the labels or the
      predictions; both are left out where no class occurs in either;
    - `map`: average precision, averaged over the classes that occur in the labels; left out where none does.

    Raises:
        LimbeckError: shapes do not fit, nothing is labelled, or logits are NaN.
    """
    what = "multi-label metrics"
    if logits.ndim != 2 or logits.shape != labels.shape:
        raise LimbeckError(
            f"{what}: expected logits and labels of one shape (samples, classes), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}; class indices go to classification_metrics"
        )
    scores, truth = _array(logits), _array(labels)
    known = truth >= 0  # NaN compares as false
    _check(scores[known], what)
    positive, said = known & (truth > 0.5), known & (scores > 0)
    labelled = known.any(1)
    hits, wrong = (positive & said).sum(0), (positive ^ said).sum(0)
    metrics = {"accuracy": float((positive == said).all(1)[labelled].mean())}
    occurs = hits + wrong > 0
    if occurs.any():
        metrics["micro_f1"] = float(2 * hits.sum() / (2 * hits.sum() + wrong.sum()))
        metrics["macro_f1"] = float((2 * hits[occurs] / (2 * hits[occurs] + wrong[occurs])).mean())
    precisions = [
        float(average_precision_score(positive[rows, index], scores[rows, index]))
        for index, rows in enumerate(known.T)
        if positive[:, index].any()
    ]
    return metrics | ({"map": float(np.mean(precisions))} if precisions else {})


def regression_metrics(predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """The numbers of a model that predicts a number.

    `predictions` and `labels` (samples,), the latter NaN where unlabelled.

    - `mse`, `mae`: the mean squared and the mean absolute difference, in the labels' unit, squared and as it is;
    - `pearson`, `spearman`: the correlation of predictions and labels, and of their ranks, in [-1, 1]; 0 where either
      are all the same.

    Raises:
        LimbeckError: shapes do not fit, no sample is labelled, or predictions are NaN or infinite.
    """
    what = "regression metrics"
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise LimbeckError(
            f"{what}: expected predictions and labels of one shape (samples,), got {tuple(predictions.shape)} and "
            f"{tuple(labels.shape)}; squeeze a last dimension of one"
        )
    values, truth = _array(predictions), _array(labels)
    known = ~np.isnan(truth)
    values, truth = values[known], truth[known]
    _check(values, what)
    apart = values - truth
    return {
        "mse": float(np.mean(apart**2)),
        "mae": float(np.mean(np.abs(apart))),
        "pearson": _correlation(values, truth),
        "spearman": _correlation(rankdata(values), rankdata(truth)),
    }


def _array(values: Tensor) -> Floats:
    return values.detach().cpu().to(torch.float64).numpy()


def _check(values: Floats, what: str) -> None:
    """Raises LimbeckError unless there are labelled values, all of them finite."""
    if values.size == 0:
        raise LimbeckError(f"{what}: no sample has a label; evaluate on a split that has labels")
    broken = int((~np.isfinite(values)).sum())
    if broken:
        raise LimbeckError(
            f"{what}: {broken} of {values.size} outputs are NaN or infinite; training diverged: lower the learning "
            "rate, or train in float32 or bfloat16"
        )


def _correlation(one: Floats, other: Floats) -> float:
    one, other = one - one.mean(), other - other.mean()
    spread = np.sqrt(one @ one) * np.sqrt(other @ other)
    return float(np.clip(one @ other / spread, -1, 1)) if spread > 0 else 0.0
