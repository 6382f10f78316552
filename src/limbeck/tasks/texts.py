"""What all tasks on texts share: whose tokenizer reads them, and teachers that read them in another way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.installed import resolved
from limbeck.models import TextShape
from limbeck.models.saved import is_saved, read_card
from limbeck.models.spec import Head
from limbeck.sources.texts import Tokenizing, open_tokenizer
from limbeck.sources.texts.labels import Problem
from limbeck.sources.texts.tokenizing import tokenizer_for
from limbeck.sources.texts.vocabularies import Kind
from limbeck.tasks.task import Opening, Settings

HUB = "hf:"


class TextualSettings(Settings):
    """What the `data` of every task on texts may say of tokens.

    `tokenizer` is the folder or hub id of one, or one that is trained on the training texts: `wordpiece`, `bpe`,
    `bytes` or `characters`, with a `vocabulary` of that many tokens. If it says nothing it is the teacher's, where that
    has one, else of the task's usual kind. `max_length` is the most tokens of a row.
    """

    tokenizer: str = ""
    vocabulary: int = Field(default=8000, ge=2)
    lowercase: bool = True
    max_length: int = Field(default=128, ge=4)
    validation: float = Field(default=0.1, gt=0, lt=1)


def tokenizing_of(model: str, max_length: int) -> Tokenizing | None:
    """The tokenizer that a model by name comes with; None where it has none of its own.

    Raises:
        LimbeckError: it has one that cannot be had.
    """
    path = Path(model.removeprefix(HUB))
    if path.is_dir() and is_saved(path):
        return Tokenizing.read(path) if read_card(path).tokenizing is not None else None
    if not model.startswith(HUB):
        return None
    source = resolved(model.removeprefix(HUB))
    if Path(source).is_dir() and not any(Path(source).glob("tokenizer*.json")):
        return None
    return Tokenizing(open_tokenizer(source), max_length)


def students_tokenizing(settings: TextualSettings, opening: Opening) -> Tokenizing | None:
    """The tokenizer of a teacher that has one; None where the data's settings name another."""
    if settings.tokenizer:
        return None
    found = (tokenizing_of(model, settings.max_length) for model in opening.teachers)
    first = next((tokenizing for tokenizing in found if tokenizing is not None), None)
    return None if first is None else Tokenizing(first.tokenizer, settings.max_length)


def own_tokenizing(settings: TextualSettings, texts: Sequence[str], usual: Kind) -> Tokenizing:
    """The tokenizer that the data's settings name, or one of a kind that is trained on the training texts."""
    found = tokenizer_for(
        settings.tokenizer or usual, texts, vocabulary=settings.vocabulary, lowercase=settings.lowercase
    )
    return Tokenizing(found, settings.max_length)


def teachers_tokenizing(said: Mapping[str, Any], own: Tokenizing) -> Tokenizing | None:
    """The tokenizer of a teacher that reads texts otherwise than its student; None where they read them as one."""
    given: str = said.get("tokenizer") or ""
    theirs = (
        Tokenizing(open_tokenizer(given), own.max_length)
        if given
        else tokenizing_of(str(said.get("model", "")), own.max_length)
        if said.get("pretrained", True)
        else None
    )
    return None if theirs is None or same_tokens(theirs, own) else theirs


def read_alike(data: Any, said: Mapping[str, Any], *, why: str) -> Any:
    """The data, of which teacher and student must read the same tokens; `why` ends the error where they do not.

    Raises:
        LimbeckError: the teacher has a tokenizer of its own.
    """
    if teachers_tokenizing(said, data.train.tokenizing) is not None:
        raise LimbeckError(
            f"the teacher has a tokenizer of its own, and {why}; give the student the teacher's (leave data.tokenizer "
            "out), or another teacher"
        )
    return data


def shape_of(
    tokenizing: Tokenizing, head: Head, *, num_classes: int = 0, problem: Problem = "single-label",
    begin: int | None = None,
) -> TextShape:  # fmt: skip
    """What texts of a tokenizer ask of a model; `begin` replaces the token that the tokenizer begins texts with."""
    tokenizer = tokenizing.tokenizer
    return TextShape(
        num_classes=num_classes,
        vocabulary=tokenizing.vocabulary,
        max_length=tokenizing.max_length,
        pad_id=tokenizing.pad_id,
        head=head,
        problem=problem,
        bos_id=tokenizer.bos_token_id if begin is None else begin,
        eos_id=tokenizer.eos_token_id,
    )


def same_tokens(one: Tokenizing, other: Tokenizing) -> bool:
    """Whether two tokenizers make the same tokens of a text, however long their rows may be."""
    return Tokenizing(one.tokenizer, other.max_length).identity() == other.identity()


def token_counts(split: Any, vocabulary: int) -> Tensor:
    """How often each token is in a split, (vocabulary,) int64."""
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for start in range(0, len(split), 1024):
        batch = split.__getitems__(list(range(start, min(start + 1024, len(split)))))
        counts += torch.bincount(batch["input_ids"][batch["attention_mask"].bool()], minlength=vocabulary)
    return counts


def shown(text: str, most: int = 300) -> str:
    """A text for the report, cut where it is long."""
    return text if len(text) <= most else text[: most - 1] + "…"


def names_of(values: Sequence[float], classes: Sequence[str], threshold: float = 0.5) -> str:
    """The classes whose value is above a threshold, by name."""
    return ", ".join(name for name, value in zip(classes, values, strict=True) if value > threshold) or "none"
