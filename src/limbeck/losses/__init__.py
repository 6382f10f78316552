"""Losses: pure functions by family, one value an item, each with a thin module that stores its settings."""

from __future__ import annotations

from limbeck.losses.adaptive import AKL, akl
from limbeck.losses.alignment import CKA, cka
from limbeck.losses.attention import AT, at
from limbeck.losses.attention_maps import AttentionMSE, attention_mse
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.channel_relations import ICKD, ickd
from limbeck.losses.channels import CWD, cwd
from limbeck.losses.congruence import CC, cc
from limbeck.losses.contrastive import CRD, crd
from limbeck.losses.cross_tokenizer import ULD, uld
from limbeck.losses.curriculum import CTKD, AnnealedKD, ctkd
from limbeck.losses.decoupled import DKD, NKD, dkd, nkd
from limbeck.losses.dist import DIST, dist
from limbeck.losses.exits import BYOT, OFA, ExitKD, byot, ofa
from limbeck.losses.features import FeatureCosine, FeatureMSE, feature_cosine, feature_mse
from limbeck.losses.flow import FSP, fsp
from limbeck.losses.masked import MGD, mgd
from limbeck.losses.methods import METHODS, Method
from limbeck.losses.multilabel import SigmoidKD, sigmoid_kd
from limbeck.losses.multilevel import MLKD, mlkd
from limbeck.losses.neurons import NST, nst
from limbeck.losses.pearson import PKD, pkd
from limbeck.losses.probabilistic import PKT, pkt
from limbeck.losses.regression import SupervisedMSE, squared_error
from limbeck.losses.relations import RKD, RKDAngle, RKDDistance, rkd, rkd_angle, rkd_distance
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
from limbeck.losses.review import ReviewKD, hierarchical_context
from limbeck.losses.self_attention import MiniLM, minilm
from limbeck.losses.similarity import SP, sp
from limbeck.losses.standardize import Standardized, standardize
from limbeck.losses.supervised import Supervised, SupervisedBCE, binary_cross_entropy, cross_entropy
from limbeck.losses.teacher_free import TfKD, tf_kd
from limbeck.losses.transformed import TTM, WTTM, ttm, wttm
from limbeck.losses.variation import TVD, tvd
from limbeck.losses.variational import VID, vid
from limbeck.losses.weighted import WSLD, Weighted, wsld

__all__ = [
    "AKL",
    "AT",
    "BYOT",
    "CC",
    "CKA",
    "CRD",
    "CTKD",
    "CWD",
    "DIST",
    "DKD",
    "FSP",
    "ICKD",
    "KD",
    "METHODS",
    "MGD",
    "MLKD",
    "NKD",
    "NST",
    "OFA",
    "PKD",
    "PKT",
    "RKD",
    "SP",
    "TTM",
    "TVD",
    "ULD",
    "VID",
    "WSLD",
    "WTTM",
    "AnnealedKD",
    "AttentionMSE",
    "ExitKD",
    "FeatureCosine",
    "FeatureMSE",
    "GeneralizedJSD",
    "LogitMSE",
    "Loss",
    "LossInput",
    "Method",
    "MiniLM",
    "RKDAngle",
    "RKDDistance",
    "ReverseKL",
    "ReviewKD",
    "SigmoidKD",
    "SkewKL",
    "SkewReverseKL",
    "Standardized",
    "Supervised",
    "SupervisedBCE",
    "SupervisedMSE",
    "TfKD",
    "Weighted",
    "akl",
    "at",
    "attention_mse",
    "binary_cross_entropy",
    "byot",
    "cc",
    "cka",
    "crd",
    "cross_entropy",
    "ctkd",
    "cwd",
    "dist",
    "dkd",
    "feature_cosine",
    "feature_mse",
    "fsp",
    "generalized_jsd",
    "hierarchical_context",
    "ickd",
    "kd",
    "logit_mse",
    "mgd",
    "minilm",
    "mlkd",
    "nkd",
    "nst",
    "ofa",
    "pkd",
    "pkt",
    "reverse_kl",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "sigmoid_kd",
    "skew_kl",
    "skew_reverse_kl",
    "sp",
    "squared_error",
    "standardize",
    "tf_kd",
    "ttm",
    "tvd",
    "uld",
    "vid",
    "wsld",
    "wttm",
]
