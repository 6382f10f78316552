"""Text to learn a language from: documents as tokens, in rows that are packed full or hold one document each."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from limbeck.errors import LimbeckError
from limbeck.sources.texts.streams import TokenStream
from limbeck.sources.texts.tokenizing import Tokenizing

IGNORED = -100
"""The label of a token that is not learned, as transformers writes it."""


class PackedSet(Dataset[dict[str, Tensor]]):
    """One split of documents for a causal language model, given a batch of rows at a time.

    A document is its tokens, behind the tokenizer's token for a beginning if it has one, and before the one for an end.
    Packed, documents follow one another and are cut into rows of `length` tokens without padding. A batch is then
    `input_ids`, `position_ids` that start again with each piece of a document, `document_ids` that name the piece, and
    `labels`, each (batch, length) int64; and `ids` (batch,). It has no `attention_mask`: without one, transformers
    keeps the pieces of a row apart by their positions, with one it would not. Not packed, a row is one document, or a
    piece of one, and the batch is `input_ids`, `attention_mask`, `labels` and `ids`, padded to its longest row; this
    suits models that take no `position_ids`.

    `labels` are the tokens themselves, as a causal model's logits at a position predict the token behind it, and -100
    where a token begins a piece, is padding, or was learned from the row before. Neighbouring rows share `overlap`
    tokens, and the last row shares as many as fill it. With 1 every token of a document is predicted once an epoch, but
    the first where the tokenizer has no beginning. With more, as for evaluation, tokens of later rows are predicted
    from at least `overlap` tokens before them, where their document has as many. With 0 a row's first token is not
    predicted.

    Ids are made of the tokens: the same row, and the same piece, has the same id in every split and order.

    Args:
        documents: texts; those without a token are left out.
        tokenizing: the tokenizer; its `max_length` is the length of rows unless `length` says otherwise.

    Attributes:
        ids: the rows', (n,) int64.
        tokens: how many tokens are predicted in an epoch.
        words: how many runs of what is no white space end in them.
        bytes: how many bytes of UTF-8 they are: all of the documents' where all of their tokens are predicted.

    Raises:
        LimbeckError: there is no text, the tokenizer has no token for a document's end, or a number does not fit.
    """

    def __init__(
        self,
        documents: Sequence[str],
        tokenizing: Tokenizing,
        length: int | None = None,
        *,
        packed: bool = True,
        overlap: int = 1,
        name: str = "text",
    ) -> None:
        self.name = name
        self.tokenizing = tokenizing
        self.length = tokenizing.max_length if length is None else length
        self.packed = packed
        if self.length < 2 or not 0 <= overlap < self.length:
            raise LimbeckError(
                f"{name}: expected rows of at least 2 tokens and an overlap from 0 to below that, got length "
                f"{self.length} and overlap {overlap}"
            )
        stream = TokenStream.of(documents, tokenizing, name)
        self._tokens, self._document = torch.from_numpy(stream.tokens), torch.from_numpy(stream.document)
        borders = np.flatnonzero(np.diff(stream.document)) + 1
        edges = [0, *([] if packed else borders.tolist()), len(stream.tokens)]
        rows = [row for first, last in itertools.pairwise(edges) for row in _rows(first, last, self.length, overlap)]
        self._starts, self._stops, self._known = torch.tensor(rows).unbind(1)
        self.ids = self._names([(start, stop) for start, stop, _ in rows])
        self._pieces = self._in_pieces(borders)
        self._piece_ids = self._names([(start, stop) for piece in self._pieces for start, stop, _ in piece])
        self._first_piece = torch.tensor([len(piece) for piece in self._pieces]).cumsum(0)
        self._first_piece -= torch.tensor([len(piece) for piece in self._pieces])
        predicted = np.zeros(len(stream.tokens), np.bool_)
        for start, stop, known in rows:
            predicted[start + max(known, 1) : stop] = True
        predicted[[0, *borders]] = False
        self.tokens = int(predicted.sum())
        self.words = int(stream.words[predicted].sum())
        self.bytes = int(stream.bytes[predicted].sum())

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index.__index__()]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these rows; a DataLoader calls this instead of `__getitem__`."""
        at = torch.as_tensor(indices)
        start, lengths = self._starts[at].unsqueeze(1), (self._stops - self._starts)[at].unsqueeze(1)
        places = torch.arange(int(lengths.max()))
        where = (start + places).clamp(max=len(self._tokens) - 1)
        tokens, document = self._tokens[where].long(), self._document[where]
        begins = torch.ones_like(tokens, dtype=torch.bool)
        begins[:, 1:] = document[:, 1:] != document[:, :-1]
        real = places < lengths
        labels = tokens.masked_fill(begins | ~real | (places < self._known[at].unsqueeze(1)), IGNORED)
        if not self.packed:
            tokens = tokens.masked_fill(~real, self.tokenizing.pad_id)
            return {"input_ids": tokens, "attention_mask": real.long(), "labels": labels, "ids": self.ids[at]}
        piece = self._first_piece[at].unsqueeze(1) + begins.long().cumsum(1) - 1
        return {
            "input_ids": tokens,
            "position_ids": places - torch.where(begins, places, 0).cummax(1).values,
            "document_ids": self._piece_ids[piece],
            "labels": labels,
            "ids": self.ids[at],
        }

    def pieces(self) -> PackedSet:
        """The same tokens, each piece of a document that lies in a row as a row of its own, called as the piece is.

        A label store of these serves the packed rows too: `label(teacher, packed.pieces(), …)`.
        """
        changed = copy.copy(self)
        changed.packed = False
        bounds = torch.tensor([bound for piece in self._pieces for bound in piece])
        changed._starts, changed._stops, changed._known = bounds.unbind(1)
        changed.ids = self._piece_ids
        changed._pieces = [[bound] for piece in self._pieces for bound in piece]
        changed._first_piece = torch.arange(len(bounds))
        return changed

    def prepared_as(self) -> dict[str, Any]:
        """What makes the tokens of a text, as plain values."""
        return {"tokenizer": self.tokenizing.identity()}

    def _in_pieces(self, borders: NDArray[np.int64]) -> list[list[tuple[int, int, int]]]:
        """Of each row its pieces of documents: where they start and stop, and how many tokens the row before had."""
        found = []
        for start, stop, known in zip(self._starts.tolist(), self._stops.tolist(), self._known.tolist(), strict=True):
            inside = borders[np.searchsorted(borders, start, "right") : np.searchsorted(borders, stop, "left")].tolist()
            edges = zip([start, *inside], [*inside, stop], strict=True)
            found.append([(first, last, min(max(start + known - first, 0), last - first)) for first, last in edges])
        return found

    def _names(self, bounds: Sequence[tuple[int, int]]) -> Tensor:
        """Ids made of the tokens between bounds, (bounds,) int64."""
        tokens = self._tokens.numpy()
        digests = (hashlib.blake2b(tokens[start:stop].tobytes(), digest_size=8).digest() for start, stop in bounds)
        return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests])


def _rows(first: int, last: int, length: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """Rows of the tokens from `first` to `last`: start, stop, and how many of its tokens the row before has."""
    start, stop = first, min(first + length, last)
    yield start, stop, 0
    while stop < last:
        before, start = stop, max(first, min(stop - overlap, last - length))
        stop = start + length
        yield start, stop, before - start
