"""The last linear layer of a language model, and what the model does to its logits afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import is_transformers

MORE = "final_logits_bias"


@dataclass(frozen=True, slots=True)
class HeadPlace:
    """Where a model makes its logits: `softcap(scale · (layer(hidden) + more))`, `more` being a buffer of `owner`."""

    layer: nn.Linear
    scale: float
    softcap: float | None
    owner: nn.Module | None = None

    def bias(self) -> Tensor | None:
        """All that is added to the product, (vocabulary,). It is asked for anew, as a model's buffers may move."""
        if self.owner is None:
            return self.layer.bias
        more = self.owner.get_buffer(MORE).squeeze(0)
        return more if self.layer.bias is None else self.layer.bias + more


def is_causal_lm(model: nn.Module) -> bool:
    """Whether `model` is a transformers model that predicts each next token from those before it."""
    inner: Any = unwrapped(model)
    return is_transformers(inner) and bool(inner.can_generate()) and not inner.config.is_encoder_decoder


def is_seq2seq_lm(model: nn.Module) -> bool:
    """Whether `model` is a transformers encoder-decoder that predicts the tokens of a target from a source's."""
    inner: Any = unwrapped(model)
    if not is_transformers(inner) or not inner.config.is_encoder_decoder:
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as KNOWN

    return any(kind.__name__ in KNOWN.values() for kind in type(inner).__mro__)


def head_place(model: nn.Module) -> HeadPlace | None:
    """The head of a language model; None where it is not a plain linear layer of its own, run eagerly.

    Gemma bends logits by `final_logit_softcapping`, Cohere multiplies them by `logit_scale`, Granite divides them by
    `logits_scaling`, BART and Marian add `final_logits_bias`.
    """
    inner: Any = unwrapped(model)
    if not (is_causal_lm(model) or is_seq2seq_lm(model)) or hasattr(model, "_orig_mod"):
        return None
    layer = inner.get_output_embeddings()
    # A head with a forward of its own is moved about by accelerate, or wrapped by an adapter.
    if type(layer) is not nn.Linear or "forward" in vars(layer) or type(layer.weight) is not nn.Parameter:
        return None
    config = inner.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    owner = inner if MORE in inner._buffers else None
    return HeadPlace(layer, scale, float(softcap) if softcap else None, owner)
