"""A shard's answers: kept one by one until all are there, and then written as labels."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.alignment import TokenBytes
from limbeck.store import Records, StoreWriter
from limbeck.store.packing import pack_ids, pack_log
from limbeck.teachers.endpoint.asking import Journal
from limbeck.teachers.endpoint.dialects import Entries
from limbeck.tokens import LOGITS

Rows = tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]
"""Of each token of a text the ids of the k most likely next ones, their log-probabilities, and that of the real one."""

LEFT = 1e-8
"""The least probability of all tokens that are not named."""


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """A text's number in the data, its lasting name, the hash of its content, and its tokens."""

    number: int
    name: int
    content: int
    ids: NDArray[np.int32]


class Shard:
    """A shard's answers so far: in its journal, until all are there and the shard is written.

    Args:
        writer: of the store.
        number: the shard's.
        texts: what is in it.
        k: how many tokens an answer names.
        tokens: the vocabulary.
        single: whether each token of a text is asked for by itself.
    """

    def __init__(
        self, writer: StoreWriter, number: int, texts: Sequence[Text], k: int, tokens: TokenBytes, *, single: bool
    ) -> None:
        self._writer, self._number, self._texts, self._k = writer, number, texts, k
        self._single = single
        self._vocabulary = len(tokens)
        special = sorted(tokens.special)
        self._unused = [*special, *(index for index in range(len(tokens)) if index not in tokens.special)][: 2 * k + 1]
        about = {"shard": number, "single": single, "k": k}
        self._journal = Journal(writer.folder / f"asked-{number:05}.jsonl", about)
        self._known: dict[tuple[int, int], Rows] = {}
        for record in self._journal.records:
            self._known[record["text"], record["place"]] = _unpacked(record["rows"], k)
        self._journal.records.clear()

    @property
    def done(self) -> int:
        """How many answers there are."""
        return len(self._known)

    @property
    def whole(self) -> bool:
        """Whether all are there; the last token of a text has no next one, so it is not asked for by itself."""
        return self.done == (sum(len(text.ids) - 1 for text in self._texts) if self._single else len(self._texts))

    def has(self, text: Text, place: int) -> bool:
        """Whether an answer is known."""
        return (text.number, place) in self._known

    def missing(self) -> Iterator[tuple[Text, int]]:
        """What is to be asked: a text, and the place of a token in it, or -1 for all of them."""
        for text in self._texts:
            for place in range(len(text.ids) - 1) if self._single else (-1,):
                if not self.has(text, place):
                    yield text, place

    def add(self, text: Text, place: int, entries: Sequence[Entries]) -> None:
        """Keeps an answer: what may follow each token of a text, or one of them."""
        own = text.ids if place < 0 else text.ids[place : place + 2]
        rows = rows_of(entries, own, self._k, self._unused)
        self._journal.add({"text": text.number, "place": place, "rows": _packed(rows)})
        self._known[text.number, place] = rows

    def close(self) -> None:
        """Writes the shard, whose answers are all there."""
        parts = [self._rows_of(text) for text in self._texts]
        ids, log_probs, own = (np.concatenate(column) for column in zip(*parts, strict=True))
        likely = torch.from_numpy(log_probs)
        # The numbers are rounded, but where a vocabulary has more tokens something is always left for them.
        least = LEFT if self._k < self._vocabulary else 0.0
        rest = (1.0 - likely.double().exp().sum(1, keepdim=True)).clamp(min=least).log()
        unknown = torch.full((len(ids), 1), math.nan)
        columns = {
            **pack_ids(torch.from_numpy(ids.astype(np.int64)), self._vocabulary),
            "log_p": pack_log(likely),
            "rest": pack_log(rest),
            "log_sum": unknown,
            "entropy": unknown.half(),
            "label": torch.from_numpy(own).unsqueeze(1).half(),
        }
        named = torch.tensor([[text.name, 0, text.content, len(text.ids)] for text in self._texts]).unbind(1)
        names, views, content, lengths = (each.contiguous() for each in named)
        self._writer.write(self._number, Records(names, views, content, lengths, {LOGITS: columns}))
        self._journal.remove()

    def leave(self) -> None:
        """Lets go of the journal, which stays."""
        self._journal.close()

    def _rows_of(self, text: Text) -> Rows:
        if not self._single:
            return self._known.pop((text.number, -1))
        parts = [self._known.pop((text.number, place)) for place in range(len(text.ids) - 1)]
        parts.append(rows_of([{}], text.ids[-1:], self._k, self._unused))
        ids, log_probs, own = (np.concatenate(column) for column in zip(*parts, strict=True))
        return ids, log_probs, own


def rows_of(entries: Sequence[Entries], own: NDArray[np.int32], k: int, unused: Sequence[int]) -> Rows:
    """Arrays from the entries of consecutive tokens, of which the next ones are `own[1:]`.

    Where fewer than k are named, tokens that nobody writes take their places, with probability 0; the rest of the mass
    is in the tail all the same.
    """
    ids = np.zeros((len(entries), k), np.uint32)
    log_probs = np.full((len(entries), k), -np.inf, np.float32)
    real = np.full(len(entries), np.nan, np.float32)
    for row, named in enumerate(entries):
        best = sorted(named, key=lambda index: -named[index])[:k]
        spare = [index for index in unused if index not in best][: k - len(best)]
        ids[row] = best + spare
        log_probs[row, : len(best)] = [named[index] for index in best]
        if row + 1 < len(own):
            real[row] = named.get(int(own[row + 1]), np.nan)
    return ids, log_probs, real


def _packed(rows: Rows) -> str:
    ids, log_probs, own = rows
    parts = (ids.astype("<u4"), log_probs.astype("<f4"), own.astype("<f4"))
    return base64.b64encode(b"".join(part.tobytes() for part in parts)).decode()


def _unpacked(text: str, k: int) -> Rows:
    numbers = np.frombuffer(base64.b64decode(text), "<u4")
    count = len(numbers) // (2 * k + 1)
    ids, log_probs, own = np.split(numbers, [count * k, 2 * count * k])
    return ids.reshape(count, k), log_probs.view("<f4").reshape(count, k), own.view("<f4")
