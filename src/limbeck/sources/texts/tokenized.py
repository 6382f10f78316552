"""Texts that are tokenised once, kept as flat arrays, and padded a batch at a time."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.sources.texts.tokenizing import Tokenizing

TOKEN_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""What a batch has of texts; all else in it is about the samples."""


class Tokenized:
    """Texts, or texts and their pairs, and the tokens that a tokenizer makes of them when they are first asked for.

    Every row of a name follows the other in one array, so that a batch is one look-up, whatever the lengths are.
    """

    def __init__(self, texts: list[str], pairs: list[str] | None, tokenizing: Tokenizing) -> None:
        self.texts = texts
        self.pairs = pairs
        self.tokenizing = tokenizing
        self._starts: NDArray[np.int64] | None = None
        self._columns: dict[str, NDArray[np.int32]] = {}

    def __getstate__(self) -> dict[str, object]:
        self.prepare()  # a process that gets these texts gets their tokens, and need not make them again
        return self.__dict__

    def prepare(self) -> NDArray[np.int64]:
        """Tokenises what is not tokenised yet; where each row starts, (n + 1,)."""
        if self._starts is None:
            rows = self.tokenizing.encode(self.texts, self.pairs)
            lengths = np.fromiter(map(len, rows["input_ids"]), np.int64, len(self.texts))
            # Every token of an encoded row counts, so the mask is known from the lengths.
            self._columns = {
                name: np.fromiter(chain.from_iterable(values), np.int32, int(lengths.sum()))
                for name, values in rows.items()
                if name != "attention_mask"
            }
            self._starts = np.concatenate([[0], lengths.cumsum()])
        return self._starts

    @property
    def lengths(self) -> Tensor:
        """The tokens of each row, (n,) int64."""
        return torch.from_numpy(np.diff(self.prepare()))

    def take(self, rows: Tensor) -> dict[str, Tensor]:
        """These rows, padded to the longest of them, on the tokenizer's side of padding: (batch, longest) int64."""
        starts = self.prepare()
        at = rows.numpy()
        first, lengths = starts[at], starts[at + 1] - starts[at]
        columns = np.arange(lengths.max(initial=0)) - np.zeros((len(at), 1), np.int64)
        if self.tokenizing.tokenizer.padding_side == "left":
            columns -= columns.shape[1] - lengths[:, None]
        here = (columns >= 0) & (columns < lengths[:, None])
        places = np.where(here, first[:, None] + columns, 0)
        batch = {
            name: torch.from_numpy(np.where(here, values[places], self.tokenizing.filling(name)).astype(np.int64))
            for name, values in self._columns.items()
        }
        return batch | {"attention_mask": torch.from_numpy(here.astype(np.int64))}
