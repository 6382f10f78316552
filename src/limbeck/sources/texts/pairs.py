"""Pair sets: whole batches of texts and their translations, for models that have an encoder and a decoder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from limbeck.errors import LimbeckError
from limbeck.sources.texts.tokenizing import Tokenizing

IGNORED = -100
"""The label of padding, as transformers writes it."""

Target = str | Sequence[int]

log = logging.getLogger(__name__)


class PairSet(Dataset[dict[str, Tensor]]):
    """One split of texts and their translations, given a batch at a time.

    A batch is `input_ids` and `attention_mask` (batch, source length) int64; `labels` (batch, target length) int64, the
    tokens of the translation with the one that ends it, -100 at padding; `decoder_input_ids` (batch, target length)
    int64, the same moved right by one, behind the token that begins a translation; and `ids` (batch,) int64, the
    sample's lasting name. Both sides are padded on the right to the longest of the batch. A text without a translation
    has labels of -100 alone, from which nothing is learned. Give `collate_samples` to a DataLoader as `collate_fn`.

    `sources` and `references` (n,) are the texts; `labelled` (n,) boolean says which have something to learn.

    Args:
        sources: the texts.
        targets: the translation of each, None (or an empty text) where there is none.
        ids: (n,) int64.
        tokenizing: how sources become tokens, and how many at most.
        target_tokenizing: the same for translations; as sources if not given.
        start_id: the token before the first of a translation: a model's `decoder_start_token_id`. By default the one
            that the tokenizer begins texts with, or that it pads with.

    Texts of more tokens are cut, and a warning counts them.

    Raises:
        LimbeckError: the set is empty, a text lacks a target or an id, or the tokenizer has no token that ends a text.
    """

    view_count = 1
    """A text has one view: it is the same in every epoch."""

    def __init__(
        self,
        sources: Sequence[str],
        targets: Sequence[str | None],
        ids: Tensor,
        tokenizing: Tokenizing,
        target_tokenizing: Tokenizing | None = None,
        *,
        start_id: int | None = None,
        name: str = "pairs",
    ) -> None:
        if len(sources) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one text")
        if not len(sources) == len(targets) == len(ids):
            raise LimbeckError(
                f"{name}: expected a target (None where there is none) and an id for each text, got {len(sources)} "
                f"texts, {len(targets)} targets and {len(ids)} ids"
            )
        self.name = name
        self.ids = ids.long()
        self.sources = tuple(sources)
        self.tokenizing = tokenizing
        self.target_tokenizing = target_tokenizing or tokenizing
        tokenizer = self.target_tokenizing.tokenizer
        begins = tokenizer.bos_token_id
        first = self.target_tokenizing.pad_id if begins is None else int(begins)
        self.start_id = first if start_id is None else start_id
        self.end_id = _end_of(tokenizer, name)
        self._targets = tuple(target or None for target in targets)
        self._shown = torch.ones(len(ids), dtype=torch.bool)
        self._read = _Rows(_encoded(self.sources, tokenizing, f"{name}: source"))
        self._written = _Rows(self._written_rows(self._targets))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index.__index__()]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        at = torch.as_tensor(indices)
        input_ids, mask = self._read.take(at, self.tokenizing.pad_id)
        labels, _ = self._written.take(at, IGNORED)
        return {
            "input_ids": input_ids,
            "attention_mask": mask.long(),
            "decoder_input_ids": shifted_right(labels, self.start_id, self.target_tokenizing.pad_id),
            "labels": labels,
            "ids": self.ids[at],
        }

    @property
    def labelled(self) -> Tensor:
        """Which texts have a translation to learn, (n,) boolean."""
        return self._written.lengths > 0

    @property
    def lengths(self) -> Tensor:
        """The number of tokens of each pair, both sides and their special tokens, (n,) int64."""
        return self._read.lengths + self._written.lengths

    @property
    def source_lengths(self) -> Tensor:
        """The number of tokens of each source, special ones included, (n,) int64."""
        return self._read.lengths

    @property
    def target_lengths(self) -> Tensor:
        """The number of tokens of each translation, its end included, (n,) int64; 0 where there is none."""
        return self._written.lengths

    @property
    def references(self) -> tuple[str | None, ...]:
        """The translations that came with the texts, None where there is none or it is hidden: `with_targets` does not
        change them, so that a translation is always judged by these."""
        return tuple(
            target if shown else None for target, shown in zip(self._targets, self._shown.tolist(), strict=True)
        )

    def prepared_as(self) -> dict[str, Any]:
        """How both sides become tokens, as plain values."""
        sides = {"source": self.tokenizing, "target": self.target_tokenizing}
        return {
            **{f"{side}_{key}": value for side, each in sides.items()
               for key, value in (("tokenizer", each.identity()), ("max_length", each.max_length))},
            "start": self.start_id,
        }  # fmt: skip

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of token ids, as a model writes them, without special tokens."""
        texts: list[str] = self.target_tokenizing.tokenizer.batch_decode(
            list(map(list, rows)), skip_special_tokens=True
        )
        return [text.strip() for text in texts]

    def with_targets(self, targets: Mapping[int, Target]) -> PairSet:
        """The same texts with other translations to learn, as a teacher's: by id a text, or its token ids, to which the
        token that ends a translation is added where it is missing. Texts of other ids keep what they have.

        Raises:
            LimbeckError: the set has none of the ids, or a token is none of the vocabulary.
        """
        given = [targets.get(each) for each in self.ids.tolist()]
        at = [row for row, target in enumerate(given) if target is not None]
        if not at:
            raise LimbeckError(
                f"{self.name}: none of the {len(targets):,} given targets has an id of this set; give those made of it"
            )
        rows = self._written.rows()
        texts = [row for row in at if isinstance(given[row], str)]
        for row, tokens in zip(texts, self._written_rows([str(given[row]) for row in texts]), strict=True):
            rows[row] = tokens
        for row in at:
            target = given[row]
            if target is not None and not isinstance(target, str):
                rows[row] = self._ended(target)
        return self._changed(_written=_Rows(rows))

    def with_labels(self, mask: NDArray[np.bool_] | Tensor) -> PairSet:
        """The same texts with the translations hidden where `mask` (n,) is False."""
        shown = torch.as_tensor(mask, dtype=torch.bool)
        rows = [row if keep else [] for row, keep in zip(self._written.rows(), shown.tolist(), strict=True)]
        return self._changed(_written=_Rows(rows), _shown=self._shown & shown)

    def with_start(self, start_id: int) -> PairSet:
        """The same texts for a model with another `decoder_start_token_id`."""
        return self._changed(start_id=start_id)

    def subset(self, indices: NDArray[np.int64] | Tensor | Sequence[int], name: str | None = None) -> PairSet:
        """The texts at these positions; ids stay. Raises LimbeckError when there is none."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        name = name or self.name
        if len(at) == 0:
            raise LimbeckError(f"{name}: the split is empty; it needs at least one text")
        chosen = at.tolist()
        return self._changed(
            name=name,
            ids=self.ids[at],
            sources=tuple(self.sources[row] for row in chosen),
            _targets=tuple(self._targets[row] for row in chosen),
            _shown=self._shown[at],
            _read=self._read.chosen(at),
            _written=self._written.chosen(at),
        )

    def _written_rows(self, targets: Sequence[str | None]) -> list[list[int]]:
        known = [target for target in targets if target is not None]
        encoded = iter(_encoded(known, self.target_tokenizing, f"{self.name}: target"))
        return [[] if target is None else self._ended(next(encoded)) for target in targets]

    def _ended(self, tokens: Sequence[int]) -> list[int]:
        """The tokens with the one that ends them, cut to the longest row."""
        row, most = list(tokens), self.target_tokenizing.max_length
        wrong = next((token for token in row if not 0 <= token < self.target_tokenizing.vocabulary), None)
        if wrong is not None:
            raise LimbeckError(
                f"{self.name}: target token {wrong} is not among the {self.target_tokenizing.vocabulary:,} of the "
                "tokenizer; give targets of models with its vocabulary, or as texts"
            )
        return row if row and row[-1] == self.end_id and len(row) <= most else [*row[: most - 1], self.end_id]

    def _changed(self, **changes: object) -> PairSet:
        changed = copy.copy(self)
        changed.__dict__.update(changes)
        return changed


def shifted_right(labels: Tensor, start_id: int, pad_id: int) -> Tensor:
    """What a decoder reads to write `labels` (batch, length), -100 at padding: `start_id`, and all but the last."""
    shifted = torch.full_like(labels, start_id)
    shifted[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, pad_id)
    return shifted


class _Rows:
    """Rows of tokens one after another in one array, so that a batch is one look-up, whatever the lengths are."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.lengths = torch.tensor([len(row) for row in rows])
        self._starts = self.lengths.cumsum(0) - self.lengths
        flat = [np.asarray(row, np.int32) for row in rows]
        self._tokens = torch.from_numpy(np.concatenate([*flat, np.zeros(1, np.int32)]))

    def rows(self) -> list[list[int]]:
        """Every row by itself."""
        ends = (self._starts + self.lengths).tolist()
        tokens = self._tokens.tolist()
        return [tokens[start:end] for start, end in zip(self._starts.tolist(), ends, strict=True)]

    def take(self, at: Tensor, filling: int) -> tuple[Tensor, Tensor]:
        """Some rows, padded on the right to the longest of them, and where they are, (batch, longest)."""
        lengths, starts = self.lengths[at].unsqueeze(1), self._starts[at].unsqueeze(1)
        columns = torch.arange(max(1, int(lengths.max())))
        here = columns < lengths
        places = torch.where(here, starts + columns, 0)
        return self._tokens[places].long().masked_fill(~here, filling), here

    def chosen(self, at: Tensor) -> _Rows:
        """Some rows alone; the array is shared."""
        chosen = copy.copy(self)
        chosen.lengths, chosen._starts = self.lengths[at], self._starts[at]
        return chosen


def _encoded(texts: Sequence[str], tokenizing: Tokenizing, what: str) -> list[list[int]]:
    """The tokens of each text, cut to the longest row; what had to be cut is counted in a warning."""
    rows = tokenizing.encode(texts)["input_ids"]
    full = [text for text, row in zip(texts, rows, strict=True) if len(row) >= tokenizing.max_length]
    whole = tokenizing.encode(full, truncation=False, max_length=None)["input_ids"]
    longer = sum(len(row) > tokenizing.max_length for row in whole)
    if longer:
        log.warning("%ss: %s of %s are longer than %s tokens and were cut",
                    what, f"{longer:,}", f"{len(texts):,}", tokenizing.max_length)  # fmt: skip
    return rows


def _end_of(tokenizer: PreTrainedTokenizerFast, name: str) -> int:
    end = tokenizer.eos_token_id
    end = tokenizer.sep_token_id if end is None else end
    if end is None:
        raise LimbeckError(
            f"{name}: the tokenizer has no token that ends a text (eos or sep), so no translation would end; take one "
            "that has, or train one"
        )
    return int(end)
