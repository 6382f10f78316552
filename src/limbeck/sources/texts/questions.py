"""Extractive question answering: questions and their contexts in windows that a model can take, a batch at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.errors import LimbeckError
from limbeck.sources.ids import text_ids
from limbeck.sources.texts.squad import Question, each_once
from limbeck.sources.texts.tokenizing import Tokenizing
from limbeck.sources.texts.windows import NONE, WindowMaker, Windows, target_of
from limbeck.types import UNLABELLED


class WindowSet(Dataset[dict[str, Tensor]]):
    """One split of questions, in windows of at most `tokenizing.max_length` tokens: the question, then a part of its
    context. The windows of a context share `stride` tokens, so that an answer is whole in one of them.

    A batch is `input_ids`, `attention_mask` and, where the tokenizer has segments, `token_type_ids`, (batch, length)
    int64, padded on the right to its longest window; `span_mask` (batch, length) boolean, where an answer may begin or
    end: at the context's tokens, and at the first token, which stands for none; `start_positions` and `end_positions`
    (batch,) int64, the first and last token of the question's first answer, 0 in a window that does not hold all of
    it, and -1 where labels are hidden or nobody says; `labels` (batch,) int64, the start again; `ids` (batch,) int64,
    the window's lasting name. An answer that does not occur in its context is taken for hidden, and counted in a
    warning; so are questions longer than half of `max_length`, which are cut. Give `collate_samples` to a DataLoader as
    `collate_fn`.

    Args:
        questions: of the split, in order.
        stride: a third of `max_length` where it is None.

    Raises:
        LimbeckError: there is no question, an id is there twice, or `stride` leaves no room for the context.
    """

    view_count = 1
    """A text has one view: it is the same in every epoch."""

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizing: Tokenizing,
        *,
        stride: int | None = None,
        name: str = "questions",
    ) -> None:
        if not questions:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one question")
        self.name = name
        self.questions = each_once(questions, name)
        self.tokenizing = tokenizing
        self.stride = tokenizing.max_length // 3 if stride is None else stride
        special = tokenizing.tokenizer.num_special_tokens_to_add(pair=True)
        room = tokenizing.max_length - tokenizing.max_length // 2 - special
        if not 0 <= self.stride < room:
            raise LimbeckError(
                f"{name}: expected a stride from 0 to {room - 1}, which a window of {tokenizing.max_length} tokens has "
                f"left beside the longest question, got {self.stride}; give a smaller stride or a larger max_length"
            )
        self._tokens = WindowMaker(self.questions, tokenizing, self.stride, name)
        self._rows: Tensor | None = None
        self._shown = torch.ones(len(self.questions), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self._windows.owners if self._rows is None else self._rows)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index.__index__()]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        windows, rows = self._windows, self._at(torch.as_tensor(indices))
        where, real = windows.places(rows)
        batch = {"input_ids": torch.where(real, windows.input_ids[where].long(), self.tokenizing.pad_id)}
        batch["attention_mask"] = real.long()
        if windows.segments is not None:
            padding = self.tokenizing.filling("token_type_ids")
            batch["token_type_ids"] = torch.where(real, windows.segments[where].long(), padding)
        batch["span_mask"] = real & (windows.begins[where] >= 0)
        batch["span_mask"][:, NONE] = True
        shown = self._shown[windows.owners[rows]]
        for name, positions in (("start_positions", windows.starts), ("end_positions", windows.ends)):
            batch[name] = torch.where(shown, positions[rows], UNLABELLED)
        return batch | {"labels": batch["start_positions"].clone(), "ids": windows.ids[rows]}

    def tokenised(self) -> WindowSet:
        """This set, its windows made now, which is worth it before worker processes start."""
        assert len(self._windows.owners)
        return self

    @property
    def lengths(self) -> Tensor:
        """The number of tokens of each window, (n,) int64."""
        return self._of(self._windows.bounds.diff())

    @property
    def ids(self) -> Tensor:
        """The lasting names of the windows, (n,) int64."""
        return self._of(self._windows.ids)

    @property
    def labels(self) -> Tensor:
        """The first token of each window's answer, (n,) int64; 0 for none, -1 where labels are hidden."""
        return torch.where(self._shown[self.owners], self._of(self._windows.starts), UNLABELLED)

    @property
    def owners(self) -> Tensor:
        """Which of `questions` each window is of, (n,) int64."""
        return self._of(self._windows.owners)

    @cached_property
    def question_ids(self) -> Tensor:
        """The lasting names of the questions, (questions,) int64."""
        return torch.from_numpy(text_ids([question.id for question in self.questions]))

    @property
    def labelled(self) -> Tensor:
        """Which questions have labels that are shown, (questions,) boolean."""
        known = torch.tensor([target_of(question) is not None for question in self.questions])
        return known & self._shown

    @property
    def references(self) -> dict[str, list[str]]:
        """All right answers of each question by its id, an empty list where the context has none; without the questions
        of which nobody says. Hidden labels are here too."""
        return {
            question.id: [answer.text for answer in question.answers]
            for question in self.questions
            if question.answers is not None
        }

    @property
    def has_unanswerable(self) -> bool:
        """Whether the context of some question does not answer it, as in SQuAD 2.0."""
        return any(question.answers == () for question in self.questions)

    def offsets(self, indices: NDArray[np.int64] | Tensor | Sequence[int]) -> Tensor:
        """Where the tokens of these windows begin and end in their contexts, in characters, (windows, longest, 2)
        int64; -1 where no answer may begin or end."""
        windows = self._windows
        where, real = windows.places(self._at(torch.as_tensor(indices)))
        both = torch.stack([windows.begins[where], windows.finishes[where]], -1).long()
        return both.masked_fill_(~real.unsqueeze(-1), -1)

    def with_labels(self, mask: NDArray[np.bool_] | Tensor) -> WindowSet:
        """The same windows with the labels hidden (-1) where `mask` (questions,) is False."""
        return self._changed(_shown=self._shown & torch.as_tensor(mask, dtype=torch.bool))

    def subset(self, indices: NDArray[np.int64] | Tensor | Sequence[int], name: str | None = None) -> WindowSet:
        """The windows at these positions; tokens are shared, ids and `questions` stay.

        Raises:
            LimbeckError: there is none.
        """
        rows = self._at(torch.as_tensor(indices, dtype=torch.int64))
        if len(rows) == 0:
            raise LimbeckError(f"{name or self.name}: the split is empty; it needs at least one window")
        return self._changed(_rows=rows, name=name or self.name)

    def prepared_as(self) -> dict[str, Any]:
        """How the questions became windows, as plain values."""
        return {
            "tokenizer": self.tokenizing.identity(),
            "max_length": self.tokenizing.max_length,
            "stride": self.stride,
        }

    @property
    def _windows(self) -> Windows:
        return self._tokens.windows

    def _at(self, indices: Tensor) -> Tensor:
        return indices if self._rows is None else self._rows[indices]

    def _of(self, values: Tensor) -> Tensor:
        return values if self._rows is None else values[self._rows]

    def _changed(self, **changes: object) -> WindowSet:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed
