"""Tokens: which positions of a batch of texts count, and the signals at just those."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from limbeck.content import mixed, text_content
from limbeck.errors import LimbeckError
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

    An encoder-decoder has the tokens of two texts (`decoder_input_ids` in the batch). Its logits at position j of the
    target predict the label at j and count where that is not -100 (-1 distils without a label); the decoder's hidden
    states count where its tokens are no padding, the encoder's as any text's. See `of_encoder` and `decoder_tokens`.

    Where an answer is looked for in each text (`span_mask` or `start_positions` in the batch), logits (batch, length,
    2) become two items a text, its start and its end, with the positions as classes: (2 · batch, length). Positions
    outside `span_mask` (where there is none, padding) get -inf, for student and teacher alike. `spans` False makes such
    logits rows of tokens, as a label store keeps them.

    Attributes:
        labels: of the items that logits are given for, (items,) int64; the batch's own where these are not of tokens.
    """

    def __init__(self, batch: Batch, *, causal: bool, compact: bool = True, spans: bool = True) -> None:
        ids = batch.get("input_ids", batch.get("inputs"))
        if ids is None:
            raise LimbeckError(f"a batch of texts needs input_ids (or inputs), got {', '.join(batch)}")
        self.shape: tuple[int, int] = (len(ids), ids.shape[1])
        self._compact = compact
        self._valid = _Positions.where(batch.get("attention_mask"), self.shape, compact)
        self.labels = batch.get("labels")
        self._logits = self._decoded = self._valid
        self._spans = _Spans(batch, self.shape) if spans and seeks_spans(batch) else None
        if self._spans is not None:
            self.labels = self._spans.labels
        elif causal:
            where, labels = next_tokens(batch, ids)
            self._logits = _Positions.where(where, self.shape, compact)
            self.labels = self._logits.take(labels)
        elif "decoder_input_ids" in batch:
            counted, known = decoder_labels(batch)
            shape = (self.shape[0], batch["decoder_input_ids"].shape[1])
            self._logits = _Positions.where(counted, shape, compact)
            self._decoded = _Positions.where(decoder_tokens(batch), shape, compact)
            self.labels = None if known is None else self._logits.take(known)
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
            if name == LOGITS and self._spans is not None:
                tensors[name] = self._spans.items(tensor)
                continue
            positions = self._positions(name, tensor)
            tensors[name] = tensor if positions is None else positions.take(tensor)
            if positions is not None and (mask := positions.items_where(signal.masks.get(name))) is not None:
                masks[name] = mask
        targets = dict(signal.targets)
        for name, target in targets.items():
            if isinstance(target, LinearHead) and target.hidden.dim() == 3:
                targets[name] = replace(target, hidden=self._logits.take(target.hidden))
                if (mask := self._logits.items_where(signal.masks.get(name))) is not None:
                    masks[name] = mask
        return Signal(tensors, masks, targets)

    def covered(self, signal: Signal) -> set[str]:
        """The names of what has a row for each token."""
        heads = {name: target.hidden for name, target in signal.targets.items() if isinstance(target, LinearHead)}
        every = {**signal.tensors, **heads}
        return {name for name, tensor in every.items() if self._positions(name, tensor) is not None}

    @property
    def logits_count(self) -> int | Tensor:
        """How many items logits are given for."""
        return 2 * self.shape[0] if self._spans is not None else self._logits.count

    def count(self, name: str) -> int | Tensor:
        """How many tokens a signal with a row a token has rows for."""
        return self._of(name).count

    def items_where(self, name: str, mask: Tensor) -> Tensor:
        """A mask of tokens (batch, length) as one of the items, (items,) boolean, of a signal."""
        found = self._of(name).items_where(mask)
        assert found is not None
        return found

    def where(self, name: str) -> Tensor:
        """The flattened positions, (items,) int64, at which a signal with a row a token has its rows."""
        return self._of(name).index()

    def _of(self, name: str) -> _Positions:
        if name == LOGITS:
            return self._logits
        return self._valid if of_encoder(name) else self._decoded

    def _positions(self, name: str, tensor: Tensor) -> _Positions | None:
        if tensor.dim() < 3 or name.startswith("attention."):
            return None
        positions = self._of(name)
        return positions if tuple(tensor.shape[:2]) == positions.shape else None


class Addresses:
    """Of each token of a batch of texts on the CPU the text that it belongs to, and its place in it.

    A text is called by the batch's `ids`, or by its content. In a packed batch (`position_ids` that start again, or
    `document_ids`) each document is a text, called by `document_ids` or by its content. Padding belongs to none. In a
    batch for an encoder-decoder the tokens are those of the target, and source and target together are the content.

    Attributes:
        names: the id of each token's text, (batch, length) int64.
        places: its place in that text, (batch, length) int64.
        real: what is no padding, (batch, length) boolean.
        packed: whether a row holds several texts.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        decoder = "decoder_input_ids" in batch
        ids = batch["decoder_input_ids" if decoder else "input_ids"]
        positions, names = (None if decoder else batch.get(each) for each in ("position_ids", "document_ids"))
        self.real = real_tokens(batch)
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
            return batch_content(self._batch).unsqueeze(1).expand_as(self.real)
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

    def __init__(self, shape: tuple[int, int], index: Tensor | None, mask: Tensor | None, count: int | Tensor) -> None:
        self.shape = shape
        self._index = index
        self.mask = mask
        self.count = count

    @classmethod
    def where(cls, mask: Tensor | None, shape: tuple[int, int], compact: bool) -> _Positions:
        total = shape[0] * shape[1]
        if mask is None:
            return cls(shape, None, None, total)
        flat = mask.reshape(-1).bool()
        if not compact:
            return cls(shape, None, flat, flat.sum())
        index = flat.nonzero().squeeze(1)
        return cls(shape, None if len(index) == total else index, None, len(index))

    def index(self) -> Tensor:
        """The flattened positions themselves, (items,) int64."""
        return torch.arange(self.shape[0] * self.shape[1]) if self._index is None else self._index

    def items_where(self, mask: Tensor | None) -> Tensor | None:
        """Which items count, (items,), of those that a mask (batch, length) lets through; None where all do."""
        if mask is None or self.mask is None:
            return self.mask if mask is None else self.take(mask)
        return self.mask & self.take(mask)

    def take(self, values: Tensor) -> Tensor:
        """(items, …) from (batch, length, …)."""
        flat = values.flatten(0, 1)
        return flat if self._index is None else flat.index_select(0, self._index)


def seeks_spans(batch: Batch) -> bool:
    """Whether an answer is looked for in each text of a batch, by its start and its end."""
    return "span_mask" in batch or "start_positions" in batch


class _Spans:
    """The start and the end of each text's answer as items, with the text's positions as classes."""

    def __init__(self, batch: Batch, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._allowed = batch.get("span_mask", batch.get("attention_mask"))
        self.labels: Tensor | None = None
        if "start_positions" in batch:
            self.labels = torch.stack([batch["start_positions"], batch["end_positions"]], 1).flatten()

    def items(self, logits: Tensor) -> Tensor:
        """(2 · batch, length) from (batch, length, 2)."""
        if tuple(logits.shape) != (*self._shape, 2):
            raise LimbeckError(
                "a batch with span_mask or start_positions needs logits of a start and an end for each token, "
                f"{(*self._shape, 2)}, got {tuple(logits.shape)}; take a model for question answering"
            )
        if self._allowed is not None:
            logits = logits.masked_fill(~self._allowed.bool().unsqueeze(2), -torch.inf)
        return logits.transpose(1, 2).flatten(0, 1)


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


def of_encoder(name: str) -> bool:
    """Whether a signal of an encoder-decoder has a row for each token of the source, not of the target: so says the
    first part of its path that begins with `encoder` or `decoder`; where none does, it is of the target."""
    sides = (part.startswith("encoder") for part in name.split(".") if part.startswith(("encoder", "decoder")))
    return next(sides, False)


def decoder_tokens(batch: Batch) -> Tensor | None:
    """Which of a batch's `decoder_input_ids` are no padding, (batch, target length) boolean; None where all are.

    So says `decoder_attention_mask`, else `labels`: up to the last one that is not -100.
    """
    mask, labels = batch.get("decoder_attention_mask"), batch.get("labels")
    if mask is not None and mask.dim() == 2:
        return mask.bool()
    if labels is None or labels.shape != batch["decoder_input_ids"].shape:
        return None
    return (labels != IGNORED).flip(1).cumsum(1).flip(1) > 0


def decoder_labels(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Where the logits of an encoder-decoder count, (batch, target length) boolean (None: everywhere), and the label
    that each predicts, int64, -1 elsewhere; None where the batch has no labels.

    Raises:
        LimbeckError: the labels are not one a token of the target.
    """
    ids, labels, real = batch["decoder_input_ids"], batch.get("labels"), decoder_tokens(batch)
    if labels is None:
        return real, None
    if labels.dim() == 1 and not bool((labels != UNLABELLED).any()):
        return real, torch.full_like(ids, UNLABELLED)  # a collator's word for samples without a label
    if labels.shape != ids.shape:
        raise LimbeckError(
            f"an encoder-decoder needs a label a token of the target: expected labels of shape {tuple(ids.shape)}, as "
            f"decoder_input_ids, got {tuple(labels.shape)}; use -100 for padding"
        )
    where = labels != IGNORED
    where = where if real is None else where & real
    return where, labels.masked_fill(~where, UNLABELLED)


def real_tokens(batch: Batch, name: str = LOGITS) -> Tensor:
    """Which tokens are no padding, (batch, length) boolean, of the text that a signal has its rows for: in a batch for
    an encoder-decoder the target, or the source where the signal's name says so."""
    if "decoder_input_ids" in batch and not of_encoder(name):
        ids, mask = batch["decoder_input_ids"], decoder_tokens(batch)
    else:
        ids, mask = batch["input_ids"], batch.get("attention_mask")
    return torch.ones_like(ids, dtype=torch.bool) if mask is None or mask.dim() != 2 else mask.bool()


def batch_content(batch: Batch) -> Tensor:
    """The content ids of a batch's texts, (batch,) int64; where there is a target, of source and target together, as
    what a teacher says of a target's tokens depends on those before them."""
    source = text_content(batch["input_ids"], real_tokens(batch, "encoder"), batch.get("token_type_ids"))
    if "decoder_input_ids" not in batch:
        return source
    return mixed(source + text_content(batch["decoder_input_ids"], real_tokens(batch)))
