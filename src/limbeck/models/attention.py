"""The attention maps of transformers models, which only their eager attention gives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import is_transformers

log = logging.getLogger(__name__)

EAGER = "eager"


def attends(model: nn.Module) -> bool:
    """Whether `model` is a transformers model with attention of one kind in all its layers."""
    inner: Any = unwrapped(model)
    if not is_transformers(inner) or inner.config.is_encoder_decoder:
        return False
    config = inner.config.get_text_config()
    # Models that change their resolution list the heads of each stage.
    return all(type(getattr(config, each, None)) is int for each in ("num_attention_heads", "num_hidden_layers"))


def attend_eagerly(model: nn.Module, owner: str) -> None:
    """Has a transformers model compute attention step by step from now on, so that it gives the maps.

    Fused attention (sdpa, flash) never writes them down. The answers stay the same up to rounding.
    """
    inner: Any = unwrapped(model)
    if _can_switch(inner):
        inner.set_attn_implementation(EAGER)
        log.warning(
            "the %s %s computes attention eagerly from now on, because a term needs its maps; it takes more time and "
            "memory than fused attention",
            owner,
            type(inner).__name__,
        )


@contextmanager
def attending_eagerly(model: nn.Module) -> Iterator[None]:
    """Runs the block with eager attention, and puts the model's own back."""
    inner: Any = unwrapped(model)
    if not _can_switch(inner):
        yield
        return
    configs = [module.config for module in inner.modules() if is_transformers(module)]
    before = [config._attn_implementation for config in configs]
    inner.set_attn_implementation(EAGER)
    try:
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation


def _can_switch(model: Any) -> bool:
    switches = is_transformers(model) and model._can_set_attn_implementation()
    return switches and model.config.get_text_config()._attn_implementation != EAGER
