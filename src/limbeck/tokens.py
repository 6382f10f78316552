"""Tokens: which positions of a batch of texts count, and the signals at just those."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from limbeck.checks import LimbeckError
from limbeck.content import text_content
from limbeck.types import UNLABELLED, Batch, LinearHead, Signal

IGNORED = -100
"""The label of a token that is neither learned nor distilled, as transformers writes it."""

LOGITS = "logits"


class TokenPlan:
    """The positions of a batch's texts that count, and how signals are brought to them.

    A hidden state counts where `attention_mask` is 1. A causal model's logits at position j predict token j + 1: they
    count where both are text, `labels` at j + 1 is not -100 (-1 distils without a label), and j + 1 does not begin
    another packed document (`position_ids` starting again, or another number in `document_ids`). Another model's logits
    with a row a token, as of an encoder that tags tokens, count where the text does and the token's label, if each has
    one, is not -100.

    Attributes:
        labels: of the items that logits are given for, (items,) int64; the batch's own where these are not of tokens.
    """

    def __init__(self, batch: Batch, *, causal: bool, compact: bool = True) -> None:
        ids = batch.get("input_ids", batch.get("inputs"))
        if ids is None:
            raise LimbeckError(f"a batch of texts needs input_ids (or inputs), got {', '.join(batch)}")
        self.shape: tuple[int, int] = (len(ids), ids.shape[1])
        self._compact = compact
        self._valid = _Positions.where(batch.get("attention_mask"), self.shape, compact)
        self.labels = batch.get("labels")
        self._logits: _Positions | None = self._valid
        if causal:
            where, labels = next_tokens(batch, ids)
            self._logits = _Positions.where(where, self.shape, compact)
            self.labels = self._logits.take(labels)
        elif "decoder_input_ids" in batch:
            self._logits = None  # they are of other tokens
        elif self.labels is not None and tuple(self.labels.shape) == self.shape and not self.labels.is_floating_point():
            where = self.labels != IGNORED
            where = where if "attention_mask" not in batch else where & batch["attention_mask"].bool()
            self._logits = _Positions.where(where, self.shape, compact)
            self.labels = self._logits.take(self.labels.masked_fill(~where, UNLABELLED))

    def apply(self, signal: Signal) -> Signal:
        """The signal with one row for each token that counts; what has no row a token stays as it is."""
        tensors: dict[str, Tensor] = {}
        masks = dict(signal.masks)
        for name, tensor in signal.tensors.items():
            positions = self._positions(name, tensor)
            tensors[name] = tensor if positions is None else positions.take(tensor)
            if positions is not None and positions.mask is not None:
                masks[name] = positions.mask
        targets = dict(signal.targets)
        for name, target in targets.items():
            if isinstance(target, LinearHead) and target.hidden.dim() == 3 and self._logits is not None:
                targets[name] = replace(target, hidden=self._logits.take(target.hidden))
                if self._logits.mask is not None:
                    masks[name] = self._logits.mask
        return Signal(tensors, masks, targets)

    def covers(self, name: str, tensor: Tensor) -> bool:
        """Whether a signal has a row for each token."""
        return self._positions(name, tensor) is not None

    @property
    def logits_count(self) -> int | Tensor:
        """How many tokens logits are given for."""
        assert self._logits is not None
        return self._logits.count

    @property
    def valid_count(self) -> int | Tensor:
        """How many tokens are text."""
        return self._valid.count

    def where(self, name: str) -> Tensor:
        """The flattened positions, (items,) int64, at which a signal with a row a token has its rows."""
        positions = self._logits if name == LOGITS else self._valid
        assert positions is not None
        return positions.index(self.shape)

    def _positions(self, name: str, tensor: Tensor) -> _Positions | None:
        if tensor.dim() < 3 or tuple(tensor.shape[:2]) != self.shape or name.startswith("attention."):
            return None
        return self._logits if name == LOGITS else self._valid


class Addresses:
    """Of each token of a batch of texts on the CPU the text that it belongs to, and its place in it.

    A text is called by the batch's `ids`, or by its content. In a packed batch (`position_ids` that start again, or
    `document_ids`) each document is a text, called by `document_ids` or by its content. Padding belongs to none.

    Attributes:
        names: the id of each token's text, (batch, length) int64.
        places: its place in that text, (batch, length) int64.
        real: what is no padding, (batch, length) boolean.
        packed: whether a row holds several texts.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        ids = batch["input_ids"]
        mask, positions, names = (batch.get(each) for each in ("attention_mask", "position_ids", "document_ids"))
        self.real = torch.ones_like(ids, dtype=torch.bool) if mask is None or mask.dim() != 2 else mask.bool()
        before = self.real.long().cumsum(1) - self.real.long()
        begins = torch.zeros_like(ids, dtype=torch.bool)
        if positions is not None:
            begins[:, 1:] = positions.expand_as(ids)[:, 1:] <= positions.expand_as(ids)[:, :-1]
        if names is not None:
            begins[:, 1:] |= names[:, 1:] != names[:, :-1]
        self.packed = names is not None or bool((begins & self.real & (before > 0)).any())
        begins = begins if self.packed else torch.zeros_like(begins)
        begins[:, 0] = True
        at = torch.arange(ids.shape[1]).expand_as(ids)
        self.places = before - before.gather(1, torch.where(begins, at, 0).cummax(1).values)
        self._document = begins.flatten().long().cumsum(0).view_as(ids) - 1
        if names is not None:
            self.names = names
        elif "ids" in batch and not self.packed:
            self.names = batch["ids"].unsqueeze(1).expand_as(ids)
        else:
            self.names = self.content()

    def content(self) -> Tensor:
        """The content id of each token's text, (batch, length) int64."""
        ids, segments = self._batch["input_ids"], self._batch.get("token_type_ids")
        if not self.packed:
            return text_content(ids, self.real, segments).unsqueeze(1).expand_as(ids)
        document, place = self._document[self.real], self.places[self.real]
        shape = (int(self._document[-1, -1]) + 1, int(self.places.max()) + 1)
        inside = torch.zeros(shape, dtype=torch.bool)
        inside[document, place] = True

        def apart(values: Tensor) -> Tensor:
            texts = torch.zeros(shape, dtype=torch.int64)
            texts[document, place] = values[self.real].long()
            return texts

        return text_content(apart(ids), inside, None if segments is None else apart(segments))[self._document]


class _Positions:
    """Some of the positions of (batch, length), flattened: as an index, or as a mask where nothing is to be moved."""

    def __init__(self, index: Tensor | None, mask: Tensor | None, count: int | Tensor) -> None:
        self._index = index
        self.mask = mask
        self.count = count

    @classmethod
    def where(cls, mask: Tensor | None, shape: tuple[int, int], compact: bool) -> _Positions:
        total = shape[0] * shape[1]
        if mask is None:
            return cls(None, None, total)
        flat = mask.reshape(-1).bool()
        if not compact:
            return cls(None, flat, flat.sum())
        index = flat.nonzero().squeeze(1)
        return cls(None if len(index) == total else index, None, len(index))

    def index(self, shape: tuple[int, int]) -> Tensor:
        """The flattened positions themselves, (items,) int64."""
        return torch.arange(shape[0] * shape[1]) if self._index is None else self._index

    def take(self, values: Tensor) -> Tensor:
        """(items, …) from (batch, length, …)."""
        flat = values.flatten(0, 1)
        return flat if self._index is None else flat.index_select(0, self._index)


def next_tokens(batch: Batch, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Where logits count, (batch, length) boolean, and the label that each predicts, int64, -1 elsewhere.

    The last position predicts nothing. Without `labels` the texts are their own.
    """
    given = batch.get("labels")
    if given is not None and given.dim() == 1 and not bool((given != UNLABELLED).any()):
        given = None  # a collator's word for a sample without a label
    labels = ids if given is None else given
    if labels.shape != ids.shape:
        raise LimbeckError(
            f"a causal language model needs a label a token: expected labels of shape {tuple(ids.shape)}, got "
            f"{tuple(labels.shape)}; use -100 for tokens that do not count"
        )
    shifted = torch.full_like(labels, UNLABELLED)
    shifted[:, :-1] = labels[:, 1:]
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, :-1] = shifted[:, :-1] != IGNORED
    attention = batch.get("attention_mask")
    if attention is not None and attention.dim() == 2:
        real = attention.bool()
        where[:, :-1] &= real[:, 1:] & real[:, :-1]
    positions, documents = batch.get("position_ids"), batch.get("document_ids")
    if positions is not None:
        where[:, :-1] &= positions[:, 1:] > positions[:, :-1]
    if documents is not None:
        where[:, :-1] &= documents[:, 1:] == documents[:, :-1]
    return where, torch.where(where, shifted, UNLABELLED)
