"""A causal language model with a tokenizer of its own, which reads the student's texts and answers at its tokens."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from limbeck.alignment import NOWHERE, align, same_vocabulary
from limbeck.errors import LimbeckError
from limbeck.losses import Loss
from limbeck.teachers.base import Teacher
from limbeck.teachers.ensemble import TeacherLike, as_teacher
from limbeck.teachers.fingerprint import combined
from limbeck.teachers.spelling import Document, Speller
from limbeck.tokens import LOGITS, Addresses
from limbeck.types import Batch, LinearHead, Signal

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Texts whose tokens in the teacher's words are kept for the next time that they come."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A batch in the teacher's tokens, and which of them answers for each of the student's.

    `batch` has a row a text, `input_ids` and `attention_mask` (texts, other length); `positions` (batch, length) int64
    are places in its flattened rows, -1 where no token of the teacher's ends at that byte.
    """

    batch: Batch
    positions: Tensor


class Retokenized(Teacher):
    """A teacher with another tokenizer: its logits, in its own vocabulary, at the student's tokens.

    The text that the student's tokens spell is written again in the teacher's. Where both have just ended a token at
    the same byte, both next-token distributions are after the same text, and the teacher's is given; the signal's mask
    is False at the other tokens. Documents packed into one row are read one by one. Bytes that are no text (a character
    cut by the end of a row) and a text that the teacher's tokenizer does not give back, as one that lowers its case,
    are aligned up to there.

    The vocabularies differ, so this serves losses that compare no class with its namesake, such as `uld`; for
    divergences over the tokens that both have see `SharedTokens`.

    Args:
        teacher: a causal language model, or a Teacher that gives its logits.
        teacher_tokenizer: the teacher's own.
        student_tokenizer: that of the batches' `input_ids`.
        special: the teacher's token for special tokens of the student's that have neither the same role nor the same
            name there, such as `{"<|im_end|>": "<end_of_turn>"}`.
        max_length: how many tokens of a text the teacher reads; beyond them nothing is aligned. None reads all.

    Raises:
        LimbeckError: the bytes of a tokenizer's tokens cannot be told, or the tokenizers have one vocabulary; when
            called, a special token within a text has no counterpart, or nothing of the first batch is aligned.
    """

    def __init__(
        self,
        teacher: TeacherLike,
        teacher_tokenizer: PreTrainedTokenizerFast,
        student_tokenizer: PreTrainedTokenizerFast,
        *,
        special: Mapping[str, str] | None = None,
        max_length: int | None = None,
    ) -> None:
        if same_vocabulary(student_tokenizer, teacher_tokenizer):
            raise LimbeckError(
                "Retokenized: student and teacher have one vocabulary, so the teacher can read the student's tokens as "
                "they are; give it without Retokenized (padding of a model's vocabulary needs nothing either)"
            )
        self.teacher = as_teacher(teacher)
        self.speller = Speller(student_tokenizer, teacher_tokenizer, special, max_length)
        self._known: OrderedDict[bytes, Document] = OrderedDict()
        self._aligned = self._told = False

    def require(self, names: Collection[str]) -> None:
        if other := sorted(set(names) - {LOGITS}):
            raise LimbeckError(
                f"a teacher with another tokenizer has other tokens, so its {other[0]!r} cannot be compared token by "
                "token; only its logits can"
            )
        self.teacher.require(names)

    def refuses(self, name: str, loss: Loss) -> str:
        if loss.aligned:
            return (
                f"the loss {loss.name!r} compares class with class, and the teacher's vocabulary is another; wrap the "
                "teacher in SharedTokens, or take 'uld'"
            )
        return self.teacher.refuses(name, loss)

    def give_heads(self, wanted: bool) -> bool:
        return self.teacher.give_heads(wanted)

    def identity(self) -> str:
        return combined(self.teacher.identity(), self.speller.identity())

    def modules(self) -> Iterable[nn.Module]:
        return self.teacher.modules()

    def masks(self, batch: Batch) -> dict[str, Tensor]:
        """Where the teacher's logits stand for something, without running it: (batch, length) boolean by name."""
        return {LOGITS: self.read(batch).positions >= 0}

    def __call__(self, batch: Batch) -> Signal:
        reading = self.read(batch)
        logits = self.teacher(reading.batch).target(LOGITS)
        known = slice(self.speller.vocabulary)
        if isinstance(logits, LinearHead) and logits.hidden.dim() == 3:
            bias = None if logits.bias is None else logits.bias[known]
            hidden = _at(logits.hidden, reading.positions)
            head = replace(logits, hidden=hidden, weight=logits.weight[known], bias=bias)
            return Signal({}, {LOGITS: reading.positions >= 0}, {LOGITS: head})
        if not isinstance(logits, Tensor) or logits.dim() != 3:
            raise LimbeckError(
                "Retokenized: expected a teacher that gives logits (batch, length, vocabulary); give it a live causal "
                "language model"
            )
        return Signal({LOGITS: _at(logits[..., known], reading.positions)}, {LOGITS: reading.positions >= 0})

    @torch.no_grad()
    def read(self, batch: Batch) -> Reading:
        """The batch's texts in the teacher's tokens."""
        device = batch["input_ids"].device
        needed = ("input_ids", "attention_mask", "position_ids", "document_ids", "ids")
        here = {name: batch[name].cpu() for name in needed if name in batch}
        texts = Addresses(here)
        at = texts.real.flatten().nonzero().squeeze(1)
        begins = (texts.places.flatten()[at] == 0).nonzero().squeeze(1).tolist()
        ids = here["input_ids"].flatten()[at]
        documents = self._documents([ids[a:b] for a, b in zip(begins, [*begins[1:], len(ids)], strict=True)])
        mine, theirs = (
            pad_sequence([getattr(each, side) for each in documents], batch_first=True, padding_value=NOWHERE)
            for side in ("student_ends", "teacher_ends")
        )
        rows = pad_sequence([each.teacher_ids for each in documents], batch_first=True, padding_value=NOWHERE)
        pairs = align(mine, theirs)
        flat = torch.where(pairs >= 0, pairs + torch.arange(len(rows)).unsqueeze(1) * rows.shape[1], NOWHERE)
        lengths = torch.tensor([len(each.student_ends) for each in documents])
        positions = torch.full((texts.real.numel(),), NOWHERE)
        positions[at] = flat[torch.arange(mine.shape[1]) < lengths.unsqueeze(1)]
        self._tell(documents, positions[at])
        read = {"input_ids": torch.where(rows >= 0, rows, self.speller.filling), "attention_mask": (rows >= 0).long()}
        there = {name: tensor.to(device) for name, tensor in read.items()}
        return Reading(there, positions.view_as(texts.real).to(device))

    def _documents(self, texts: Sequence[Tensor]) -> list[Document]:
        """Texts by their student's tokens; those that came lately are known."""
        keys = [text.numpy().tobytes() for text in texts]
        unknown = {key: text.tolist() for key, text in zip(keys, texts, strict=True) if key not in self._known}
        self._known.update(zip(unknown, self.speller.documents(list(unknown.values())), strict=True))
        for key in keys:
            self._known.move_to_end(key)
        found = [self._known[key] for key in keys]
        while len(self._known) > max(REMEMBERED, len(keys)):
            self._known.popitem(last=False)
        return found

    def _tell(self, documents: Sequence[Document], positions: Tensor) -> None:
        """Says once that texts do not come back from the teacher's tokenizer.

        Raises:
            LimbeckError: not one token of the first batch is aligned.
        """
        aligned = float((positions >= 0).float().mean()) if len(positions) else 1.0
        if not aligned and not self._aligned:
            raise LimbeckError(
                "Retokenized: no token of the student's ends where one of the teacher's does; the student's tokenizer "
                "is probably not the one that made the batch"
            )
        self._aligned = True
        lost = sum(each.lost for each in documents)
        if lost and not self._told:
            self._told = True
            log.warning(
                "the teacher's tokenizer does not give back %d of %d texts as the student's tokens spell them, so they "
                "are aligned only up to the first difference; %.0f %% of the tokens of this batch have a teacher",
                lost, len(documents), 100 * aligned,
            )  # fmt: skip


def _at(rows: Tensor, positions: Tensor) -> Tensor:
    """(batch, length, …) from rows (texts, other length, …) at flattened positions; 0 where there is none."""
    taken = rows.flatten(0, 1).index_select(0, positions.clamp(min=0).flatten()).view(*positions.shape, -1)
    return taken.masked_fill((positions < 0).unsqueeze(-1), 0.0)
