"""Losses between answers in different vocabularies."""

from __future__ import annotations

from limbeck.losses.cross_tokenizer import ULD
from limbeck.losses.methods.method import Method

CROSS_TOKENIZER: tuple[Method, ...] = (
    Method(
        module=ULD,
        family="response",
        needs="teacher logits",
        says="the distance of sorted probabilities, for models whose vocabularies differ",
        paper="Boizard et al. 2024",
        arxiv="2402.12030",
        weight=1.5,
        supervised_weight=1.0,
        weights="λ = 1.5 in the paper",
    ),
)
