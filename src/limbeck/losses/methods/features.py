"""Losses between feature maps, and between tokens."""

from __future__ import annotations

from limbeck.losses.attention import AT
from limbeck.losses.channels import CWD
from limbeck.losses.flow import FSP
from limbeck.losses.masked import MGD
from limbeck.losses.methods.method import Method
from limbeck.losses.neurons import NST
from limbeck.losses.pearson import PKD
from limbeck.losses.variational import VID

FEATURES: tuple[Method, ...] = (
    Method(
        module=AT,
        family="features",
        needs="pairs of stages, maps or tokens",
        says="the mean squared difference of attention: which positions have large features, whatever the channel",
        paper="Zagoruyko and Komodakis 2017",
        arxiv="1612.03928",
        weight=1000.0,
        supervised_weight=1.0,
        weights="at each stage: the authors' code",
    ),
    Method(
        module=NST,
        family="features",
        needs="pairs of stages, maps or tokens",
        says="the squared maximum mean discrepancy between channels, as samples of where they are active",
        paper="Huang and Wang 2017",
        arxiv="1707.01219",
        weight=50.0,
        supervised_weight=1.0,
        weights="at each stage: the RepDistiller benchmark",
    ),
    Method(
        module=FSP,
        family="features",
        needs="two stages or more of both models",
        says="the mean squared difference of products between the channels of one stage and those of the next",
        paper="Yim et al. 2017",
        arxiv="",
        weight=50.0,
        supervised_weight=1.0,
        weights="the weight in RepDistiller's script; the paper trains with it first, and then on the labels alone",
    ),
    Method(
        module=VID,
        family="features",
        needs="pairs of stages",
        says="the negative log-likelihood of the teacher's feature under a normal density predicted of the student's",
        paper="Ahn et al. 2019",
        arxiv="1904.05835",
        weight=1.0,
        supervised_weight=1.0,
        weights="at each stage: the RepDistiller benchmark",
    ),
    Method(
        module=MGD,
        family="features",
        needs="the last stage of both models, a projector where shapes differ",
        says="the mean squared difference of the teacher's feature and one made of the student's partly hidden one",
        paper="Yang et al. 2022",
        arxiv="2205.01529",
        weight=1.76,
        supervised_weight=1.0,
        weights="the authors' 7e-5 of the sum over a ResNet-34's 512 · 7 · 7 values, ratio 0.15",
    ),
    Method(
        module=CWD,
        family="features",
        needs="the last stage of both models, a projector where shapes differ",
        says="T² times the KL divergence between where channels are active, as softmax over positions",
        paper="Shu et al. 2021",
        arxiv="2011.13256",
        weight=50.0,
        supervised_weight=1.0,
        weights="on features at T = 4, as in the CIRKD benchmark; on maps of logits 3: the authors' script",
    ),
    Method(
        module=PKD,
        family="features",
        needs="the last stage of both models, a projector where shapes differ, a batch of several samples",
        says="half the mean squared difference of features whose channels got mean 0 and deviation 1 over the batch",
        paper="Cao et al. 2022",
        arxiv="2207.02039",
        weight=10.0,
        supervised_weight=1.0,
        weights="at each level between one-stage detectors, 6 between two-stage ones: the authors' code",
    ),
)
