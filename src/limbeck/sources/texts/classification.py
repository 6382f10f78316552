"""Text sets: whole batches of labelled texts, tokenised once; and data sets of them by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.checks import labels_in_range
from limbeck.errors import LimbeckError, nearest
from limbeck.sources.splits import ClassBalance, describe, labelled_mask
from limbeck.sources.texts.cutting import cut, strata
from limbeck.sources.texts.labels import PROBLEMS, Problem
from limbeck.sources.texts.reading import read_texts
from limbeck.sources.texts.tokenized import Tokenized
from limbeck.sources.texts.tokenizing import Tokenizing, tokenizer_for
from limbeck.types import UNLABELLED

MAX_LENGTH = 128
"""Tokens of the longest row, where nothing is said."""


class TextSet(Dataset[dict[str, Tensor]]):
    """One split of labelled texts, or of texts and what each is compared with, given a batch at a time.

    A batch is `input_ids` and `attention_mask` (batch, longest) int64 and, where the tokenizer has them,
    `token_type_ids`, padded to the longest text of the batch; `labels`; and `ids` (batch,) int64, the sample's lasting
    name. Labels are (batch,) int64, -1 where unlabelled; (batch, classes) float32, -1 where unlabelled, of several
    labels a text; or (batch,) float32, NaN where unlabelled, of a regression. Give `collate_samples` to a DataLoader as
    `collate_fn`.

    `labels` and `ids` (n,) say what is in the set. The texts are tokenised once, when the first batch is asked for, and
    `tokenised` does it earlier, which is worth it before worker processes start. Subsets share texts and tokens.

    Raises:
        LimbeckError: the set is empty, a text lacks a label or an id, or a label does not fit the problem.
    """

    view_count = 1
    """A text has one view: it is the same in every epoch."""

    def __init__(
        self,
        texts: Sequence[str],
        labels: Tensor,
        ids: Tensor,
        classes: Sequence[str],
        tokenizing: Tokenizing,
        *,
        pairs: Sequence[str] | None = None,
        problem: Problem = "single-label",
        name: str = "texts",
    ) -> None:
        if len(texts) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one text")
        if not len(texts) == len(labels) == len(ids) == len(texts if pairs is None else pairs):
            raise LimbeckError(
                f"{name}: expected a label and an id for each text (and a pair, if there are some), got {len(texts)} "
                f"texts, {len(labels)} labels and {len(ids)} ids"
            )
        self.name = name
        self.classes = tuple(classes)
        self.problem: Problem = problem
        self.labels = _fitting(labels, len(self.classes), problem, name)
        self.ids = ids.long()
        self._rows = torch.arange(len(texts))
        self._tokenized = Tokenized(list(texts), None if pairs is None else list(pairs), tokenizing)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index.__index__()]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        at = torch.as_tensor(indices)
        return {**self._tokenized.take(self._rows[at]), "labels": self.labels[at], "ids": self.ids[at]}

    @property
    def tokenizing(self) -> Tokenizing:
        """How the texts become tokens."""
        return self._tokenized.tokenizing

    @property
    def lengths(self) -> Tensor:
        """The number of tokens of each text, special ones included, (n,) int64."""
        return self._tokenized.lengths[self._rows]

    def tokenised(self) -> TextSet:
        """This set, its texts tokenised now."""
        self._tokenized.prepare()
        return self

    def text(self, index: int) -> str:
        """The text at a position."""
        return self._tokenized.texts[int(self._rows[index])]

    def pair(self, index: int) -> str | None:
        """What the text at a position is compared with, if there is something."""
        pairs = self._tokenized.pairs
        return None if pairs is None else pairs[int(self._rows[index])]

    def prepared_as(self) -> dict[str, Any]:
        """How texts become tokens, as plain values."""
        return {"tokenizer": self.tokenizing.identity(), "max_length": self.tokenizing.max_length}

    def with_tokenizing(self, tokenizing: Tokenizing) -> TextSet:
        """The same samples as another tokenizer reads them."""
        tokenized = Tokenized(self._tokenized.texts, self._tokenized.pairs, tokenizing)
        return self._changed(_tokenized=tokenized)

    def subset(self, indices: NDArray[np.int64] | Tensor | Sequence[int], name: str | None = None) -> TextSet:
        """The samples at these positions; ids stay. Raises LimbeckError when there is none."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        name = name or self.name
        rows = self._rows[at]
        if len(rows) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one text")
        return self._changed(_rows=rows, labels=self.labels[at], ids=self.ids[at], name=name)

    def with_labels(self, mask: NDArray[np.bool_] | Tensor) -> TextSet:
        """The same samples with the labels hidden (-1; NaN in a regression) where `mask` (n,) is False."""
        shown = torch.as_tensor(mask, dtype=torch.bool)
        return self._changed(labels=_hidden(self.labels, ~shown))

    def _changed(self, **changes: object) -> TextSet:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed


@dataclass(frozen=True, slots=True, eq=False)
class TextData:
    """A data set of texts ready for a run. `notes` say what was guessed and left out."""

    name: str
    train: TextSet
    validation: TextSet
    test: TextSet
    classes: tuple[str, ...]
    problem: Problem
    notes: tuple[str, ...] = ()

    @property
    def tokenizing(self) -> Tokenizing:
        """How the texts of all three splits become tokens."""
        return self.train.tokenizing

    @property
    def balance(self) -> ClassBalance | None:
        """The spread of the training labels that are shown; None where a text has no single class."""
        return describe(self.train.labels.numpy(), self.classes) if self.problem == "single-label" else None


def load_texts(
    source: str,
    *,
    tokenizing: Tokenizing | None = None,
    tokenizer: str = "wordpiece",
    vocabulary: int = 8000,
    lowercase: bool = True,
    max_length: int = MAX_LENGTH,
    validation: float = 0.1,
    labelled: int | float | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    header: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    problem: Problem | None = None,
) -> TextData:
    """Loads texts by name, cuts the splits that their author did not cut, and fits them with a tokenizer.

    Args:
        source: as for `read_texts`.
        tokenizing: the tokenizer of a model that is there; the next four are then of no use.
        tokenizer: the folder or name of one; or, trained on the texts of train, a kind: `wordpiece`, `bpe`, `bytes` or
            `characters`.
        vocabulary: the tokens of a tokenizer that is trained here.
        lowercase: whether one that is trained here takes upper and lower case for one.
        max_length: tokens of the longest row; longer texts are cut.
        validation: the share of train to hold out, where the author cut no validation split.
        labelled: how many training samples keep their label (an int) or which share (a float), over the classes as they
            come; the rest becomes unlabelled. None keeps all.
        text_column, pair_column, label_column, split_column, header, classes, problem: as for `read_texts`.

    The author's test split stays whole. Without one the author's validation split is the test; without either, a fifth
    of train is. What is held out depends on the texts alone, and of a text that occurs several times nothing stays in
    train when one of it is held out.

    Raises:
        LimbeckError: something is missing, broken or out of range.
    """
    found = read_texts(
        source,
        text_column=text_column,
        pair_column=pair_column,
        label_column=label_column,
        split_column=split_column,
        header=header,
        classes=classes,
        problem=problem,
    )
    parts, notes = cut(found, validation)
    train = parts["train"]
    if labelled is not None:
        kept = labelled_mask(*strata(train, found), labelled)
        shown = _hidden(torch.from_numpy(train.labels), torch.from_numpy(~kept))
        parts["train"] = replace(train, labels=shown.numpy())
    if tokenizing is None:
        learned = [*train.texts, *(train.pairs or ())]
        tokenizing = Tokenizing(
            tokenizer_for(tokenizer, learned, vocabulary=vocabulary, lowercase=lowercase), max_length
        )
    sets = {
        split: TextSet(
            part.texts,
            torch.from_numpy(part.labels),
            torch.from_numpy(part.ids),
            found.classes,
            tokenizing,
            pairs=part.pairs,
            problem=found.problem,
            name=f"{source} {split}",
        )
        for split, part in parts.items()
    }
    return TextData(
        source, sets["train"], sets["validation"], sets["test"], found.classes, found.problem, (*found.notes, *notes)
    )


def _fitting(labels: Tensor, classes: int, problem: Problem, name: str) -> Tensor:
    if problem not in PROBLEMS:
        raise LimbeckError(f"{name}: unknown problem {problem!r}{nearest(str(problem), PROBLEMS)}")
    shape = (len(labels), classes) if problem == "multi-label" else (len(labels),)
    if tuple(labels.shape) != shape or (problem == "single-label" and labels.is_floating_point()):
        raise LimbeckError(
            f"{name}: expected {problem} labels of shape {shape}, got {labels.dtype} of shape {tuple(labels.shape)}; "
            "is it another problem?"
        )
    if problem != "single-label":
        return labels.float()
    labels_in_range(labels, classes, name)
    return labels.long()


def _hidden(labels: Tensor, where: Tensor) -> Tensor:
    """Labels (n, …) that are none where `where` (n,)."""
    value = math.nan if labels.is_floating_point() and labels.ndim == 1 else UNLABELLED
    return labels.masked_fill(where.view(-1, *[1] * (labels.ndim - 1)), value)
