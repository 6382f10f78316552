"""Losses on relations between samples, between channels, and contrastive ones."""

from __future__ import annotations

from limbeck.losses.alignment import CKA
from limbeck.losses.channel_relations import ICKD
from limbeck.losses.congruence import CC
from limbeck.losses.contrastive import CRD
from limbeck.losses.methods.method import Method
from limbeck.losses.probabilistic import PKT
from limbeck.losses.relations import RKD, RKDAngle, RKDDistance
from limbeck.losses.similarity import SP

EMBEDDING = "an embedding of both models, a batch of several samples"

RELATIONS: tuple[Method, ...] = (
    Method(
        module=RKD,
        family="relation",
        needs=EMBEDDING,
        says="25 times `rkd-distance` plus 50 times `rkd-angle`",
        paper="Park et al. 2019",
        arxiv="1904.05068",
        weight=1.0,
        supervised_weight=1.0,
        weights="the RepDistiller benchmark's; the paper's ratio of 1 to 2",
    ),
    Method(
        module=RKDDistance,
        family="relation",
        needs=EMBEDDING,
        says="the Huber distance of distances between samples, each by the batch's mean distance",
        paper="Park et al. 2019",
        arxiv="1904.05068",
        weight=25.0,
        supervised_weight=1.0,
        weights="as in the RepDistiller benchmark",
    ),
    Method(
        module=RKDAngle,
        family="relation",
        needs=EMBEDDING,
        says="the Huber distance of the cosines of angles between any three samples",
        paper="Park et al. 2019",
        arxiv="1904.05068",
        weight=50.0,
        supervised_weight=1.0,
        weights="as in the RepDistiller benchmark",
    ),
    Method(
        module=SP,
        family="relation",
        needs="a tap on both models, a batch of several samples",
        says="the squared differences of how similar features are to those of the batch's other samples",
        paper="Tung and Mori 2019",
        arxiv="1907.09682",
        weight=3000.0,
        supervised_weight=1.0,
        weights="the authors'",
    ),
    Method(
        module=PKT,
        family="relation",
        needs=EMBEDDING,
        says="the KL divergence of similarities to the batch's samples, taken as probabilities",
        paper="Passalis and Tefas 2018",
        arxiv="1803.10837",
        weight=30000.0,
        supervised_weight=1.0,
        weights="as in the RepDistiller benchmark",
    ),
    Method(
        module=CC,
        family="relation",
        needs=EMBEDDING,
        says="the squared differences of correlations between samples, by a Gaussian kernel's Taylor series",
        paper="Peng et al. 2019",
        arxiv="1904.01802",
        weight=100.0,
        supervised_weight=1.0,
        weights="γ = 0.4, order 2: the paper's; the weight is the Knowledge-Distillation-Zoo's for the same kernel",
    ),
    Method(
        module=CKA,
        family="relation",
        needs=EMBEDDING,
        says="one minus the linear centred kernel alignment of the batch's embeddings",
        paper="Kornblith et al. 2019",
        arxiv="1905.00414",
        weight=1.0,
        supervised_weight=1.0,
        weights="ours: the paper measures and does not train; the value is from 0 to 1",
    ),
    Method(
        module=ICKD,
        family="relation",
        needs="a tap on maps or tokens of both models",
        says="the squared differences of correlations between channels, after a learned map of the student's",
        paper="Liu et al. 2021",
        arxiv="2202.03680",
        weight=2.5,
        supervised_weight=1.0,
        weights="the authors'",
    ),
    Method(
        module=CRD,
        family="contrastive",
        needs="an embedding of both models, the samples' ids",
        says="noise-contrastive estimation: a sample's two embeddings against remembered ones of other samples",
        paper="Tian, Krishnan and Isola 2020",
        arxiv="1910.10699",
        weight=0.8,
        supervised_weight=1.0,
        weights="the authors'",
    ),
)
