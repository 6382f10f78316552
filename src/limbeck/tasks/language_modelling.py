"""Language modelling: the next token of a text, by any causal model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.utils.data import Subset

from limbeck.models import TextShape, forward_of, unwrapped
from limbeck.scoring import LanguageScore, compare_models, score
from limbeck.sources.texts import PackedSet, Tokenizing, load_documents
from limbeck.sources.texts.documents import Apart
from limbeck.store import LabelStore
from limbeck.tasks.classification import SOFTENED
from limbeck.tasks.task import Opening, Task, Unmeasured, unmeasured
from limbeck.tasks.texts import (
    TextualSettings,
    own_tokenizing,
    read_alike,
    shape_of,
    shown,
    students_tokenizing,
    teachers_tokenizing,
)
from limbeck.teachers import Live, Stored, Teacher
from limbeck.teachers.retokenized import Retokenized
from limbeck.teachers.shared_tokens import SharedTokens, across_tokenizers

SAMPLES, PROMPT, WRITTEN = 6, 24, 32
"""Continuations in the report, the tokens that they begin with, and those that are written."""
COMPARED = 256
"""Rows on which a student is compared with its teacher token by token."""


class LanguageSettings(TextualSettings):
    """Which documents; `source`, `apart` and `column` as of `limbeck.sources.texts.load_documents`.

    Documents are packed into rows of `max_length` tokens, or each has rows of its own where `packed` is false. For
    evaluation neighbouring rows share half of their tokens, so that each is predicted with context.
    """

    apart: Apart = "file"
    column: str | None = None
    packed: bool = True
    tokenizer: str = ""
    lowercase: bool = False
    max_length: int = Field(default=128, ge=8)


@dataclass(frozen=True, slots=True, eq=False)
class LanguageData:
    """Documents ready for a run, in rows of tokens."""

    train: PackedSet
    validation: PackedSet
    test: PackedSet
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Modelled:
    """What a text costs a model; `read` is the model itself, to compare it with another."""

    found: LanguageScore
    read: nn.Module | Teacher
    split: PackedSet
    why: str = ""

    def metrics(self) -> dict[str, float]:
        """Perplexity by token and by word, bits per byte."""
        return self.found.metrics()

    def fidelity(self, taught: Modelled | Unmeasured) -> dict[str, float]:
        """Agreement and divergence on rows spread over the split."""
        if isinstance(taught, Unmeasured):
            return {}
        chosen = torch.linspace(0, len(self.split) - 1, min(COMPARED, len(self.split))).long().tolist()
        return compare_models(self.read, taught.read, Subset(self.split, chosen)).metrics()

    def details(self) -> dict[str, Any]:
        """Nothing: the figures of the report are of classes."""
        return {}


def _load(settings: LanguageSettings, opening: Opening) -> LanguageData:
    found = load_documents(
        settings.source, validation=settings.validation, apart=settings.apart, column=settings.column
    )
    for note in found.notes:
        opening.say(f"data: {note}")
    tokenizing = students_tokenizing(settings, opening) or own_tokenizing(settings, found.train, "bpe")
    return _packed(found.train, found.validation, found.test, tokenizing, settings)


def _packed(train: Any, validation: Any, test: Any, tokenizing: Tokenizing, settings: LanguageSettings) -> LanguageData:
    half = tokenizing.max_length // 2
    return LanguageData(
        PackedSet(train, tokenizing, packed=settings.packed, name=f"{settings.source} train"),
        PackedSet(validation, tokenizing, packed=settings.packed, overlap=half, name=f"{settings.source} validation"),
        PackedSet(test, tokenizing, packed=settings.packed, overlap=half, name=f"{settings.source} test"),
    )


def _training(_settings: LanguageSettings, data: LanguageData, _seed: int, _store: LabelStore | None) -> PackedSet:
    return data.train


def _labelled(_settings: LanguageSettings, data: LanguageData, _views: int) -> list[PackedSet]:
    """A packed row is other pieces in every packing; what is stored are the pieces."""
    return [data.train.pieces() if data.train.packed else data.train]


def _describe(split: PackedSet, _data: LanguageData) -> str:
    return f"{split.tokens:,} tokens ({split.words:,} words, {split.bytes:,} bytes) in {len(split):,} rows"


def _predict(
    read: Any, split: PackedSet, *, label: str, workers: int = 0, settings: Any = None
) -> Modelled | Unmeasured:
    if isinstance(read, Stored):
        if read.fallback is None:
            return unmeasured(
                f"{label}: a label store keeps no answers to the test text, so the teacher was not measured"
            )
        read = read.fallback
    if isinstance(read, Retokenized | SharedTokens):
        return unmeasured(f"{label}: the teacher reads other tokens than the student, so it was not measured beside it")
    if isinstance(read, Teacher):
        read.require(["logits"])
    else:
        read = read.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return Modelled(score(read, split), read, split)


def _validate(module: nn.Module, split: PackedSet, _settings: Any) -> dict[str, float]:
    return score(module, split).metrics()


def _examples(test: PackedSet, student: Modelled, teacher: Modelled | Unmeasured, _alone: Any) -> dict[str, Any] | None:
    """How the text goes on, and how teacher and student would go on with it."""
    writers = [_writer(student.read), None if isinstance(teacher, Unmeasured) else _writer(teacher.read)]
    if writers[0] is None:
        return None
    found = []
    tokenizer = test.tokenizing.tokenizer
    for row in torch.linspace(0, len(test) - 1, SAMPLES + 2).long()[1:-1].tolist():
        tokens = test.__getitems__([row])["input_ids"][0]
        # Models need not know more positions than a row has.
        begun = min(PROMPT, len(tokens) // 2)
        count = min(WRITTEN, test.length - begun)
        prompt, truth = tokens[:begun], tokens[begun : begun + count]
        mine, theirs = ("" if each is None else _continued(each, prompt, count, tokenizer) for each in writers)
        given, on = (shown(str(tokenizer.decode(part))) for part in (prompt, truth))
        found.append({"text": given, "label": on, "teacher": theirs, "student": mine, "judged": False})
    return {"differing": found}


def _writer(read: nn.Module | Teacher) -> Any:
    """The model that can write, if there is one."""
    module: Any = read.model if isinstance(read, Live) else read
    if not isinstance(module, nn.Module):
        return None
    inner: Any = unwrapped(module)
    return inner if hasattr(inner, "generate") and inner.can_generate() else None


def _continued(model: Any, prompt: torch.Tensor, count: int, tokenizer: Any) -> str:
    given = prompt.unsqueeze(0).to(next(model.parameters()).device)
    with torch.inference_mode():
        written = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )  # fmt: skip
    return shown(str(tokenizer.decode(written[0, len(prompt) :])))


def _bridged(teacher: Teacher, data: LanguageData, said: Mapping[str, Any]) -> Teacher:
    """A teacher with a tokenizer of its own, at the places where it has read what the student has read."""
    own = data.train.tokenizing
    theirs = teachers_tokenizing(said, own)
    if theirs is None:
        return teacher
    shared = said.get("alignment") != "own"
    return across_tokenizers(teacher, theirs.tokenizer, own.tokenizer, shared=shared, max_length=theirs.max_length)


def _teacher_shape(data: LanguageData, said: Mapping[str, Any]) -> TextShape:
    theirs = teachers_tokenizing(said, data.train.tokenizing)
    return shape_of(theirs or data.train.tokenizing, "causal-lm")


LANGUAGE_MODELLING = Task(
    name="language-modelling",
    settings=LanguageSettings,
    main_metric="perplexity",
    claimed=("perplexity", "bits_per_byte", "nll"),
    selection=lambda _data: "nll",
    terms=lambda _settings: SOFTENED,
    load=_load,
    training=_training,
    labelled=_labelled,
    describe=_describe,
    shape=lambda data: shape_of(data.train.tokenizing, "causal-lm"),
    teacher_keys=frozenset({"tokenizer", "alignment"}),
    seen_by=partial(read_alike, why="one that is trained here learns the student's tokens"),
    teacher_shape=_teacher_shape,
    bridged=_bridged,
    preparation=lambda data: data.train.tokenizing,
    predict=_predict,
    validate=_validate,
    examples=_examples,
    run=forward_of,
)
