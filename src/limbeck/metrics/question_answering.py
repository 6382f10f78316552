"""Extractive question answering: answers from logits, how right they are by SQuAD's official rules, and how near a
student's are to its teacher's."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError

BLOCK = 1024
"""Windows that are decoded at a time."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Asked(Protocol):
    """A question about a context."""

    @property
    def id(self) -> str: ...
    @property
    def context(self) -> str: ...


class Windows(Protocol):
    """Windows of contexts, as `limbeck.sources.texts.WindowSet` has them: `owners` (windows,) int64 says which of
    `questions` each is of."""

    @property
    def questions(self) -> Sequence[Asked]: ...
    @property
    def owners(self) -> Tensor: ...
    def offsets(self, indices: Tensor, /) -> Tensor:
        """Where tokens begin and end in the context, in characters, (windows, length, 2) int64; -1 where no answer may
        begin or end. The first token stands for no answer."""


def decode_spans(
    start_logits: Tensor,
    end_logits: Tensor,
    windows: Windows,
    *,
    n_best: int = 20,
    max_answer_tokens: int = 30,
    null_threshold: float = 0.0,
) -> dict[str, str]:
    """The answer to each question by its id: a part of its context, or "" for none.

    Of the pairs of the `n_best` likeliest starts and ends in each window the best sum of logits wins, over all windows
    of a question, as in the original BERT. There is no answer where the score of none, the least sum of the first
    token's logits over the windows, is above it by more than `null_threshold` (the rule of SQuAD 2.0).

    Args:
        start_logits: (windows, length), a row a window in their order, padded to one length with anything.
        end_logits: the same.
        n_best: starts and ends that are looked at in each window.
        max_answer_tokens: the longest answer.
        null_threshold: `math.inf` for data in which every question has an answer, as in SQuAD 1.1.

    Raises:
        LimbeckError: there is not one row a window, or logits are NaN.

    Devlin et al. 2019, "BERT", arXiv:1810.04805, sections 4.2 and 4.3; Rajpurkar et al. 2018, arXiv:1806.03822.
    """
    if n_best < 1 or max_answer_tokens < 1:
        raise LimbeckError(
            f"decode_spans: expected n_best and max_answer_tokens of at least 1, got {n_best} and {max_answer_tokens}"
        )
    best, nulls, begins, ends = [], [], [], []
    for (starts, finishes), offsets in _blocks((start_logits, end_logits), windows, "decode_spans"):
        excluded = offsets[..., 0] < 0
        few = min(n_best, offsets.shape[1])
        tops, first = starts.masked_fill(excluded, -torch.inf).topk(few)
        others, last = finishes.masked_fill(excluded, -torch.inf).topk(few)
        tokens = last.unsqueeze(1) - first.unsqueeze(2) + 1
        scores = tops.unsqueeze(2) + others.unsqueeze(1)
        scores.masked_fill_((tokens < 1) | (tokens > max_answer_tokens), -torch.inf)
        score, at = scores.flatten(1).max(1)
        chosen = first.gather(1, (at // few).unsqueeze(1)), last.gather(1, (at % few).unsqueeze(1))
        best.append(score)
        nulls.append(starts[:, 0] + finishes[:, 0])
        begins.append(offsets[..., 0].gather(1, chosen[0]).squeeze(1))
        ends.append(offsets[..., 1].gather(1, chosen[1]).squeeze(1))
    return _answers(windows, torch.cat(best), torch.cat(nulls), torch.cat(begins), torch.cat(ends), null_threshold)


def answer_metrics(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """SQuAD's official scores, of all questions that have references; an empty list is a question without an answer.

    - `exact_match`: the share of answers equal to one of the references, without case, punctuation, the articles a, an
      and the, and extra white space;
    - `f1`: the mean overlap of words with the reference that is nearest;
    - `has_answer_f1` and `no_answer_accuracy`: the F1 of questions that have an answer, and the share of the others
      that were given none; only where there are questions of both kinds, or of the second.

    Raises:
        LimbeckError: there are no references, or a question was not answered.

    Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1; Rajpurkar et al. 2018, arXiv:1806.03822.
    """
    if not references:
        raise LimbeckError("answer metrics: no question has references; evaluate on a split that has them")
    missing = [name for name in references if name not in predictions]
    if missing:
        raise LimbeckError(
            f"answer metrics: {len(missing)} of {len(references)} questions were not answered, {missing[0]!r} the "
            'first; give "" where there is no answer'
        )
    exact, f1, has = [], [], []
    for name, golds in references.items():
        given = normalized(predictions[name])
        right = [gold for gold in map(normalized, golds) if gold]
        has.append(bool(right))
        exact.append(float(given in right if right else not given))
        f1.append(max((overlap(given, gold) for gold in right), default=exact[-1]))
    metrics = {"exact_match": sum(exact) / len(exact), "f1": sum(f1) / len(f1)}
    answerable = [value for value, there in zip(f1, has, strict=True) if there]
    others = [value for value, there in zip(exact, has, strict=True) if not there]
    if answerable and others:
        metrics["has_answer_f1"] = sum(answerable) / len(answerable)
    if others:
        metrics["no_answer_accuracy"] = sum(others) / len(others)
    return metrics


def answer_fidelity(
    student: Mapping[str, str], teacher: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Agreement of a student's answers with its teacher's (Stanton et al. 2021, arXiv:2106.05945).

    - `agreement`: the share of all questions with the same answer, after `normalized`;
    - `teacher_f1`: the mean overlap of words of both answers;
    - `both_right`, `both_wrong`, `student_only`, `teacher_only`: the shares of the questions with references by whose
      answer is an exact match; left out where there are none.

    Raises:
        LimbeckError: the questions are not the same, or there is none.
    """
    if not student or student.keys() != teacher.keys():
        raise LimbeckError(
            f"answer fidelity: expected answers to the same questions, got {len(student)} of the student and "
            f"{len(teacher)} of the teacher, {len(student.keys() & teacher.keys())} in common"
        )
    pairs = [(normalized(student[name]), normalized(teacher[name])) for name in student]
    found = {
        "agreement": sum(mine == theirs for mine, theirs in pairs) / len(pairs),
        "teacher_f1": sum(overlap(mine, theirs) for mine, theirs in pairs) / len(pairs),
    }
    known = [name for name in references if name in student]
    if known:
        mine, theirs = (
            [answer_metrics({name: given[name]}, {name: references[name]})["exact_match"] == 1.0 for name in known]
            for given in (student, teacher)
        )
        counts = Counter(zip(mine, theirs, strict=True))
        kinds = {"both_right": (True, True), "both_wrong": (False, False)}
        kinds |= {"student_only": (True, False), "teacher_only": (False, True)}
        found |= {name: counts[kind] / len(known) for name, kind in kinds.items()}
    return found


def span_kl(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], windows: Windows) -> float:
    """The mean of KL(teacher ‖ student) at temperature 1, in nats, over the starts and ends of all windows.

    `student` and `teacher` are start and end logits, (windows, length) each, in the windows' order; probabilities are
    over the tokens where an answer may begin or end, and the first.

    Raises:
        LimbeckError: there is not one row a window, shapes differ, or logits are NaN.
    """
    total = 0.0
    same_shape(student[0], teacher[0], "span_kl")
    for parts, offsets in _blocks((*student, *teacher), windows, "span_kl"):
        excluded = offsets[..., 0] < 0
        excluded[:, 0] = False
        logs = [part.masked_fill(excluded, -torch.inf).log_softmax(-1) for part in parts]
        for log_q, log_p in ((logs[0], logs[2]), (logs[1], logs[3])):
            total += float(torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum())
    return total / (2 * len(windows.owners))


def normalized(text: str) -> str:
    """The text as SQuAD's official script compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def overlap(given: str, reference: str) -> float:
    """The F1 of the words of two normalized texts; of two empty ones 1, of one 0."""
    mine, theirs = given.split(), reference.split()
    if not mine or not theirs:
        return float(mine == theirs)
    common = (Counter(mine) & Counter(theirs)).total()
    return 2 * common / (len(mine) + len(theirs))


def _blocks(logits: Sequence[Tensor], windows: Windows, what: str) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The logits of some windows at a time, in float64 and cut to the longest, with these windows' offsets."""
    count = len(windows.owners)
    for each in logits:
        if each.dim() != 2 or len(each) != count:
            raise LimbeckError(
                f"{what}: expected logits of shape ({count}, length), a row a window, got {tuple(each.shape)}; give "
                "those of the whole split, in its order"
            )
    for start in range(0, count, BLOCK):
        at = torch.arange(start, min(start + BLOCK, count))
        offsets = windows.offsets(at)
        longest = offsets.shape[1]
        if min(each.shape[1] for each in logits) < longest:
            raise LimbeckError(f"{what}: a window has {longest} tokens, the logits only {logits[0].shape[1]}")
        parts = [each[at.to(each.device), :longest].detach().cpu().double() for each in logits]
        real = offsets[..., 0] >= 0
        real[:, 0] = True
        if any(bool(part[real].isnan().any()) for part in parts):
            raise LimbeckError(
                f"{what}: logits are NaN; training diverged: lower the learning rate, or train in float32 or bfloat16"
            )
        yield parts, offsets


def _answers(
    windows: Windows, best: Tensor, nulls: Tensor, begins: Tensor, ends: Tensor, threshold: float
) -> dict[str, str]:
    """The best window's answer to each question that has one."""
    owners, count = windows.owners, len(windows.questions)
    top = torch.full((count,), -torch.inf, dtype=best.dtype).scatter_reduce(0, owners, best, "amax")
    null = torch.full((count,), torch.inf, dtype=best.dtype).scatter_reduce(0, owners, nulls, "amin")
    none = (top == -torch.inf) | (null - top > threshold)
    answers: dict[str, str] = {}
    for row, owner in enumerate(owners.tolist()):
        question = windows.questions[owner]
        if bool(none[owner]):
            answers[question.id] = ""
        elif question.id not in answers and bool(best[row] == top[owner]):
            answers[question.id] = question.context[int(begins[row]) : int(ends[row])]
    return answers
