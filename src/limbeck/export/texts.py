"""Plans of models that read texts: classes, answers to questions, translations, and how a text goes on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from limbeck.artifact import TokenCard
from limbeck.artifact.answers import span
from limbeck.errors import LimbeckError
from limbeck.export.plans import Arrays, Part, Plan, of_signals, same_rows
from limbeck.models import unwrapped
from limbeck.models.spec import TextShape
from limbeck.models.writing import Writing
from limbeck.sources.texts import Tokenizing
from limbeck.sources.texts.streams import beginning, ending
from limbeck.types import Batch

ROW = {0: "batch", 1: "length"}
NUMBERS = 1e-3
"""The share within which two numbers of a regression are the same."""

FORBIDDEN: Mapping[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": None, "begin_suppress_tokens": None,
    "sequence_bias": None, "exponential_decay_length_penalty": None, "guidance_scale": None, "force_words_ids": None,
    "constraints": None, "stop_strings": None, "forced_decoder_ids": None, "watermarking_config": None,
}  # fmt: skip
"""Settings of transformers' generation that greedy writing does not know, each with the value at which it does
nothing."""


def token_card(tokenizing: Tokenizing, names: Sequence[str], **more: Any) -> TokenCard:
    """How texts become tokens, beside the tokenizer's file."""
    tokenizer: Any = tokenizing.tokenizer
    return TokenCard(
        names=tuple(names),
        max_length=tokenizing.max_length,
        pad_id=tokenizing.pad_id,
        pad_type_id=tokenizing.filling("token_type_ids"),
        filler_id=tokenizing.filler_id,
        side=tokenizer.padding_side,
        clean_up=bool(tokenizer.clean_up_tokenization_spaces),
        **more,
    )


def read_names(model: nn.Module, batch: Mapping[str, Tensor]) -> list[str]:
    """What of a batch's tokens a model reads."""
    known = inspect.signature(unwrapped(model).forward).parameters
    return [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch and name in known]


def classified(model: nn.Module, split: Any, classes: tuple[str, ...], shape: TextShape) -> Plan:
    """Text classification."""

    def judge(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        one, other = expected["logits"], found["logits"]
        if shape.problem == "regression":
            return int(np.isclose(one, other, rtol=NUMBERS, atol=NUMBERS**2).sum()), one.size
        if shape.problem == "multi-label":
            return same_rows((one > 0).reshape(-1, 1), (other > 0).reshape(-1, 1))
        return same_rows(one.argmax(-1), other.argmax(-1))

    names = read_names(model, split.__getitems__([0]))
    return Plan(
        parts=(of_signals(model, dict.fromkeys(names, ROW), ["logits"]),),
        take=_taking(split, names),
        count=len(split),
        data=split.name,
        judge=judge,
        predictions={"regression": "numbers", "multi-label": "labels"}.get(shape.problem, "classes"),
        classes=classes,
        tokens=token_card(split.tokenizing, names),
        reading={"problem": shape.problem, "thresholds": [0.5] * len(classes)},
    )


def answered(model: nn.Module, split: Any, settings: Any) -> Plan:
    """Question answering."""
    longest = settings.max_answer_tokens

    def judge(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        spans = []
        for outputs in (expected, found):
            allowed = np.where(feeds["span_mask"], 0, -1)
            allowed[:, 0] = -1
            rows = zip(outputs["logits"], allowed, strict=True)
            spans.append([span(own[:, 0], own[:, 1], at[:, None], longest)[1:] for own, at in rows])
        return same_rows(np.array(spans[0]), np.array(spans[1]))

    names = read_names(model, split.__getitems__([0]))
    threshold = settings.null_threshold if split.has_unanswerable else math.inf
    return Plan(
        parts=(of_signals(model, dict.fromkeys(names, ROW), ["logits"]),),
        take=_taking(split, [*names, "span_mask"]),
        count=len(split),
        data=split.name,
        judge=judge,
        predictions="answers, one a window",
        tokens=token_card(split.tokenizing, names),
        reading={
            "stride": split.stride,
            "max_answer_tokens": longest,
            "null_threshold": None if math.isinf(threshold) else threshold,
        },
        compared=_where("attention_mask"),
    )


class Encoder(nn.Module):
    """What an encoder-decoder makes of the source, once a text."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        """The states (batch, length, width)."""
        found: Tensor = self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
        return (found,)


class Decoder(nn.Module):
    """What an encoder-decoder says of the next token, of all that is written so far."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, decoder_input_ids: Tensor, attention_mask: Tensor, states: Tensor) -> tuple[Tensor]:
        """Logits (batch, written, vocabulary)."""
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids, use_cache=False,
        )  # fmt: skip
        return (output.logits,)


def translated(model: nn.Module, split: Any, settings: Any) -> Plan:
    """Translation, in two graphs: the source is read once."""

    def judge(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        real = feeds["labels"] >= 0
        return same_rows(expected["logits"].argmax(-1)[real], found["logits"].argmax(-1)[real])

    most = settings.max_new_tokens
    written = _writing(model, most)
    inner: Any = unwrapped(model)
    names = ["input_ids", "attention_mask"]
    known = split.labelled.nonzero().flatten().tolist()
    if not known:
        raise LimbeckError(f"{split.name}: no text has a translation to compare with; give other data with --data")

    def take(places: Sequence[int]) -> Batch:
        batch = split.__getitems__([known[at] for at in places])
        return {name: batch[name] for name in (*names, "decoder_input_ids", "labels")}

    return Plan(
        parts=(
            Part("encoder", Encoder(inner).eval(), tuple(names), ("states",), dict.fromkeys(names, ROW)),
            Part(
                "decoder", Decoder(inner).eval(), ("decoder_input_ids", "attention_mask", "states"), ("logits",),
                {"decoder_input_ids": {0: "batch", 1: "written"}, "attention_mask": ROW, "states": ROW},
            ),
        ),
        take=take,
        count=len(known),
        data=split.name,
        judge=judge,
        predictions="next tokens of the reference",
        tokens=token_card(
            split.tokenizing, names, begin_id=written["decoder_start_token_id"], end_ids=tuple(written["ends"])
        ),
        reading={"max_new_tokens": most, "first_id": written["first"], "last_id": written["last"],
                 "never": written["never"]},
        compared=_where("attention_mask", "labels"),
    )  # fmt: skip


def modelled(model: nn.Module, split: Any, positions: int, most: int) -> Plan:
    """Language modelling."""

    def judge(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        one, other = (each["logits"].argmax(-1).reshape(-1) for each in (expected, found))
        return same_rows(one, other)

    written = _writing(model, most)
    ends = {*written["ends"], *({end} if (end := ending(split.tokenizing)) is not None else ())}
    return Plan(
        parts=(of_signals(model, {"input_ids": ROW}, ["logits"]),),
        take=_taking(split, ["input_ids"]),
        count=len(split),
        data=split.name,
        judge=judge,
        predictions="next tokens",
        tokens=token_card(
            split.tokenizing, ["input_ids"], begin_id=beginning(split.tokenizing), end_ids=tuple(sorted(ends))
        ),
        reading={"max_new_tokens": most, "positions": positions, "never": written["never"]},
    )


def _taking(split: Any, names: Sequence[str]) -> Any:
    def take(places: Sequence[int]) -> Batch:
        batch = split.__getitems__(list(places))
        return {name: batch[name] for name in names}

    return take


def _where(mask: str, labels: str = "") -> Any:
    """Compares values at tokens that are no padding."""

    def compared(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[Arrays, Arrays]:
        places = {name: feeds[labels] >= 0 if labels and name == "logits" else feeds[mask] != 0 for name in expected}
        one, other = ({name: each[name][places[name]] for name in expected} for each in (expected, found))
        return one, other

    return compared


def _writing(model: nn.Module, most: int) -> dict[str, Any]:
    """How a transformers model writes greedily.

    Raises:
        LimbeckError: it cannot, or with settings that an artifact does not know.
    """
    writing = Writing(model, beams=1, most=most, length_penalty=1.0, every_beam=False, scored=False)
    given = {name: value for name, value in writing.settings.items() if value is not None}
    for name, harmless in FORBIDDEN.items():
        if given.get(name, harmless) != harmless:
            raise LimbeckError(
                f"{type(writing.model).__name__} writes with {name}={given[name]!r}, which an artifact cannot; take it "
                "out of its generation_config.json"
            )
    bad = given.get("bad_words_ids") or []
    if any(len(each) != 1 for each in bad):
        raise LimbeckError(f"{type(writing.model).__name__} avoids words of several tokens, which an artifact cannot")
    last = given.get("forced_eos_token_id")
    return {
        "decoder_start_token_id": given.get("decoder_start_token_id"),
        "ends": list(writing.ends),
        "first": given.get("forced_bos_token_id"),
        "last": last[0] if isinstance(last, list) else last,
        "never": sorted({*(each[0] for each in bad), *(given.get("suppress_tokens") or [])}),
    }
