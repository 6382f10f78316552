"""Tokens: which positions of a batch of texts count, and the signals at just those."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from limbeck.checks import LimbeckError
from limbeck.content import content_ids
from limbeck.types import UNLABELLED, Batch, LinearHead, Signal

IGNORED = -100
"""The label of a token that is neither learned nor distilled, as transformers writes it."""

LOGITS = "logits"


class TokenPlan:
    """The positions of a batch's texts that count, and how signals are brought to them.

    A hidden state counts where `attention_mask` is 1. A causal model's logits at position j predict token j + 1: they
    count where both are text, `labels` at j + 1 is not -100 (-1 distils without a label), and j + 1 does not begin
    another packed document (`position_ids` starting again, or another number in `document_ids`).

    Attributes:
        labels: of the tokens predicted, (items,) int64, for a causal model; the batch's own labels otherwise.
    """

    def __init__(self, batch: Batch, *, causal: bool, compact: bool = True) -> None:
        ids = batch.get("input_ids", batch.get("inputs"))
        if ids is None:
            raise LimbeckError(f"a batch of texts needs input_ids (or inputs), got {', '.join(batch)}")
        self.shape = (len(ids), ids.shape[1])
        self._compact = compact
        self._valid = _Positions.where(batch.get("attention_mask"), self.shape, compact)
        self.labels = batch.get("labels")
        self._next: _Positions | None = None
        if causal:
            where, labels = next_tokens(batch, ids)
            self._next = _Positions.where(where, self.shape, compact)
            self.labels = self._next.take(labels)

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
            if isinstance(target, LinearHead) and target.hidden.dim() == 3 and self._next is not None:
                targets[name] = replace(target, hidden=self._next.take(target.hidden))
                if self._next.mask is not None:
                    masks[name] = self._next.mask
        return Signal(tensors, masks, targets)

    def covers(self, name: str, tensor: Tensor) -> bool:
        """Whether a signal has a row for each token."""
        return self._positions(name, tensor) is not None

    @property
    def next_count(self) -> int | Tensor:
        """How many tokens are predicted."""
        assert self._next is not None
        return self._next.count

    @property
    def valid_count(self) -> int | Tensor:
        """How many tokens are text."""
        return self._valid.count

    def where(self, per: str) -> Tensor:
        """The flattened positions, (items,) int64, at which signals have rows: `token` or `next-token`."""
        positions = self._next if per == "next-token" else self._valid
        assert positions is not None
        return positions.index(self.shape)

    def _positions(self, name: str, tensor: Tensor) -> _Positions | None:
        if tensor.dim() < 3 or tuple(tensor.shape[:2]) != self.shape or name.startswith("attention."):
            return None
        return self._next if name == LOGITS else self._valid


def text_addresses(batch: Batch, ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each token of `ids` (batch, length) the id of the text it belongs to, and its place in it, of that shape.

    A text is called by the batch's `ids`, or by its content. In a packed batch (`position_ids` that start again) each
    document is a text, called by `document_ids` or by its content.
    """
    mask, positions = batch.get("attention_mask"), batch.get("position_ids")
    names = batch.get("document_ids")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    if names is None and positions is None:
        texts = batch["ids"] if "ids" in batch else content_ids(ids, real)
        return texts.unsqueeze(1).expand_as(ids), real.long().cumsum(1) - 1
    begins = torch.ones_like(ids, dtype=torch.bool)
    if positions is not None:
        begins[:, 1:] = positions[:, 1:] <= positions[:, :-1]
    if names is not None:
        changes = names[:, 1:] != names[:, :-1]
        begins[:, 1:] = changes if positions is None else begins[:, 1:] | changes
    at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    places = at - torch.where(begins, at, 0).cummax(1).values
    if names is None:
        names = _document_names(ids.flatten(), begins.flatten(), places.flatten()).view_as(ids)
    return names, places


def _document_names(ids: Tensor, begins: Tensor, places: Tensor) -> Tensor:
    """The content id of the document that each token (tokens,) belongs to."""
    document = begins.long().cumsum(0) - 1
    lengths = document.bincount()
    padded = ids.new_zeros(len(lengths), int(lengths.max()))
    padded[document, places] = ids
    inside = torch.arange(padded.shape[1], device=ids.device) < lengths.unsqueeze(1)
    return content_ids(padded, inside)[document]


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
