"""The table of losses: what each is called, what it needs, where it comes from, what to weigh it with."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.losses.base import Loss
from limbeck.losses.decoupled import DKD, NKD
from limbeck.losses.dist import DIST
from limbeck.losses.features import FeatureMSE
from limbeck.losses.multilabel import SigmoidKD
from limbeck.losses.response import KD, GeneralizedJSD, LogitMSE, ReverseKL, SkewKL, SkewReverseKL
from limbeck.losses.standardize import Standardized
from limbeck.losses.supervised import Supervised, SupervisedBCE


@dataclass(frozen=True, slots=True)
class Method:
    """One loss: its entry in `limbeck methods` and docs/methods.md.

    `module` builds with its defaults. `needs` is what a batch must have beside the student's signal. `arxiv`
    is the paper's arXiv id; empty where it has none. `weight` goes with `supervised_weight` on the labels:
    the pair that `weights` gives the source of.
    """

    module: type[Loss]
    family: str
    needs: str
    says: str
    paper: str
    arxiv: str
    weight: float
    supervised_weight: float
    weights: str

    @property
    def name(self) -> str:
        """What a recipe calls the loss."""
        return self.module.name

    @property
    def link(self) -> str:
        """The paper's page; empty where arXiv has none."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


METHODS: tuple[Method, ...] = (
    Method(
        module=KD,
        family="response",
        needs="teacher logits",
        says="T² times the KL divergence of the student's softened probabilities from the teacher's",
        paper="Hinton, Vinyals and Dean 2015",
        arxiv="1503.02531",
        weight=0.9,
        supervised_weight=0.1,
        weights="T = 4, the usual baseline in later papers",
    ),
    Method(
        module=ReverseKL,
        family="response",
        needs="teacher logits",
        says="T² times the KL divergence the other way round, of the teacher's from the student's",
        paper="Gu et al. 2024 (MiniLLM)",
        arxiv="2306.08543",
        weight=0.9,
        supervised_weight=0.1,
        weights="as KD",
    ),
    Method(
        module=GeneralizedJSD,
        family="response",
        needs="teacher logits",
        says="T² times the β-weighted divergences of both from their mixture; β = 0.5 is Jensen-Shannon",
        paper="Agarwal et al. 2024 (GKD); Lin 1991",
        arxiv="2306.13649",
        weight=0.9,
        supervised_weight=0.1,
        weights="as KD",
    ),
    Method(
        module=SkewKL,
        family="response",
        needs="teacher logits",
        says="T² times the KL divergence from the teacher's to a mixture with α of the teacher in the student's",
        paper="Ko et al. 2024 (DistiLLM)",
        arxiv="2402.03898",
        weight=0.9,
        supervised_weight=0.1,
        weights="as KD; α = 0.1 is the paper's",
    ),
    Method(
        module=SkewReverseKL,
        family="response",
        needs="teacher logits",
        says="T² times the KL divergence from the student's to a mixture with α of the student in the teacher's",
        paper="Ko et al. 2024 (DistiLLM)",
        arxiv="2402.03898",
        weight=0.9,
        supervised_weight=0.1,
        weights="as KD; α = 0.1 is the paper's",
    ),
    Method(
        module=LogitMSE,
        family="response",
        needs="teacher logits",
        says="the mean squared difference of logits",
        paper="Ba and Caruana 2014",
        arxiv="1312.6184",
        weight=1.0,
        supervised_weight=0.0,
        weights="the paper's student sees no labels",
    ),
    Method(
        module=DKD,
        family="decoupled",
        needs="teacher logits, labels (the teacher's top class where unlabelled)",
        says="T² times α · KL of target against the rest, plus β · KL among the rest",
        paper="Zhao et al. 2022",
        arxiv="2203.08679",
        weight=1.0,
        supervised_weight=1.0,
        weights="α = 1, β = 8, T = 4: the authors' code, which warms the weight up over 20 epochs",
    ),
    Method(
        module=NKD,
        family="decoupled",
        needs="teacher logits, labels (the teacher's top class where unlabelled)",
        says="cross-entropy at the target, weighted by the teacher, plus γT² · cross-entropy among the rest",
        paper="Yang et al. 2023",
        arxiv="2303.13005",
        weight=1.0,
        supervised_weight=1.0,
        weights="γ = 1.5, T = 1: the authors' code",
    ),
    Method(
        module=DIST,
        family="relation",
        needs="teacher logits, a batch of several samples",
        says="T² times one minus Pearson's correlation: over a sample's classes, and over a class's samples",
        paper="Huang et al. 2022",
        arxiv="2205.10536",
        weight=2.0,
        supervised_weight=1.0,
        weights="β = γ = 1 in the loss, 2 outside: the paper's β = γ = 2",
    ),
    Method(
        module=Standardized,
        family="wrapper",
        needs="what the wrapped loss needs",
        says="any loss between logits, after each model's logits get mean 0 and deviation 1 over classes",
        paper="Sun et al. 2024",
        arxiv="2403.01427",
        weight=9.0,
        supervised_weight=0.1,
        weights="around KD at T = 2: the authors' code",
    ),
    Method(
        module=SigmoidKD,
        family="multi-label",
        needs="teacher logits",
        says="T² times the mean KL divergence of each class's yes or no",
        paper="Yang et al. 2023 (one-versus-all part)",
        arxiv="2308.06453",
        weight=0.9,
        supervised_weight=0.1,
        weights="as KD, with SupervisedBCE on the labels",
    ),
    Method(
        module=FeatureMSE,
        family="features",
        needs="a tap on both models, a projector where shapes differ",
        says="the mean squared difference of features",
        paper="Romero et al. 2015 (FitNets)",
        arxiv="1412.6550",
        weight=100.0,
        supervised_weight=1.0,
        weights="as in the mdistiller benchmark; depends on the feature's scale",
    ),
    Method(
        module=Supervised,
        family="labels",
        needs="labels",
        says="cross-entropy at the label, which is the negative log-likelihood (NLL)",
        paper="Szegedy et al. 2016 (label smoothing)",
        arxiv="1512.00567",
        weight=1.0,
        supervised_weight=0.0,
        weights="alone; 0.1 beside KD",
    ),
    Method(
        module=SupervisedBCE,
        family="labels",
        needs="targets, one a class",
        says="binary cross-entropy, mean over the labelled classes",
        paper="textbook",
        arxiv="",
        weight=1.0,
        supervised_weight=0.0,
        weights="alone; 0.1 beside SigmoidKD",
    ),
)
