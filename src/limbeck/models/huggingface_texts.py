"""transformers models of texts: of the class that a task's head asks for, with the tokenizer's vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from limbeck.errors import LimbeckError, nearest
from limbeck.installed import resolved
from limbeck.models.huggingface import OPTIONS, check_keys, check_options, configuration, first_line, is_model_type
from limbeck.models.spec import Head, ModelSpec, TextShape

log = logging.getLogger(__name__)

_CLASSES: Mapping[Head, tuple[str, str]] = {
    "classification": ("AutoModelForSequenceClassification", "text classification"),
    "seq2seq": ("AutoModelForSeq2SeqLM", "translation (an encoder and a decoder)"),
    "question-answering": ("AutoModelForQuestionAnswering", "question answering"),
    "causal-lm": ("AutoModelForCausalLM", "causal language modelling"),
}
_PROBLEMS = {
    "single-label": "single_label_classification",
    "multi-label": "multi_label_classification",
    "regression": "regression",
}
_STARTS = "decoder_start_token_id"
"""A key that T5's configuration does not have before it is set."""
_DTYPES = ("float32", "float16", "bfloat16", "auto")


def build_huggingface_text(spec: ModelSpec, shape: TextShape, *, trust_code: bool) -> nn.Module:
    """`hf:NAME` for texts, NAME being a hub id, a folder, or (with `pretrained: false`) a model type such as `bert`.

    A bare encoder gets a new head, with a note. Without pretrained weights the vocabulary and the special tokens are
    those of the shape. Options: `pretrained` (default true), `ignore_mismatched_sizes` (default false; true puts a new
    head on weights with other classes), `config` (values that replace those of the model's configuration), `dtype`
    (default float32; `auto` is that of the weights).

    Raises:
        LimbeckError: where the model cannot be had, has no such head or other classes, or does not take the tokens or
            the length of the data.
    """
    import transformers

    check_options(spec, (*OPTIONS, "dtype"))
    pretrained, dtype = bool(spec.options.get("pretrained", True)), spec.options.get("dtype", "float32")
    if dtype not in _DTYPES:
        raise LimbeckError(f"model {spec.name!r}: unknown dtype {dtype!r}{nearest(str(dtype), _DTYPES)}")
    name = resolved(spec.name.removeprefix("hf:"))
    config = configuration(spec, name, pretrained, trust_code)
    config = _configured(spec, shape, config, fresh=not pretrained and is_model_type(name))
    own_pad = config.pad_token_id if pretrained else None
    _ask_for(shape, config)
    _check_vocabulary(spec, shape, config)
    _check_positions(spec.name, shape, config)
    class_name, purpose = _CLASSES[shape.head]
    # Typed loosely: these classes are only partly annotated.
    auto: Any = getattr(transformers, class_name)
    found: dict[str, Any] = {"missing_keys": set(), "mismatched_keys": set()}
    try:
        with quietly():
            if pretrained:
                # Which tensors do not fit is looked at below: their names say whether only the head is new.
                model, found = auto.from_pretrained(
                    name, config=config, ignore_mismatched_sizes=True, output_loading_info=True, dtype=dtype,
                    trust_remote_code=trust_code,
                )  # fmt: skip
            else:
                model = auto.from_config(config, trust_remote_code=trust_code)
                model.to(torch.float32 if dtype == "auto" else getattr(torch, dtype))
    except (OSError, ValueError, RuntimeError, AssertionError, SafetensorError) as error:
        raise LimbeckError(
            f"model {spec.name!r} could not be built ({first_line(error)}); "
            f"check that its files are whole and that transformers has it for {purpose}"
        ) from None
    _check_new(spec, model, found)
    check_length(spec.name, shape, model, own_pad)
    if model.can_generate() and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = shape.pad_id
    assert isinstance(model, nn.Module)
    return model


def _configured(spec: ModelSpec, shape: TextShape, config: Any, *, fresh: bool) -> Any:
    """The configuration with the user's values, and with the shape's where the model is untrained."""
    from huggingface_hub.errors import StrictDataclassError

    given = dict(spec.options.get("config", {}))
    check_keys(spec, config, [key for key in given if key != _STARTS])
    if not spec.options.get("pretrained", True):
        given = _fitting(shape, config) | given
    try:
        if fresh:
            # Made anew rather than changed: some values follow from others, as a head's size from the width.
            config = type(config)(**given)
        config.update(given)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise LimbeckError(
            f"model {spec.name!r}: transformers refuses the option `config` ({' '.join(str(error).split())})"
        ) from None
    return config


def _fitting(shape: TextShape, config: Any) -> dict[str, Any]:
    """The shape's values for an untrained model's configuration, where it has such keys."""
    values = {
        "vocab_size": shape.vocabulary,
        "decoder_vocab_size": shape.vocabulary,
        "pad_token_id": shape.pad_id,
        "bos_token_id": shape.bos_id,
        "eos_token_id": shape.eos_id,
        "forced_eos_token_id": shape.eos_id,
    }
    known = config.to_dict()
    fitting = {key: value for key, value in values.items() if key in known}
    if shape.head == "seq2seq":
        fitting[_STARTS] = _start(shape)
    return fitting


def _start(shape: TextShape) -> int:
    """What a decoder reads before its first token."""
    return shape.pad_id if shape.bos_id is None else shape.bos_id


def _ask_for(shape: TextShape, config: Any) -> None:
    """Sets what the head needs to know."""
    import transformers

    # A classifier on a decoder looks for the last token that is not padding.
    config.pad_token_id = shape.pad_id
    if shape.head == "classification":
        if config.num_labels != shape.num_classes:
            config.num_labels = shape.num_classes
        config.problem_type = _PROBLEMS[shape.problem]
    elif shape.head == "question-answering":
        # Where an answer begins, and where it ends.
        config.num_labels = 2
    elif shape.head == "causal-lm" and type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        # BERT and its like see the tokens to come unless they are told to be decoders.
        config.is_decoder = not config.is_encoder_decoder
    elif shape.head == "seq2seq" and getattr(config, _STARTS, None) is None:
        setattr(config, _STARTS, _start(shape))


def _check_vocabulary(spec: ModelSpec, shape: TextShape, config: Any) -> None:
    for key in ("vocab_size", "decoder_vocab_size"):
        size = getattr(config.get_text_config(), key, None)
        # A vocabulary may be larger: some models fill it up to a round number.
        if isinstance(size, int) and size < shape.vocabulary:
            raise LimbeckError(
                f"model {spec.name!r} knows {size} tokens ({key}), the tokenizer has {shape.vocabulary}; "
                "take the model's own tokenizer, or a tokenizer with a smaller vocabulary"
            )


def check_length(name: str, shape: TextShape, model: Any, own_pad: int | None = None) -> None:
    """Raises LimbeckError where a transformers model cannot read texts as long as the data's.

    `own_pad` is the padding token that its weights were trained with, where that is known.
    """
    _check_positions(name, shape, model.config)
    for path, module in model.named_modules():
        # Models such as RoBERTa count positions from behind the padding token's id, so the first are never used.
        offset = getattr(module, "padding_idx", None) if path.endswith("position_embeddings") else None
        if offset is None:
            continue
        if own_pad is not None and own_pad != shape.pad_id:
            raise LimbeckError(
                f"model {name!r} counts positions from its padding token, which is {own_pad}, and the tokenizer pads "
                f"with {shape.pad_id}; take the model's own tokenizer"
            )
        if module.num_embeddings - offset - 1 < shape.max_length:
            raise _too_long(name, shape, module.num_embeddings - offset - 1, shape.max_length + offset + 1)


def _check_positions(name: str, shape: TextShape, config: Any) -> None:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < shape.max_length:
        raise _too_long(name, shape, positions, shape.max_length)


def _too_long(name: str, shape: TextShape, usable: int, needed: int) -> LimbeckError:
    return LimbeckError(
        f"model {name!r} reads texts of up to {usable} tokens, the data have up to {shape.max_length}; lower "
        f"max_length to {usable}, or take an untrained model with the option config: {{max_position_embeddings: "
        f"{needed}}}"
    )


def _check_new(spec: ModelSpec, model: Any, found: Mapping[str, Any]) -> None:
    """Says which part of the model is new; only a head may be."""
    base = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    trained = {f"{prefix}{name}" for name in base.state_dict() if "pooler." not in name}
    other = {name: (there, here) for name, there, here in found["mismatched_keys"]}
    new = sorted({*found["missing_keys"], *other})
    lacking = [name for name in new if name in trained]
    if lacking:
        shapes = other.get(lacking[0])
        why = f" of shape {tuple(shapes[1])}, there it is {tuple(shapes[0])}" if shapes else ""
        raise LimbeckError(
            f"model {spec.name!r}: the weights lack {len(lacking)} tensors of {type(model).__name__}, such as "
            f"{lacking[0]}{why}; take weights of that model, or an untrained one with the option `pretrained: false`"
        )
    if other and not spec.options.get("ignore_mismatched_sizes", False):
        there, here = min(other.values(), key=lambda shapes: len(shapes[0]))
        raise LimbeckError(
            f"model {spec.name!r} has {there[0]} classes, the data {here[0]}; "
            "give the option `ignore_mismatched_sizes: true` for a new head, or data with its classes"
        )
    if new:
        parts = sorted({name.rpartition(".")[0] for name in new})
        log.warning("%s: new and untrained in %s: %s", spec.name, type(model).__name__, ", ".join(parts))


@contextmanager
def quietly() -> Iterator[None]:
    """Keeps back the pages that transformers logs of weights that it had to make up."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
