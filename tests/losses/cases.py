"""The losses that the contract is tried on, each with its reference and what holds at equality."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tests.losses import reference as naive
from tests.losses import reference_answers as answers
from torch import Tensor

from limbeck.losses import (
    CTKD,
    DIST,
    DKD,
    KD,
    MLKD,
    NKD,
    TTM,
    WSLD,
    WTTM,
    AnnealedKD,
    FeatureCosine,
    FeatureMSE,
    GeneralizedJSD,
    LogitMSE,
    Loss,
    ReverseKL,
    SigmoidKD,
    SkewKL,
    SkewReverseKL,
    Standardized,
    Supervised,
    SupervisedBCE,
    TfKD,
    Weighted,
)

BATCH, CLASSES = 7, 5
CLASS_WEIGHTS = [0.5, 1.0, 2.0, 0.0, 1.5]

Naive = Callable[[naive.Rows, naive.Rows, naive.Labels, naive.Rows], list[float]]


@dataclass(frozen=True)
class Case:
    """A loss with settings, and its reference of (student, teacher, labels, targets).

    `at_equality` says what holds where the student's signal is the teacher's: "zero" and smallest, or the
    reason why that is not asked; `slack` is how far from 0 it may be. `excludes`: whether −inf on both sides
    removes a class. `whole`: whether the gradient is that of the value, with no part of it taken as constant.
    """

    name: str
    loss: Loss
    naive: Naive
    at_equality: str = "zero"
    excludes: bool = False
    slack: float = 1e-9
    whole: bool = True


NO_TEACHER = "compares with labels, not with a teacher"
CROSS_ENTROPY = "a cross-entropy: the target's part pulls past the teacher (see test_decoupled)"
SMOOTHER = "smallest where the student is as smooth as the transformed teacher (see test_transformed)"
NOT_EVERY_ITEM = "0 too where an item counts for nothing (see test_weighted, test_multilevel)"
LEVELS = (2.0, 3.0, 4.0, 5.0, 6.0)
LEARNED = 1.0 + 20.0 / (1.0 + math.exp(-1.0))


def _jsd(name: str, loss: Loss, temperature: float, beta: float) -> Case:
    return Case(name, loss, lambda s, t, _l, _y: naive.jsd(s, t, temperature, beta), excludes=True)


def _skew(name: str, loss: Loss, temperature: float, alpha: float, *, reverse: bool) -> Case:
    return Case(name, loss, lambda s, t, _l, _y: naive.skewed(s, t, temperature, alpha, reverse), excludes=True)


CASES = [
    _jsd("kd-T1", KD(1.0), 1.0, 0.0),
    _jsd("kd-T4", KD(4.0), 4.0, 0.0),
    _jsd("reverse-kl-T2", ReverseKL(2.0), 2.0, 1.0),
    _jsd("jsd-half", GeneralizedJSD(3.0, 0.5), 3.0, 0.5),
    _jsd("jsd-tenth", GeneralizedJSD(1.0, 0.1), 1.0, 0.1),
    _jsd("jsd-0", GeneralizedJSD(2.0, 0.0), 2.0, 0.0),
    _jsd("jsd-1", GeneralizedJSD(2.0, 1.0), 2.0, 1.0),
    _skew("skew-kl", SkewKL(1.0), 1.0, 0.1, reverse=False),
    _skew("skew-kl-T3", SkewKL(3.0, 0.4), 3.0, 0.4, reverse=False),
    _skew("skew-reverse-kl", SkewReverseKL(1.0), 1.0, 0.1, reverse=True),
    _skew("skew-reverse-kl-T3", SkewReverseKL(3.0, 0.4), 3.0, 0.4, reverse=True),
    Case("logit-mse", LogitMSE(), lambda s, t, _l, _y: naive.mean_square(s, t)),
    Case("feature-mse", FeatureMSE(), lambda s, t, _l, _y: naive.mean_square(s, t)),
    Case("feature-cosine", FeatureCosine(), lambda s, t, _l, _y: naive.one_minus_cosine(s, t)),
    Case("dkd", DKD(), lambda s, t, lab, _y: naive.dkd(s, t, lab, 1.0, 8.0, 4.0), excludes=True),
    Case("dkd-T1", DKD(2.0, 0.5, 1.0), lambda s, t, lab, _y: naive.dkd(s, t, lab, 2.0, 0.5, 1.0), excludes=True),
    Case("nkd", NKD(), lambda s, t, lab, _y: naive.nkd(s, t, lab, 1.5, 1.0), CROSS_ENTROPY, excludes=True),
    Case("nkd-T2", NKD(0.5, 2.0), lambda s, t, lab, _y: naive.nkd(s, t, lab, 0.5, 2.0), CROSS_ENTROPY, True),
    # The 1e-8 that DIST adds to a product of small norms, times T², leaves this slack.
    Case("dist", DIST(), lambda s, t, _l, _y: naive.dist(s, t, 1.0, 1.0, 1.0), slack=1e-4),
    Case("dist-T4", DIST(2.0, 0.5, 4.0), lambda s, t, _l, _y: naive.dist(s, t, 2.0, 0.5, 4.0), slack=1e-4),
    Case(
        "standardized-kd",
        Standardized(),
        lambda s, t, _l, _y: naive.jsd(naive.standardized(s), naive.standardized(t), 2.0, 0.0),
    ),
    Case(
        "standardized-dkd",
        Standardized(DKD(temperature=2.0)),
        lambda s, t, lab, _y: naive.dkd(naive.standardized(s), naive.standardized(t), lab, 1.0, 8.0, 2.0),
    ),
    Case("sigmoid-kd", SigmoidKD(), lambda s, t, _l, _y: naive.sigmoid_kd(s, t, 1.0)),
    Case("sigmoid-kd-T3", SigmoidKD(3.0), lambda s, t, _l, _y: naive.sigmoid_kd(s, t, 3.0)),
    Case(
        "supervised",
        Supervised(),
        lambda s, _t, lab, _y: naive.cross_entropy(s, lab, 0.0, [1.0] * CLASSES),
        NO_TEACHER,
    ),
    Case(
        "supervised-weighted",
        Supervised(0.1, CLASS_WEIGHTS),
        lambda s, _t, lab, _y: naive.cross_entropy(s, lab, 0.1, CLASS_WEIGHTS),
        NO_TEACHER,
    ),
    Case(
        "supervised-bce",
        SupervisedBCE(),
        lambda s, _t, _l, y: naive.binary_cross_entropy(s, y, [1.0] * CLASSES),
        NO_TEACHER,
    ),
    Case(
        "supervised-bce-weighted",
        SupervisedBCE(CLASS_WEIGHTS),
        lambda s, _t, _l, y: naive.binary_cross_entropy(s, y, CLASS_WEIGHTS),
        NO_TEACHER,
    ),
    Case("mlkd", MLKD(), lambda s, t, _l, _y: answers.mlkd(s, t, LEVELS)),
    Case(
        "mlkd-least-sure",
        MLKD((1.0, 4.0), 0.5, 2.0, 3.0, least_sure=0.5),
        lambda s, t, _l, _y: answers.mlkd(s, t, (1.0, 4.0), (0.5, 2.0, 3.0), 0.5),
        NOT_EVERY_ITEM,
    ),
    Case("ttm", TTM(), lambda s, t, _l, _y: answers.ttm(s, t, 10.0, weighted=False), SMOOTHER, excludes=True),
    Case("ttm-T1", TTM(1.0), lambda s, t, _l, _y: answers.ttm(s, t, 1.0, weighted=False), excludes=True),
    Case("wttm", WTTM(5.0), lambda s, t, _l, _y: answers.ttm(s, t, 5.0, weighted=True), SMOOTHER, excludes=True),
    Case("wsld", WSLD(), lambda s, t, lab, _y: answers.wsld(s, t, lab, 2.0), excludes=True, whole=False),
    Case("ctkd", CTKD(), lambda s, t, _l, _y: answers.kd(s, t, LEARNED), excludes=True),
    Case("annealed-kd", AnnealedKD(3.0), lambda s, t, _l, _y: answers.kd(s, t, 3.0), excludes=True),
    Case("tf-kd", TfKD(), lambda s, _t, lab, _y: answers.tf_kd(s, lab, 0.99, 20.0), NO_TEACHER),
    Case("tf-kd-T3", TfKD(0.9, 3.0, 3.0), lambda s, _t, lab, _y: answers.tf_kd(s, lab, 0.9, 3.0, 3.0), NO_TEACHER),
    Case(
        "weighted-correct",
        Weighted(),
        lambda s, t, lab, _y: answers.times(answers.right(t, lab), answers.kd(s, t, 4.0)),
        NOT_EVERY_ITEM,
        excludes=True,
    ),
    Case(
        "weighted-entropy",
        Weighted(DKD(), by="entropy"),
        lambda s, t, lab, _y: answers.times(answers.certainty(t), naive.dkd(s, t, lab, 1.0, 8.0, 4.0)),
    ),
    Case(
        "weighted-confidence",
        Weighted(DIST(), by="confidence"),
        lambda s, t, _l, _y: answers.times(answers.confidence(t), naive.dist(s, t, 1.0, 1.0, 1.0)),
        slack=1e-4,
    ),
]
TAUGHT = [case for case in CASES if case.at_equality != NO_TEACHER]
"""The cases that compare with a teacher."""


@dataclass(frozen=True)
class Data:
    """A small batch of logits (batch, classes), labels (batch,) and targets (batch, classes)."""

    student: Tensor
    teacher: Tensor
    labels: Tensor
    targets: Tensor

    def rows(self, keep: Tensor) -> Data:
        """The same batch with only the items where `keep` is True."""
        return Data(self.student[keep], self.teacher[keep], self.labels[keep], self.targets[keep])


def data(seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 2.0) -> Data:
    """A batch of random logits of standard deviation `scale`."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, BATCH, CLASSES, generator=generator, dtype=torch.float64) * scale
    labels = torch.tensor([3, -1, 0, 4, 2, -1, 1])
    targets = torch.randint(0, 2, (BATCH, CLASSES), generator=generator).to(torch.float64)
    targets[0, 1], targets[2, 3], targets[4] = -1.0, math.nan, -1.0
    return Data(student.to(dtype), teacher.to(dtype), labels, targets)


def value(loss: Loss, student: Tensor, batch: Data, where: Tensor | None = None) -> Tensor:
    """The loss's values for a student's logits, with what the loss asks for taken from the batch."""
    given = {
        "teacher": batch.teacher,
        "labels": batch.targets if isinstance(loss, SupervisedBCE) else batch.labels,
        "where": where,
    }
    values = loss(student, *(given[name] for name in loss.inputs))
    assert isinstance(values, Tensor)
    return values
