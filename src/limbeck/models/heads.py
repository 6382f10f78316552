"""The last linear layer of a causal language model, and what the model does to its logits afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import is_transformers


@dataclass(frozen=True, slots=True)
class HeadPlace:
    """Where a model makes its logits: `softcap(scale · layer(hidden))`."""

    layer: nn.Linear
    scale: float
    softcap: float | None


def is_causal_lm(model: nn.Module) -> bool:
    """Whether `model` is a transformers model that predicts each next token from those before it."""
    inner: Any = unwrapped(model)
    return is_transformers(inner) and bool(inner.can_generate()) and not inner.config.is_encoder_decoder


def head_place(model: nn.Module) -> HeadPlace | None:
    """The head of a causal language model; None where it is not a plain linear layer of its own, run eagerly.

    Gemma bends logits by `final_logit_softcapping`, Cohere multiplies them by `logit_scale`, Granite divides them by
    `logits_scaling`.
    """
    inner: Any = unwrapped(model)
    if not is_causal_lm(model) or hasattr(model, "_orig_mod"):
        return None
    layer = inner.get_output_embeddings()
    # A head with a forward of its own is moved about by accelerate, or wrapped by an adapter.
    if type(layer) is not nn.Linear or "forward" in vars(layer) or type(layer.weight) is not nn.Parameter:
        return None
    config = inner.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return HeadPlace(layer, scale, float(softcap) if softcap else None)
