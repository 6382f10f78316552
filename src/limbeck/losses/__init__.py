"""Losses: pure functions by family, one value an item, each with a thin module that stores its settings."""

from __future__ import annotations

from limbeck.losses.base import Loss, LossInput
from limbeck.losses.decoupled import DKD, NKD, dkd, nkd
from limbeck.losses.dist import DIST, dist
from limbeck.losses.features import FeatureMSE, feature_mse
from limbeck.losses.methods import METHODS, Method
from limbeck.losses.multilabel import SigmoidKD, sigmoid_kd
from limbeck.losses.response import (
    KD,
    GeneralizedJSD,
    LogitMSE,
    ReverseKL,
    SkewKL,
    SkewReverseKL,
    generalized_jsd,
    kd,
    logit_mse,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
)
from limbeck.losses.standardize import Standardized, standardize
from limbeck.losses.supervised import Supervised, SupervisedBCE, binary_cross_entropy, cross_entropy

__all__ = [
    "DIST",
    "DKD",
    "KD",
    "METHODS",
    "NKD",
    "FeatureMSE",
    "GeneralizedJSD",
    "LogitMSE",
    "Loss",
    "LossInput",
    "Method",
    "ReverseKL",
    "SigmoidKD",
    "SkewKL",
    "SkewReverseKL",
    "Standardized",
    "Supervised",
    "SupervisedBCE",
    "binary_cross_entropy",
    "cross_entropy",
    "dist",
    "dkd",
    "feature_mse",
    "generalized_jsd",
    "kd",
    "logit_mse",
    "nkd",
    "reverse_kl",
    "sigmoid_kd",
    "skew_kl",
    "skew_reverse_kl",
    "standardize",
]
