"""How well embeddings tell persons apart: verification of pairs, and identification among a gallery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError

FARS = {"tar_far2": 1e-2, "tar_far3": 1e-3}
"""The false accept rates at which true accept rates are measured."""

CURVE_POINTS = 200
CHUNK = 1024
"""Queries that are searched for at a time."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]


def pair_scores(first: Tensor, second: Tensor) -> Floats:
    """Cosines (pairs,) of embeddings (pairs, width).

    Raises:
        LimbeckError: the shapes differ, or numbers are not finite.
    """
    if first.shape != second.shape or first.dim() != 2:
        raise LimbeckError(
            f"verification: expected embeddings (pairs, width) of one shape, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}; bring both to one width"
        )
    scores: Floats = F.cosine_similarity(first.double(), second.double(), dim=1).cpu().numpy()
    if not np.isfinite(scores).all():
        raise LimbeckError(
            f"verification: the embeddings of {int((~np.isfinite(scores)).sum())} of {len(scores)} pairs are NaN or "
            "infinite; training diverged: lower the learning rate, or train in float32 or bfloat16"
        )
    return scores


@dataclass(frozen=True, slots=True, eq=False)
class Verified:
    """Pairs with their scores, (pairs,): a score at or above a threshold accepts a pair as one person. `same` is the
    truth, and `folds` say which pairs are decided together.

    Raises:
        LimbeckError: lengths differ, pairs are of one kind only, or there are fewer than two folds.
    """

    scores: Floats
    same: Bools
    folds: Integers

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.same) == len(self.folds):
            raise LimbeckError(
                f"verification: expected a score, a truth and a fold for each pair, got {len(self.scores)}, "
                f"{len(self.same)} and {len(self.folds)}"
            )
        if self.same.all() or not self.same.any():
            raise LimbeckError("verification: all pairs are of one kind; it needs pairs of one person and of two")
        if len(np.unique(self.folds)) < 2:
            raise LimbeckError(
                "verification: expected two folds or more, as the threshold of each comes from the others, got one"
            )

    def metrics(self) -> dict[str, float]:
        """`accuracy`, the mean over folds of the share decided rightly (LFW's protocol, Huang et al. 2007); `auc`, the
        area under the ROC curve; `eer`, the error where false accepts and false rejects are as frequent; `tar_far2` and
        `tar_far3`, the share of pairs of one person that are accepted where at most 1 in 100 and 1 in 1,000 pairs of
        two are."""
        right = self.accepted == self.same
        far, tar = self.curve
        found = {
            "accuracy": float(np.mean([right[self.folds == fold].mean() for fold in np.unique(self.folds)])),
            "auc": float(roc_auc_score(self.same, self.scores)),
            "eer": equal_error_rate(far, tar),
        }
        return found | {name: true_accept_rate(far, tar, rate) for name, rate in FARS.items()}

    @property
    def thresholds(self) -> Floats:
        """The threshold of each pair (pairs,): that which decides most pairs of the other folds rightly."""
        found = np.empty(len(self.scores))
        for fold in np.unique(self.folds):
            mine = self.folds == fold
            found[mine] = best_threshold(self.scores[~mine], self.same[~mine])
        return found

    @property
    def accepted(self) -> Bools:
        """Which pairs are taken for one person, (pairs,)."""
        return self.scores >= self.thresholds

    @property
    def curve(self) -> tuple[Floats, Floats]:
        """False and true accept rates, (points,) each and rising, as of scikit-learn's `roc_curve`."""
        far, tar, _ = roc_curve(self.same, self.scores, drop_intermediate=False)
        return far, tar

    def drawn(self) -> dict[str, list[float]]:
        """The curve for a figure: `far` and `tar`, at most 200 points, evenly spaced in the logarithm of `far`, from
        the least that these pairs can tell."""
        far, tar = self.curve
        least = 1.0 / int((~self.same).sum())
        wanted = np.unique(np.geomspace(least, 1.0, CURVE_POINTS))
        at = np.searchsorted(far, wanted, side="right") - 1
        return {"far": wanted.tolist(), "tar": tar[at].tolist()}

    def doubts(self) -> list[str]:
        """What these pairs are too few to say, in a line each."""
        strangers = int((~self.same).sum())
        return [
            f"a false accept rate of {rate:g} needs {round(1 / rate):,} pairs of two persons or more, and there are "
            f"{strangers:,}: the true accepts are those at which none of them is accepted"
            for rate in FARS.values()
            if strangers * rate < 1.0
        ]


def best_threshold(scores: Floats, same: Bools) -> float:
    """The threshold that decides most pairs (pairs,) rightly, half-way between two scores; of several the middle."""
    order = np.argsort(-scores, kind="stable")
    ranked, truth = scores[order], same[order]
    # Of the first k in rank accepted: the same among them, and the others among the rest, are right.
    right = np.concatenate([[0], np.cumsum(truth)]) + np.concatenate([[0], np.cumsum(truth - 1)]) + (~truth).sum()
    between = np.concatenate([[ranked[0] + 1.0], (ranked[:-1] + ranked[1:]) / 2.0, [ranked[-1] - 1.0]])
    # Equal scores cannot be told apart.
    possible = np.concatenate([[True], ranked[:-1] > ranked[1:], [True]])
    best = np.flatnonzero(possible & (right == right[possible].max()))
    return float(between[best[len(best) // 2]])


def true_accept_rate(far: Floats, tar: Floats, rate: float) -> float:
    """The largest `tar` where `far` is at most `rate`."""
    return float(tar[far <= rate].max())


def equal_error_rate(far: Floats, tar: Floats) -> float:
    """Where false accepts and false rejects are as frequent, on straight lines between the points of the curve."""
    apart = far - (1.0 - tar)
    after = int(np.argmax(apart >= 0.0))
    if after == 0:
        return float(far[0])
    share = -apart[after - 1] / (apart[after] - apart[after - 1])
    return float(far[after - 1] + share * (far[after] - far[after - 1]))


def identification(queries: Tensor, gallery: Tensor, labels: Tensor) -> dict[str, float]:
    """`rank1`: the share of queries whose nearest in the gallery is of the same person.

    The gallery holds the first picture of each person, all others are queries; empty where nobody has two.

    Args:
        queries, gallery: (n, width), embeddings of the same pictures, which two models may have made.
        labels: (n,) int64, who is in each.

    Raises:
        LimbeckError: shapes do not fit.
    """
    if queries.shape != gallery.shape or labels.shape != queries.shape[:1]:
        raise LimbeckError(
            f"identification: expected embeddings (n, width) of one shape and labels (n,), got {tuple(queries.shape)}, "
            f"{tuple(gallery.shape)} and {tuple(labels.shape)}"
        )
    persons, first = np.unique(labels.cpu().numpy(), return_index=True)
    asked = torch.ones(len(labels), dtype=torch.bool)
    asked[torch.from_numpy(first)] = False
    if not bool(asked.any()):
        return {}
    known = F.normalize(gallery[torch.from_numpy(first)].float(), dim=1)
    named = torch.from_numpy(persons)
    wanted, truth = F.normalize(queries[asked].float(), dim=1), labels[asked]
    right = [
        named[(part @ known.t()).argmax(1)] == own
        for part, own in zip(wanted.split(CHUNK), truth.split(CHUNK), strict=True)
    ]
    return {"rank1": float(torch.cat(right).double().mean())}
