"""Answers to questions about a text: windows of the text, and the best part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.artifact.given import both_of, text_of
from limbeck.artifact.opened import Opened
from limbeck.artifact.running import best_first, chunks
from limbeck.artifact.texts import Texts, encoding_names
from limbeck.errors import LimbeckError

BEST = 20
"""Likeliest starts and ends that are looked at in each window."""
WINDOWS = 32
"""Windows that are run at a time."""


def predict(artifact: Opened, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """The part of each `context` that answers its `question`, by the characters where it begins and ends; an empty one
    where there is none."""
    tokenizer, stride = artifact.tokenizer, int(artifact.setting("stride"))
    windows, counts, contexts = [], [], []
    for number, given in enumerate(inputs):
        question, context = (text_of(each, number) for each in both_of(given, number, ("question", "context")))
        own = tokenizer.windows(cut(tokenizer, question), context, stride)
        if not own[0].ids:
            raise LimbeckError(f"input {number}: the question and its context give no token")
        windows += own
        counts.append(len(own))
        contexts.append(context)
    logits: list[NDArray[Any]] = []
    for part in chunks(windows, WINDOWS):
        logits += list(artifact.model(tokenizer.padded([encoding_names(each) for each in part]))["logits"])
    answers, first = [], 0
    for context, count in zip(contexts, counts, strict=True):
        answers.append(_answer(artifact, context, windows[first : first + count], logits[first : first + count]))
        first += count
    return answers


def cut(tokenizer: Texts, question: str) -> str:
    """A question, cut where it would fill more than half of a window."""
    limit = tokenizer.card.max_length // 2
    kept, encoded = limit, tokenizer.bare(question)
    while len(encoded.ids) > limit:
        question = question[: encoded.offsets[kept - 1][1]]
        encoded, kept = tokenizer.bare(question), kept - 1
    return question


def offsets_of(window: Any) -> NDArray[np.int64]:
    """Where a window's tokens begin and end in the context, (length, 2), -1 where no answer may begin or end."""
    offsets = np.array(window.offsets, np.int64).reshape(-1, 2)
    inside = np.array([part == 1 for part in window.sequence_ids]) & (offsets[:, 1] > offsets[:, 0])
    offsets[~inside] = -1
    return offsets


def span(starts: NDArray[Any], ends: NDArray[Any], offsets: NDArray[np.int64], longest: int) -> tuple[float, int, int]:
    """The score of the best span of a window, and the tokens where it begins and ends; of logits (length,) each."""
    excluded = offsets[:, 0] < 0
    starts, ends = (np.where(excluded, -np.inf, each.astype(np.float64)) for each in (starts, ends))
    first, last = best_first(starts, BEST), best_first(ends, BEST)
    tokens = last[None] - first[:, None] + 1
    scores = np.where((tokens < 1) | (tokens > longest), -np.inf, starts[first][:, None] + ends[last][None])
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    return float(scores[row, column]), int(first[row]), int(last[column])


def _answer(artifact: Opened, context: str, windows: Sequence[Any], logits: Sequence[NDArray[Any]]) -> dict[str, Any]:
    longest, threshold = int(artifact.setting("max_answer_tokens")), artifact.setting("null_threshold")
    best, none, where = -np.inf, np.inf, (0, 0)
    for window, row in zip(windows, logits, strict=True):
        offsets = offsets_of(window)
        own = row[: len(offsets)]
        none = min(none, float(own[0].astype(np.float64).sum()))
        score, first, last = span(own[:, 0], own[:, 1], offsets, longest)
        if score > best:
            best, where = score, (int(offsets[first, 0]), int(offsets[last, 1]))
    if best == -np.inf or (threshold is not None and none - best > threshold):
        return {"answer": "", "start": None, "end": None, "score": none}
    return {"answer": context[where[0] : where[1]], "start": where[0], "end": where[1], "score": best}
