"""Documents as one stream of tokens, each with the words and bytes of text that end in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError
from limbeck.sources.texts.tokenizing import Tokenizing

AT_ONCE = 256
"""Documents that are made tokens together."""

Whole = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class TokenStream:
    """The tokens of all documents in a row, (tokens,) int32 each.

    `document` is the number of a token's document; `words` and `bytes` say how many runs of what is no white space, and
    how many bytes of UTF-8, end in a token. What a tokenizer drops between two tokens counts to the second of them,
    and what it drops at the end to the document's last, so that they add up to those of the document.
    """

    tokens: Whole
    document: Whole
    words: Whole
    bytes: Whole

    @classmethod
    def of(cls, documents: Sequence[str], tokenizing: Tokenizing, name: str) -> TokenStream:
        """The stream of documents; those without a token are left out.

        A document begins with the tokenizer's token for a beginning, if it has one, and ends with that for an end.

        Raises:
            LimbeckError: there is no text, or no token for an end.
        """
        tokenizer = tokenizing.tokenizer
        begin, end = beginning(tokenizing), ending(tokenizing)
        if end is None:
            raise LimbeckError(
                f"{name}: the tokenizer has no token for the end of a document (eos_token or sep_token); give it one"
            )
        if isinstance(documents, str):
            raise LimbeckError(f"{name}: expected a list of documents, got one text; give [text]")
        head = [] if begin is None else [begin]
        parts: list[tuple[Whole, Whole, Whole]] = []
        for first in range(0, len(documents), AT_ONCE):
            block = list(documents[first : first + AT_ONCE])
            encoded = tokenizer(
                block, add_special_tokens=False, truncation=False, padding=False, return_offsets_mapping=True,
                return_attention_mask=False, return_token_type_ids=False, verbose=False,
            )  # fmt: skip
            for text, ids, offsets in zip(block, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                if ids:
                    parts.append((np.array([*head, *ids, end], np.int32), *_counts(text, offsets, len(head))))
        if not parts:
            raise LimbeckError(f"{name}: the split is empty; it needs a document with at least one token")
        tokens, words, sizes = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        document = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part[0]) for part in parts])
        return cls(tokens, document, words, sizes)


def beginning(tokenizing: Tokenizing) -> int | None:
    """The token that begins a document; None where the tokenizer has none."""
    return _first(tokenizing, "bos_token_id", "cls_token_id")


def ending(tokenizing: Tokenizing) -> int | None:
    """The token that ends a document; None where the tokenizer has none."""
    return _first(tokenizing, "eos_token_id", "sep_token_id")


def _first(tokenizing: Tokenizing, *names: str) -> int | None:
    return next((int(found) for name in names if (found := getattr(tokenizing.tokenizer, name)) is not None), None)


def _counts(text: str, offsets: Sequence[tuple[int, int]], before: int) -> tuple[Whole, Whole]:
    """How many words and bytes of a text end in each of its tokens, the added ones included."""
    # Parts of one character, as bytes are, all name the whole of it: its bytes count once.
    reach = np.maximum.accumulate(np.asarray(offsets, np.int64)[:, 1])
    reach = np.concatenate([np.zeros(before, np.int64), reach, [len(text)]])
    ends = np.fromiter((found.end() for found in re.finditer(r"\S+", text)), np.int64)
    words = np.searchsorted(ends, reach, side="right")
    return _steps(words), _steps(_sizes(text)[reach])


def _sizes(text: str) -> NDArray[np.int64]:
    """The bytes of UTF-8 before each character, and of the whole, (characters + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.concatenate([[0], sizes.cumsum()])


def _steps(reached: NDArray[np.int64]) -> Whole:
    return np.diff(reached, prepend=0).astype(np.int32)
