"""Language models run over a text, a batch at a time: what it costs them, and how near two of them are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from limbeck.errors import LimbeckError
from limbeck.metrics import agreement
from limbeck.metrics.language import language_metrics, token_divergences, token_scores, vocabulary_of
from limbeck.models.forward import evaluating
from limbeck.sources import as_training_data
from limbeck.sources.texts import PackedSet
from limbeck.taps import LOGITS, SignalReader
from limbeck.tokens import TokenPlan
from limbeck.types import UNLABELLED, Batch, LinearHead, Signal

Reader = Callable[[Batch], Signal]
"""What gives a batch's signal, as a model's reader or a Teacher does; its logits have a row for each token."""


@dataclass(frozen=True, slots=True, eq=False)
class LanguageScore:
    """What a text costs a model.

    Attributes:
        sum_nll: nats of all tokens with a label together.
        predicted: the model's most probable token for each, (tokens,) int64, in the order of the data.
        labels: the tokens themselves, (tokens,) int64, -1 where there is none.
        words, bytes: those of the labelled tokens; None where the data do not know them.
    """

    sum_nll: float
    predicted: Tensor
    labels: Tensor
    words: int | None = None
    bytes: int | None = None

    @property
    def tokens(self) -> int:
        """How many tokens have a label."""
        return int((self.labels != UNLABELLED).sum())

    def metrics(self) -> dict[str, float]:
        """`nll`, `perplexity`, `word_perplexity` and `bits_per_byte` (see `language_metrics`), and `accuracy`: the
        share of tokens that were the most probable one."""
        found = language_metrics(self.sum_nll, self.tokens, words=self.words, bytes=self.bytes)
        return found | {"accuracy": int((self.predicted == self.labels).sum()) / self.tokens}


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What a text costs a student and its teacher, and how far they are apart.

    Attributes:
        forward_kl: the mean over tokens of KL(teacher ‖ student), in nats.
        reverse_kl: the mean over tokens of KL(student ‖ teacher), in nats.
    """

    student: LanguageScore
    teacher: LanguageScore
    forward_kl: float
    reverse_kl: float

    def metrics(self) -> dict[str, float]:
        """`teacher_kl` (forward), `reverse_kl`, and of the most probable tokens `agreement` and who is right, as in
        `limbeck.metrics.fidelity`."""
        found = agreement(self.student.predicted, self.teacher.predicted, self.student.labels)
        first = {"agreement": found.pop("agreement"), "teacher_kl": self.forward_kl, "reverse_kl": self.reverse_kl}
        return first | found


def score(model: nn.Module | Reader, data: Any, *, batch_size: int = 16) -> LanguageScore:
    """What a text costs a causal language model, in eval mode and without gradient.

    Logits are made a chunk of tokens at a time where the model's head allows it, and never kept. A token counts where
    it would in training: it has a label, and is predicted from its own document.

    Args:
        model: a causal model, or a reader such as a Teacher.
        data: rows as a PackedSet has them, with an overlap for tokens that shall have context.
        batch_size: rows at a time.

    Raises:
        LimbeckError: no token counts, or the model gives no logits for each token.
    """
    with ExitStack() as stack:
        read = _reader(model, "model", stack)
        sums, predicted, labels = [], [], []
        for plan, (signal,) in _signals((read,), data, batch_size):
            assert plan.labels is not None
            found = token_scores(signal.target(LOGITS), plan.labels)
            sums.append(found.nll.sum())
            predicted.append(found.predicted)
            labels.append(plan.labels)
    return _score(sums, predicted, labels, data)


def compare_models(
    student: nn.Module | Reader, teacher: nn.Module | Reader, data: Any, *, batch_size: int = 16
) -> Comparison:
    """What a text costs two causal language models that have the same tokens, and how far they are apart.

    Entries by which one vocabulary is larger are padding: they are left out of the divergences and never predicted.
    Arguments and Raises as in `score`.
    """
    with ExitStack() as stack:
        readers = (_reader(student, "student", stack), _reader(teacher, "teacher", stack))
        sums: tuple[list[Tensor], list[Tensor]] = ([], [])
        predicted: tuple[list[Tensor], list[Tensor]] = ([], [])
        labels, apart = [], []
        for plan, signals in _signals(readers, data, batch_size):
            assert plan.labels is not None
            mine, theirs = (signal.target(LOGITS) for signal in signals)
            divergences = token_divergences(mine, theirs)
            apart.append(torch.stack([divergences.forward.sum(), divergences.reverse.sum()]))
            assert isinstance(mine, Tensor | LinearHead)
            assert isinstance(theirs, Tensor | LinearHead)
            vocabulary = min(vocabulary_of(mine), vocabulary_of(theirs))
            for index, logits in enumerate((mine, theirs)):
                found = token_scores(logits, plan.labels, vocabulary=vocabulary)
                sums[index].append(found.nll.sum())
                predicted[index].append(found.predicted)
            labels.append(plan.labels)
    mine_scored, theirs_scored = (_score(sums[index], predicted[index], labels, data) for index in (0, 1))
    forward, reverse = (torch.stack(apart).sum(0) / len(mine_scored.labels)).tolist()
    return Comparison(mine_scored, theirs_scored, forward, reverse)


def _reader(model: nn.Module | Reader, owner: str, stack: ExitStack) -> Reader:
    if not isinstance(model, nn.Module):
        return model
    stack.enter_context(evaluating(model))
    read = SignalReader(model, (LOGITS,), owner)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def moved(batch: Batch) -> Signal:
        there = {name: tensor.to(device) for name, tensor in batch.items()}
        return read.with_head(there) if read.has_head else read(there)

    return moved


def _signals(readers: tuple[Reader, ...], data: Any, batch_size: int) -> Iterator[tuple[TokenPlan, tuple[Signal, ...]]]:
    """Of each batch its tokens that count, and what the readers give for them."""
    rows, collate = as_training_data(data, None)
    for batch in DataLoader(rows, batch_size, collate_fn=collate):
        with torch.no_grad():
            given = [read(batch) for read in readers]
            target = given[0].target(LOGITS)
            assert isinstance(target, Tensor | LinearHead)
            device = (target if isinstance(target, Tensor) else target.hidden).device
            plan = TokenPlan({name: tensor.to(device) for name, tensor in batch.items()}, causal=True)
            signals = tuple(plan.apply(signal) for signal in given)
        yield plan, signals


def _score(sums: list[Tensor], predicted: list[Tensor], labels: list[Tensor], data: Any) -> LanguageScore:
    if not sums or not sum(map(len, labels)):
        raise LimbeckError("scoring: no token counts; give rows of two or more tokens of one document, with labels")
    words, size = (data.words, data.bytes) if isinstance(data, PackedSet) else (None, None)
    return LanguageScore(
        float(torch.stack(sums).sum()), torch.cat(predicted).cpu(), torch.cat(labels).cpu(), words, size
    )
