"""Losses: pure functions by family, one value an item, each with a thin module that stores its settings."""

from __future__ import annotations

from limbeck.losses.adaptive import AKL, akl
from limbeck.losses.alignment import CKA, cka
from limbeck.losses.attention import AT, at
from limbeck.losses.attention_maps import AttentionMSE, attention_mse
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.channel_relations import ICKD, ickd
from limbeck.losses.channels import CWD, cwd
from limbeck.losses.class_centres import ClassCentres, class_centres
from limbeck.losses.congruence import CC, cc
from limbeck.losses.contrastive import CRD, crd
from limbeck.losses.cross_tokenizer import ULD, uld
from limbeck.losses.curriculum import CTKD, AnnealedKD, ctkd
from limbeck.losses.decoupled import DKD, NKD, dkd, nkd
from limbeck.losses.detection.boxes import BoxGIoU, BoxIoU, box_giou, box_iou
from limbeck.losses.detection.cross_head import CrossHead, cross_head
from limbeck.losses.detection.fgd import FGD, fgd
from limbeck.losses.detection.localization import Localization, localization
from limbeck.losses.detection.model_loss import ModelLoss, model_loss
from limbeck.losses.detection.quality import QualityFocal, quality_focal
from limbeck.losses.detection.queries import QueryMatching, query_matching
from limbeck.losses.detection.soft_boxes import SoftBoxes, soft_boxes
from limbeck.losses.dist import DIST, dist
from limbeck.losses.embeddings import EmbeddingCosine, EmbeddingL2, embedding_cosine, embedding_l2
from limbeck.losses.exits import BYOT, OFA, ExitKD, byot, ofa
from limbeck.losses.features import FeatureCosine, FeatureMSE, feature_cosine, feature_mse
from limbeck.losses.flow import FSP, fsp
from limbeck.losses.heatmaps import HeatmapMSE, SupervisedHeatmaps, heatmap_error, heatmap_mse
from limbeck.losses.margins import ArcFace, CosFace, margin_softmax
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
from limbeck.losses.simcc import SimCCKD, SupervisedSimCC, simcc_error, simcc_kd
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
    "FGD",
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
    "ArcFace",
    "AttentionMSE",
    "BoxGIoU",
    "BoxIoU",
    "ClassCentres",
    "CosFace",
    "CrossHead",
    "EmbeddingCosine",
    "EmbeddingL2",
    "ExitKD",
    "FeatureCosine",
    "FeatureMSE",
    "GeneralizedJSD",
    "HeatmapMSE",
    "Localization",
    "LogitMSE",
    "Loss",
    "LossInput",
    "Method",
    "MiniLM",
    "ModelLoss",
    "QualityFocal",
    "QueryMatching",
    "RKDAngle",
    "RKDDistance",
    "ReverseKL",
    "ReviewKD",
    "SigmoidKD",
    "SimCCKD",
    "SkewKL",
    "SkewReverseKL",
    "SoftBoxes",
    "Standardized",
    "Supervised",
    "SupervisedBCE",
    "SupervisedHeatmaps",
    "SupervisedMSE",
    "SupervisedSimCC",
    "TfKD",
    "Weighted",
    "akl",
    "at",
    "attention_mse",
    "binary_cross_entropy",
    "box_giou",
    "box_iou",
    "byot",
    "cc",
    "cka",
    "class_centres",
    "crd",
    "cross_entropy",
    "cross_head",
    "ctkd",
    "cwd",
    "dist",
    "dkd",
    "embedding_cosine",
    "embedding_l2",
    "feature_cosine",
    "feature_mse",
    "fgd",
    "fsp",
    "generalized_jsd",
    "heatmap_error",
    "heatmap_mse",
    "hierarchical_context",
    "ickd",
    "kd",
    "localization",
    "logit_mse",
    "margin_softmax",
    "mgd",
    "minilm",
    "mlkd",
    "model_loss",
    "nkd",
    "nst",
    "ofa",
    "pkd",
    "pkt",
    "quality_focal",
    "query_matching",
    "reverse_kl",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "sigmoid_kd",
    "simcc_error",
    "simcc_kd",
    "skew_kl",
    "skew_reverse_kl",
    "soft_boxes",
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
