"""The windows of questions and their contexts: made of tokens once, and kept one after the other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.sources.ids import text_ids
from limbeck.sources.texts.squad import Question
from limbeck.sources.texts.tokenizing import Tokenizing
from limbeck.types import UNLABELLED

log = logging.getLogger(__name__)

CHUNK = 512
"""Questions that are made tokens of at a time."""
NONE = 0
"""The position of the first token (CLS), which stands for "no answer in this window"."""
NO_ANSWER = (-1, -1)
"""The characters of an answer that the context does not have."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """The tokens of all windows, one after the other: `bounds` (windows + 1,) says where each begins.

    `begins` and `finishes` are a token's characters in the context, -1 outside of it; `owners` the questions, `starts`
    and `ends` the positions of their answers in the window.
    """

    input_ids: Tensor
    begins: Tensor
    finishes: Tensor
    bounds: Tensor
    owners: Tensor
    starts: Tensor
    ends: Tensor
    ids: Tensor
    segments: Tensor | None = None

    def places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where the tokens of some windows are, (windows, longest) int64, and which of these are no padding."""
        first, lengths = self.bounds[rows], self.bounds[rows + 1] - self.bounds[rows]
        columns = torch.arange(int(lengths.max()) if len(rows) else 0)
        real = columns < lengths.unsqueeze(1)
        return torch.where(real, first.unsqueeze(1) + columns, 0), real


@dataclass
class WindowMaker:
    """The windows of some questions, made once, by whoever needs them first of all that share this."""

    questions: tuple[Question, ...]
    tokenizing: Tokenizing
    stride: int
    name: str

    @cached_property
    def windows(self) -> Windows:
        parts: dict[str, list[NDArray[Any]]] = {}
        asked = self._cut()
        for start in range(0, len(asked), CHUNK):
            for name, values in self._encoded(asked, slice(start, start + CHUNK)).items():
                parts.setdefault(name, []).append(values)
        flat = {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in parts.items()}
        lengths, owners, lost = flat.pop("lengths"), flat["owners"], flat.pop("lost")
        if len(lost):
            log.warning(
                "%s: the answers of %d of %d questions are not found in their contexts; these are taken as unlabelled",
                self.name, len(lost.unique()), len(asked),
            )  # fmt: skip
        numbers = torch.arange(len(owners)) - torch.searchsorted(owners, owners)
        both = zip(owners.tolist(), numbers.tolist(), strict=True)
        ids = torch.from_numpy(text_ids([f"{self.questions[owner].id} {number}" for owner, number in both]))
        return Windows(bounds=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]), ids=ids, **flat)

    def _cut(self) -> list[str]:
        """The questions, those cut that would fill more than half of a window."""
        limit, asked, count = self.tokenizing.max_length // 2, [], 0
        for start in range(0, len(self.questions), CHUNK):
            texts = [question.text for question in self.questions[start : start + CHUNK]]
            lengths = map(len, self._tokens_of(texts)["input_ids"])
            for text, length in zip(texts, lengths, strict=True):
                kept, count = limit, count + (length > limit)
                while length > limit:
                    text = text[: self._tokens_of([text])["offset_mapping"][0][kept - 1][1]]
                    length, kept = len(self._tokens_of([text])["input_ids"][0]), kept - 1
                asked.append(text)
        if count:
            log.warning(
                "%s: %d of %d questions are longer than %d tokens, half of a window, and are cut",
                self.name, count, len(asked), limit,
            )  # fmt: skip
        return asked

    def _tokens_of(self, texts: list[str]) -> Any:
        return self.tokenizing.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)

    def _encoded(self, asked: Sequence[str], chunk: slice) -> dict[str, NDArray[Any]]:
        """The windows of some questions, their tokens one after the other."""
        encoded = self.tokenizing.tokenizer(
            list(asked[chunk]),
            [question.context for question in self.questions[chunk]],
            truncation="only_second",
            max_length=self.tokenizing.max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        lengths = np.array([len(row) for row in encoded["input_ids"]])
        owners = np.array(encoded["overflow_to_sample_mapping"]) + chunk.start
        if not lengths.all():
            name = self.questions[owners[lengths.argmin()]].id
            raise LimbeckError(f"{self.name}: question {name!r} and its context give no token; leave it out")
        offsets = np.concatenate([np.array(row, np.int32).reshape(-1, 2) for row in encoded["offset_mapping"]])
        inside = np.array([part == 1 for row in range(len(lengths)) for part in encoded.sequence_ids(row)])
        inside &= offsets[:, 1] > offsets[:, 0]  # a token without characters is no part of an answer
        offsets[~inside] = -1
        spans, lost = self._spans(offsets, lengths, owners)
        flat = {
            "input_ids": np.concatenate([np.array(row, np.int32) for row in encoded["input_ids"]]),
            "begins": offsets[:, 0], "finishes": offsets[:, 1], "lengths": lengths, "owners": owners,
            "starts": spans[:, 0], "ends": spans[:, 1], "lost": lost,
        }  # fmt: skip
        if "token_type_ids" in encoded:
            flat["segments"] = np.concatenate([np.array(row, np.int8) for row in encoded["token_type_ids"]])
        return flat

    def _spans(
        self, offsets: NDArray[Any], lengths: NDArray[Any], owners: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The answer's first and last token in each window, (windows, 2); and the questions whose answers are lost."""
        spans = np.full((len(lengths), 2), NONE, np.int64)
        lost = []
        for row, (window, owner) in enumerate(zip(np.split(offsets, lengths.cumsum()[:-1]), owners, strict=True)):
            question = self.questions[owner]
            target = target_of(question)
            if target == NO_ANSWER:
                continue
            if target is None:
                spans[row] = UNLABELLED
                lost += [owner] if question.answers is not None else []
                continue
            first, end = target
            at = np.flatnonzero(window[:, 0] >= 0)
            if len(at) == 0 or window[at[0], 0] > first or window[at[-1], 1] < end:
                continue
            begin = np.searchsorted(window[at, 1], first, side="right")
            last = np.searchsorted(window[at, 0], end, side="left") - 1
            if begin > last:  # of characters that the tokenizer leaves out
                spans[row] = UNLABELLED
                lost.append(owner)
            else:
                spans[row] = at[begin], at[last]
        return spans, np.array(lost, np.int64)


def target_of(question: Question) -> tuple[int, int] | None:
    """The characters of the answer to learn, from and to; None where they are not known."""
    if question.answers is None:
        return None
    if not question.answers:
        return NO_ANSWER
    first = question.answers[0]
    return None if first.start is None else (first.start, first.start + len(first.text))
