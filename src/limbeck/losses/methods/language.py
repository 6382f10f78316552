"""Divergences that were proposed for language models."""

from __future__ import annotations

from limbeck.losses.adaptive import AKL
from limbeck.losses.methods.method import Method
from limbeck.losses.variation import TVD

LANGUAGE: tuple[Method, ...] = (
    Method(
        module=TVD,
        family="response",
        needs="teacher logits",
        says="T² times half the sum of the absolute differences of probabilities, the total variation distance",
        paper="Wen et al. 2023 (f-distill)",
        arxiv="2307.15190",
        weight=0.9,
        supervised_weight=0.1,
        weights="as KD, T = 1",
    ),
    Method(
        module=AKL,
        family="response",
        needs="teacher logits",
        says="T² times forward and reverse KL divergence, weighed by the gap in the teacher's head and in its tail",
        paper="Wu et al. 2024 (AKL)",
        arxiv="2404.02657",
        weight=0.9,
        supervised_weight=0.1,
        weights="as KD, T = 1 and μ = 0.5 as in the authors' code",
    ),
)
