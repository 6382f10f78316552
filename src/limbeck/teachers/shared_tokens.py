"""A teacher with another vocabulary, as probabilities of the tokens that both have and of all others together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from limbeck.alignment import same_vocabulary, shared_tokens
from limbeck.losses import Loss
from limbeck.losses.numeric import positive
from limbeck.teachers.base import Teacher
from limbeck.teachers.ensemble import TeacherLike, as_teacher
from limbeck.teachers.fingerprint import combined
from limbeck.teachers.retokenized import Retokenized
from limbeck.tokens import LOGITS, TokenPlan
from limbeck.types import Batch, LinearHead, Signal, TopK, dense_logits

CHUNK = 1 << 26
"""Logits that are written down at a time."""


class SharedTokens(Teacher):
    """A retokenized teacher's distribution over the tokens that stand for the same bytes in both vocabularies, and one
    bucket for all others.

    A divergence from it is exact between these outcomes: of the shared tokens both sides give their probability under
    the softmax over their whole vocabulary, of the bucket what is left. The end of a text, and special tokens of one
    role or name, are shared. Rows beyond the teacher's tokenizer, with which its vocabulary is padded, take no part.

    A token is a decision where to cut as well as what to say: a teacher without the token `ing` spreads its probability
    over how it would write it, of which only the first piece can be shared.

    Args:
        teacher: the teacher at the student's tokens.
        temperature: T > 0, which must be that of the terms' losses.
    """

    compact = True

    def __init__(self, teacher: Retokenized, *, temperature: float = 1.0) -> None:
        self.teacher = teacher
        self.temperature = positive(temperature, "SharedTokens temperature")
        speller = teacher.speller
        end = speller.student.tokenizer.eos_token_id
        special = {own: speller.inside[own] for own in sorted(speller.inside, key=lambda own: own != end)}
        self.student_ids, self.teacher_ids = shared_tokens(speller.student, speller.teacher, special)

    def require(self, names: Collection[str]) -> None:
        self.teacher.require(names)
        self.teacher.give_heads(True)

    def refuses(self, name: str, loss: Loss) -> str:
        if TopK not in loss.targets:
            return (
                f"the loss {loss.name!r} needs every class of the teacher's, and the vocabularies share "
                f"{len(self.student_ids)} tokens; take a divergence (kd, reverse-kl, …), or give the teacher without "
                "SharedTokens to 'uld'"
            )
        asked = getattr(loss, "temperature", None)
        if asked != self.temperature:
            return f"its temperature is {asked}, and that of SharedTokens {self.temperature:g}; give both the same"
        return ""

    def identity(self) -> str:
        return combined(self.teacher.identity(), "shared", repr(self.temperature))

    def modules(self) -> Iterable[nn.Module]:
        return self.teacher.modules()

    def masks(self, batch: Batch) -> dict[str, Tensor]:
        """As of the teacher inside."""
        return self.teacher.masks(batch)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Signal:
        signal = self.teacher(batch)
        logits = signal.target(LOGITS)
        assert isinstance(logits, Tensor | LinearHead)
        rows = logits if isinstance(logits, Tensor) else logits.hidden
        at = TokenPlan(batch, causal=True).where(LOGITS).to(rows.device)
        rows, spoken = rows.flatten(0, 1), signal.masks[LOGITS].flatten()[at]
        student_ids, teacher_ids = (ids.to(rows.device) for ids in (self.student_ids, self.teacher_ids))
        # Where the teacher says nothing, every outcome is as likely: it has to be finite, and counts for nothing.
        level = -math.log(len(student_ids) + 1)
        kind = torch.float64 if rows.dtype is torch.float64 else torch.float32
        log_probs = torch.full((len(at), len(student_ids)), level, dtype=kind, device=rows.device)
        log_tail = torch.full((len(at),), level, dtype=kind, device=rows.device)
        vocabulary = logits.shape[-1] if isinstance(logits, Tensor) else len(logits.weight)
        for where in spoken.nonzero().squeeze(1).split(max(1, CHUNK // vocabulary)):
            some = rows.index_select(0, at[where])
            if isinstance(logits, LinearHead):
                some = dense_logits(LinearHead(some, logits.weight, logits.bias, logits.scale, logits.softcap))
            log_p = (some.to(kind) / self.temperature).log_softmax(-1)
            log_probs[where] = log_p.index_select(1, teacher_ids)
            log_tail[where] = log_p.index_fill(1, teacher_ids, -math.inf).logsumexp(1)
        ids = student_ids.expand(len(at), -1)
        return Signal({}, {LOGITS: spoken}, {LOGITS: TopK(ids, log_probs, log_tail, self.temperature)})


def across_tokenizers(
    teacher: TeacherLike,
    teacher_tokenizer: PreTrainedTokenizerFast,
    student_tokenizer: PreTrainedTokenizerFast,
    *,
    shared: bool = True,
    temperature: float = 1.0,
    special: Mapping[str, str] | None = None,
    max_length: int | None = None,
) -> Teacher:
    """The teacher as a student with this tokenizer can learn from it: as it is where their vocabulary is one, else at
    the student's tokens, over the tokens that both have (`shared`) or over its own. Other arguments as of `Retokenized`
    and `SharedTokens`."""
    if same_vocabulary(student_tokenizer, teacher_tokenizer):
        return as_teacher(teacher)
    other = Retokenized(teacher, teacher_tokenizer, student_tokenizer, special=special, max_length=max_length)
    return SharedTokens(other, temperature=temperature) if shared else other
