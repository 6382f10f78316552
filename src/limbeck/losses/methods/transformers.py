"""Losses on several stages together, and on what only transformers have."""

from __future__ import annotations

from limbeck.losses.attention_maps import AttentionMSE
from limbeck.losses.methods.method import Method
from limbeck.losses.review import ReviewKD
from limbeck.losses.self_attention import MiniLM

TRANSFORMERS: tuple[Method, ...] = (
    Method(
        module=ReviewKD,
        family="features",
        needs="as many taps on both models, shallow to deep",
        says="mean squared differences at several scales, of each stage fused with all deeper ones",
        paper="Chen et al. 2021",
        arxiv="2104.09044",
        weight=1.0,
        supervised_weight=1.0,
        weights="warmed up over 20 epochs: the authors' code, where the weight is 0.6 to 8 by pair",
        warmup=20.0,
    ),
    Method(
        module=AttentionMSE,
        family="transformers",
        needs="attention matrices of both models",
        says="the mean squared difference of attention matrices",
        paper="Jiao et al. 2020 (TinyBERT)",
        arxiv="1909.10351",
        weight=1.0,
        supervised_weight=0.0,
        weights="the paper, beside hidden states (`feature-mse`) and without labels",
    ),
    Method(
        module=MiniLM,
        family="transformers",
        needs="queries, keys and values of both models, or some of them",
        says="KL divergences of how tokens relate to one another by queries, by keys and by values",
        paper="Wang et al. 2021 (MiniLMv2), 2020 (MiniLM)",
        arxiv="2012.15828",
        weight=1.0,
        supervised_weight=0.0,
        weights="the papers distil without labels",
    ),
)
