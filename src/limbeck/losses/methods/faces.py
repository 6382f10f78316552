"""Losses between embeddings of faces, and against identities."""

from __future__ import annotations

from limbeck.losses.class_centres import ClassCentres
from limbeck.losses.embeddings import EmbeddingCosine, EmbeddingL2
from limbeck.losses.margins import ArcFace, CosFace
from limbeck.losses.methods.method import Method

EMBEDDING = "the embedding of both models, a projector where widths differ"

FACES: tuple[Method, ...] = (
    Method(
        module=EmbeddingCosine,
        family="embeddings",
        needs=EMBEDDING,
        says="one minus the cosine of embeddings, squared",
        paper="Duong et al. 2019 (ShrinkTeaNet)",
        arxiv="1905.10620",
        weight=10.0,
        supervised_weight=0.1,
        weights="ours, beside `arcface` on the labels; with power 1 it is `feature-cosine`",
    ),
    Method(
        module=EmbeddingL2,
        family="embeddings",
        needs=EMBEDDING,
        says="the squared distance of embeddings at length 1",
        paper="Yan et al. 2019 (VarGFaceNet)",
        arxiv="1910.04985",
        weight=7.0,
        supervised_weight=1.0,
        weights="the paper's 7, beside `arcface` on the labels",
    ),
    Method(
        module=ClassCentres,
        family="embeddings",
        needs="the embedding of both models, the teacher's class centres, labels (its shares where unlabelled)",
        says="ArcFace at the teacher's class centres; without a label the KL divergence of softmax over them",
        paper="Shi et al. 2020 (ProxylessKD); Boutros et al. 2024 (AdaDistill)",
        arxiv="2011.00265",
        weight=1.0,
        supervised_weight=0.0,
        weights="the papers' only loss; s = 64, margin 0.5",
    ),
    Method(
        module=ArcFace,
        family="labels",
        needs="an embedding, identities, how many there are",
        says="cross-entropy of scaled cosines to learned class centres, with a margin added to the label's angle",
        paper="Deng et al. 2019",
        arxiv="1801.07698",
        weight=1.0,
        supervised_weight=0.0,
        weights="alone; s = 64, margin 0.5 radians (28.6 degrees): the paper's",
    ),
    Method(
        module=CosFace,
        family="labels",
        needs="an embedding, identities, how many there are",
        says="cross-entropy of scaled cosines to learned class centres, with a margin taken from the label's cosine",
        paper="Wang et al. 2018",
        arxiv="1801.09414",
        weight=1.0,
        supervised_weight=0.0,
        weights="alone; s = 64, margin 0.35",
    ),
)
