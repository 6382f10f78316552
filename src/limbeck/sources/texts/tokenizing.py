"""Tokenizers: opened or trained, and how texts become rows of token ids that are cut and padded for a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from limbeck.errors import LimbeckError, nearest
from limbeck.files import read_json, write_json
from limbeck.sources.texts.vocabularies import KINDS, LEAST, Kind, learned

SETTINGS = "tokenizing.json"
"""The file beside a saved tokenizer's own that holds how long its rows may be."""

Rows = Mapping[str, Sequence[Sequence[int]]]


@dataclass(frozen=True, eq=False)
class Tokenizing:
    """A tokenizer and the length of its longest row, special tokens included.

    Raises:
        LimbeckError: `max_length` leaves no room for a token of the text.
    """

    tokenizer: PreTrainedTokenizerFast
    max_length: int

    def __post_init__(self) -> None:
        self._room(pair=False)

    def encode(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, **options: Any
    ) -> dict[str, list[list[int]]]:
        """The tokens of each text, or of each text and its pair, cut to `max_length`: (batch, …) lists by name.

        The names are those that the tokenizer's models take: `input_ids`, `attention_mask` and, where they have
        segments, `token_type_ids`. A row always has a token: where a text gives none and the tokenizer adds none, it is
        the unknown token, or else the one that ends, begins or pads a text. With `add_special_tokens=False` nothing is
        added, not even that. Other `options` are those of the tokenizer's call.

        Raises:
            LimbeckError: an entry is not a text, or the pairs are not one a text.
        """
        if pairs is not None:
            self._room(pair=True)
            if len(pairs) != len(texts):
                raise LimbeckError(
                    f"tokenizer: expected one pair a text, got {len(texts)} texts and {len(pairs)} pairs"
                )
        if not texts:
            return {name: [] for name in self.tokenizer.model_input_names}
        settings: dict[str, Any] = {"truncation": True, "max_length": self.max_length, "verbose": False} | options
        try:
            encoded = self.tokenizer(list(texts), None if pairs is None else list(pairs), **settings)
        except (TypeError, ValueError):  # the latter is UnicodeEncodeError too
            _check_texts(texts, "text")
            _check_texts(pairs or (), "pair")
            raise
        rows: dict[str, list[list[int]]] = dict(encoded)
        if settings.get("add_special_tokens", True):
            for index, row in enumerate(rows["input_ids"]):
                if not row:
                    for name, value in (("input_ids", self.filler_id), ("attention_mask", 1), ("token_type_ids", 0)):
                        if name in rows:
                            rows[name][index] = [value]
        return rows

    def pad(self, rows: Rows) -> dict[str, Tensor]:
        """Rows of `encode` as tensors (batch, longest) int64, filled on the tokenizer's side of padding.

        `input_ids` are filled with `pad_id`, `token_type_ids` with the tokenizer's own value, others with 0.
        """
        return {name: padded(values, self.filling(name), self.tokenizer.padding_side) for name, values in rows.items()}

    def filling(self, name: str) -> int:
        """The value that pads the rows of this name."""
        if name == "input_ids":
            return self.pad_id
        return int(self.tokenizer.pad_token_type_id) if name == "token_type_ids" else 0

    def identity(self) -> str:
        """SHA-256 of the tokenizer and of `max_length`: equal where every text gives the same rows."""
        content = json.dumps([_content(self.tokenizer), self.max_length], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def save(self, folder: Path | str) -> None:
        """Writes the tokenizer as transformers reads it, and `max_length`, into `folder`."""
        # Calls leave their own cut behind in the tokenizer; the files must not depend on which call was the last.
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.save_pretrained(str(folder))
        write_json(Path(folder) / SETTINGS, {"max_length": self.max_length})

    @classmethod
    def read(cls, folder: Path | str) -> Tokenizing:
        """What `save` wrote.

        Raises:
            LimbeckError: a file is missing or broken.
        """
        settings = read_json(Path(folder) / SETTINGS)
        length = settings.get("max_length") if isinstance(settings, Mapping) else None
        if not isinstance(length, int):
            raise LimbeckError(f"{Path(folder) / SETTINGS}: expected a whole number `max_length`, got {length!r}")
        return cls(open_tokenizer(str(folder)), length)

    @cached_property
    def vocabulary(self) -> int:
        """How many rows a table of embeddings needs: one more than the largest id, added tokens included."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def token_texts(self) -> list[str]:
        """What each token of the vocabulary is written as, by id; a piece within a word as it stands there."""
        known = self.tokenizer.get_added_vocab().values()
        texts = [str(self.tokenizer.decode([token])) for token in range(self.vocabulary)]
        return [text if token in known else text.removeprefix("##").strip() for token, text in enumerate(texts)]

    @property
    def pad_id(self) -> int:
        """The id that fills rows; where the tokenizer has no token for it, the one that ends a text, or 0."""
        return self._first_id("pad_token_id", "eos_token_id", "unk_token_id")

    @property
    def filler_id(self) -> int:
        """The id that stands for a text that gives no token."""
        return self._first_id("unk_token_id", "eos_token_id", "bos_token_id", "pad_token_id")

    def _first_id(self, *names: str) -> int:
        return next((int(found) for name in names if (found := getattr(self.tokenizer, name)) is not None), 0)

    def _room(self, *, pair: bool) -> None:
        special = int(self.tokenizer.num_special_tokens_to_add(pair=pair))
        least = special + 1 + pair
        if self.max_length < least:
            what = "a text and its pair" if pair else "a text"
            raise LimbeckError(
                f"tokenizer: expected a max_length of at least {least} for {what} ({special} special tokens), got "
                f"{self.max_length}"
            )


def padded(rows: Sequence[Sequence[int]], filling: int, side: str = "right") -> Tensor:
    """Rows of whole numbers as one tensor (batch, longest) int64, filled on the right or the left."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    longest = int(lengths.max(initial=0))
    array = np.full((len(rows), longest), filling, np.int64)
    columns = np.arange(longest)
    here = columns >= longest - lengths[:, None] if side == "left" else columns < lengths[:, None]
    array[here] = np.concatenate([np.asarray(row, np.int64) for row in rows]) if len(rows) else []
    return torch.from_numpy(array)


def open_tokenizer(source: Path | str) -> PreTrainedTokenizerFast:
    """The tokenizer of a local folder, of a file tokenizer.json, or of a name on the Hugging Face hub.

    Raises:
        LimbeckError: there is none, it cannot be had, or it has no tokenizer.json.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "tokenizer_config.json")):
        path = path / "tokenizer.json"
    if not path.exists() and (path.name == "tokenizer.json" or str(source).startswith((".", "/", "~"))):
        raise LimbeckError(f"tokenizer {source}: no such file or folder; give a folder that has a tokenizer.json")
    try:
        if path.is_file():
            return PreTrainedTokenizerFast(tokenizer_file=str(path))
        found = AutoTokenizer.from_pretrained(str(path) if path.exists() else str(source))
    except Exception as error:  # transformers and tokenizers raise errors of many kinds, bare Exception among them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LimbeckError(
            f"tokenizer {source}: cannot be opened ({reason}); give a folder that has a tokenizer.json, or a name on "
            "the hub while online"
        ) from None
    if not isinstance(found, PreTrainedTokenizerFast):
        raise LimbeckError(
            f"tokenizer {source}: {type(found).__name__} is not of the tokenizers library; "
            "give one that has a tokenizer.json"
        )
    return found


def tokenizer_for(wanted: str, texts: Iterable[str], *, vocabulary: int, lowercase: bool) -> PreTrainedTokenizerFast:
    """The tokenizer that `wanted` names: one to be opened, or a kind that is trained on the texts.

    Raises:
        LimbeckError: as `open_tokenizer` and `train_tokenizer`.
    """
    for kind in KINDS:
        if wanted == kind:
            return train_tokenizer(texts, kind=kind, vocabulary=vocabulary, lowercase=lowercase)
    return open_tokenizer(wanted)


def train_tokenizer(
    texts: Iterable[str], *, kind: Kind = "wordpiece", vocabulary: int = 8000, lowercase: bool = True
) -> PreTrainedTokenizerFast:
    """A tokenizer made from texts, always the same one for the same texts.

    Args:
        texts: what to learn from: the training texts, never the test's.
        kind: `wordpiece`: words and their parts as BERT has them, `[CLS] A [SEP] B [SEP]`, accents dropped where
            lowercase; `bpe`: merged bytes as GPT-2 has them, so that nothing is unknown and decoding gives the text
            back; `bytes`: a token a byte; `characters`: a token a character. The last three give `A </s> B </s>`, and
            have `<s>` to begin with.
        vocabulary: how many tokens at most, special ones included; `wordpiece` has more where the texts have more
            characters than that, and `bytes` has 260 whatever is asked for.
        lowercase: whether upper and lower case are one.

    Raises:
        LimbeckError: the kind is not known, the vocabulary is too small, or there is no text.
    """
    if kind not in KINDS:
        raise LimbeckError(f"tokenizer: unknown kind {kind!r}{nearest(str(kind), KINDS)}")
    least = LEAST[kind]
    if vocabulary < least:
        raise LimbeckError(
            f"tokenizer: expected a vocabulary of at least {least} tokens for kind {kind!r}, got {vocabulary}"
        )
    if isinstance(texts, str):
        raise LimbeckError("tokenizer: expected a list of texts, got one text; give [text]")
    texts = list(texts)
    if kind != "bytes" and not any(text.strip() for text in texts):
        raise LimbeckError("tokenizer: no text to learn from; give the texts of the training split")
    tokenizer, names = learned(kind, texts, vocabulary, lowercase)
    inputs = (
        ["input_ids", "token_type_ids", "attention_mask"] if kind == "wordpiece" else ["input_ids", "attention_mask"]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=inputs, clean_up_tokenization_spaces=False, **names
    )


def _content(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The content of tokenizer.json without the cut and the padding, which are those of the last call."""
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return content | {"truncation": None, "padding": None}


def _check_texts(texts: Sequence[object], what: str) -> None:
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise LimbeckError(
                f"tokenizer: {what} {row} is {text!r}; expected a text, an empty one where it is missing"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise LimbeckError(f"tokenizer: {what} {row} has half of a surrogate pair; correct its encoding") from None
