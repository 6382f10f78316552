"""Texts as rows of tokens, by the tokenizers library alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.artifact.card import TokenCard
from limbeck.errors import LimbeckError

_CLEANED = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
            (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))  # fmt: skip


class Texts:
    """An artifact's tokenizer.

    Raises:
        LimbeckError: the tokenizers library is not there, or cannot read the file.
    """

    def __init__(self, path: Path, card: TokenCard) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise LimbeckError("texts are read by the tokenizers library: pip install tokenizers") from None
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # it raises bare Exceptions
            raise LimbeckError(f"{path}: not a tokenizer ({str(error).splitlines()[0]}); export again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.card = card

    def rows(self, texts: Sequence[str | tuple[str, str]]) -> list[dict[str, list[int]]]:
        """The tokens of each text, or of a text and its pair, cut to the longest row; at least one each."""
        self._tokenizer.enable_truncation(self.card.max_length)
        try:
            encoded = self._tokenizer.encode_batch([each if isinstance(each, str) else tuple(each) for each in texts])
        except UnicodeEncodeError:
            raise LimbeckError("a text has half of a surrogate pair; correct its encoding") from None
        finally:
            self._tokenizer.no_truncation()
        empty = {"input_ids": [self.card.filler_id], "attention_mask": [1], "token_type_ids": [0]}
        return [encoding_names(each) if each.ids else empty for each in encoded]

    def bare(self, text: str) -> Any:
        """A text without special tokens, whole, as the tokenizers library gives it."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def windows(self, question: str, context: str, stride: int) -> list[Any]:
        """A question with each part of its context, neighbours of which share `stride` tokens."""
        self._tokenizer.enable_truncation(self.card.max_length, stride=stride, strategy="only_second")
        try:
            first = self._tokenizer.encode(question, context)
        finally:
            self._tokenizer.no_truncation()
        return [first, *first.overflowing]

    def padded(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, NDArray[np.int64]]:
        """Rows as int64 (batch, longest), each name that the model reads."""
        longest = max(len(row["input_ids"]) for row in rows)
        filling = {"input_ids": self.card.pad_id, "token_type_ids": self.card.pad_type_id, "attention_mask": 0}
        found = {}
        for name in self.card.names:
            array = np.full((len(rows), longest), filling[name], np.int64)
            for at, row in enumerate(rows):
                values = row[name]
                place = slice(longest - len(values), None) if self.card.side == "left" else slice(len(values))
                array[at, place] = values
            found[name] = array
        return found

    def written(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        if self.card.clean_up:
            for old, new in _CLEANED:
                text = text.replace(old, new)
        return text


def encoding_names(encoded: Any) -> dict[str, list[int]]:
    return {
        "input_ids": encoded.ids,
        "attention_mask": encoded.attention_mask,
        "token_type_ids": encoded.type_ids,
    }
