"""Answers against a decoder of plain loops, scores against the official script's rules, by hand and by torchmetrics."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence
from torchmetrics.functional.text import squad

from limbeck.errors import LimbeckError
from limbeck.metrics.question_answering import (
    answer_fidelity,
    answer_metrics,
    decode_spans,
    normalized,
    overlap,
    span_kl,
)


@dataclass(frozen=True)
class Asked:
    id: str
    context: str


class Words:
    """Windows over contexts of words of two letters: CLS, two tokens of the question, then words of the context."""

    def __init__(self, contexts: Sequence[int], room: int = 6, stride: int = 2) -> None:
        self.questions = [
            Asked(f"q{n}", " ".join(f"{w:02d}" for w in range(count))) for n, count in enumerate(contexts)
        ]
        self.spots: list[list[tuple[int, int]]] = []
        owners = []
        for owner, count in enumerate(contexts):
            start = 0
            while True:
                part = range(start, min(start + room, count))
                self.spots.append([(-1, -1)] * 3 + [(3 * word, 3 * word + 2) for word in part] + [(-1, -1)])
                owners.append(owner)
                if start + room >= count:
                    break
                start += room - stride
        self.owners = torch.tensor(owners)

    def offsets(self, indices: Tensor) -> Tensor:
        rows = [self.spots[index] for index in indices.tolist()]
        longest = max(map(len, rows))
        return torch.tensor([row + [(-1, -1)] * (longest - len(row)) for row in rows])


def by_loops(
    start: Tensor, end: Tensor, windows: Words, n_best: int, max_tokens: int, threshold: float
) -> dict[str, str]:
    """The procedure of the original BERT, as published code has it: candidates of every window in one list."""
    answers = {}
    for number, question in enumerate(windows.questions):
        null, candidates = math.inf, []
        for row in (windows.owners == number).nonzero().squeeze(1).tolist():
            spots = windows.spots[row]
            null = min(null, float(start[row, 0] + end[row, 0]))
            allowed = [token for token, spot in enumerate(spots) if spot[0] >= 0]
            starts = sorted(allowed, key=lambda token: -float(start[row, token]))[:n_best]
            ends = sorted(allowed, key=lambda token: -float(end[row, token]))[:n_best]
            for first in starts:
                for last in ends:
                    if first <= last < first + max_tokens:
                        score = float(start[row, first] + end[row, last])
                        candidates.append((score, question.context[spots[first][0] : spots[last][1]]))
        best = max(candidates, default=(-math.inf, ""))
        answers[question.id] = "" if null - best[0] > threshold else best[1]
    return answers


def random_logits(windows: Words, seed: int, length: int = 12) -> tuple[Tensor, Tensor]:
    start, end = torch.randn(2, len(windows.owners), length, generator=torch.Generator().manual_seed(seed)).double()
    return start, end


@pytest.mark.parametrize("threshold", [0.0, -1.5, math.inf])
@pytest.mark.parametrize(("n_best", "max_tokens"), [(20, 30), (2, 30), (20, 2), (1, 1)])
def test_answers_against_plain_loops(n_best: int, max_tokens: int, threshold: float) -> None:
    """The best window of another question, an end before its start, a token of the question or padding in an answer,
    the wrong sign of the threshold, the largest null score in place of the least."""
    windows = Words([14, 3, 6, 0, 25, 7, 1])
    kinds = set()
    for seed in range(8):
        start, end = random_logits(windows, seed)
        found = decode_spans(
            start, end, windows, n_best=n_best, max_answer_tokens=max_tokens, null_threshold=threshold
        )  # fmt: skip
        assert found == by_loops(start, end, windows, n_best, max_tokens, threshold)
        assert list(found) == [question.id for question in windows.questions]
        assert found["q3"] == "", "an empty context has no answer"
        kinds |= {bool(answer) for name, answer in found.items() if name != "q3"}
    assert kinds == ({True} if threshold == math.inf and n_best == 20 else {True, False})


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block's shorter windows that are read at other tokens, or questions cut by the end of a block."""
    windows = Words([14, 3, 6, 0, 25, 7, 1])
    start, end = random_logits(windows, 0)
    whole, kl = decode_spans(start, end, windows), span_kl((start, end), (end, start), windows)
    monkeypatch.setattr("limbeck.metrics.question_answering.BLOCK", 2)
    assert decode_spans(start, end, windows) == whole
    assert span_kl((start, end), (end, start), windows) == pytest.approx(kl)


def test_ten_thousand_windows_take_seconds() -> None:
    """A loop over pairs of tokens: minutes an epoch."""

    class Many(Words):
        spot = torch.arange(180).unsqueeze(1) * 3 + torch.tensor([0, 2])

        def offsets(self, indices: Tensor) -> Tensor:
            return torch.cat([torch.full((3, 2), -1), self.spot]).expand(len(indices), -1, -1)

    windows = Many([180] * 5000, room=180)
    windows.owners = torch.arange(10_000) // 2
    start, end = torch.randn(2, 10_000, 192)
    begun = time.perf_counter()
    answers = decode_spans(start, end, windows)
    assert time.perf_counter() - begun < 15
    assert len(answers) == 5000


def test_logits_that_do_not_fit_are_named() -> None:
    """Answers from the logits of another split, or from NaN."""
    windows = Words([14, 3])
    start, end = random_logits(windows, 0)
    with pytest.raises(LimbeckError, match=r"expected logits of shape \(4, length\), a row a window, got \(3, 12\)"):
        decode_spans(start[:3], end[:3], windows)
    with pytest.raises(LimbeckError, match="a window has 10 tokens, the logits only 7"):
        decode_spans(start[:, :7], end[:, :7], windows)
    with pytest.raises(LimbeckError, match="logits are NaN; training diverged"):
        decode_spans(start.index_fill(1, torch.tensor([4]), math.nan), end, windows)
    with pytest.raises(LimbeckError, match="of at least 1, got 0 and 30"):
        decode_spans(start, end, windows, n_best=0)
    beyond = start.clone()
    beyond[:, 11] = math.nan  # nobody looks at padding
    assert decode_spans(beyond, end, windows) == decode_spans(start, end, windows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, a dog AND an owl!", "cat dog and owl"),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),
        ("a.b the\tc", "ab c"),
        ("“quoted”", "“quoted”"),
        ("  ", ""),
        ("The", ""),
        ("$1,000.50", "100050"),
        ("İ", "i̇"),
    ],
)
def test_texts_are_compared_as_the_official_script_does(text: str, expected: str) -> None:
    """Articles before punctuation, or within words; punctuation beyond ASCII."""
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("given", "golds", "exact", "f1"),
    [
        ("The Normans", ["Normans"], 1, 1),
        ("normans.", ["Normandy", "the Normans"], 1, 1),
        ("in 10th century", ["10th and 11th centuries", "10th century"], 0, 0.8),
        ("a cat sat on cat", ["cat cat cat"], 0, 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),
        ("Paris", ["London", "Rome"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("Paris", [], 0, 0),
        ("", [], 1, 1),
        ("the", [], 1, 1),
        ("", [""], 1, 1),
        ("", ["the", "an"], 1, 1),
        ("Paris", ["the", "Paris"], 1, 1),
        ("", ["the", "Paris"], 0, 0),
        ("the", ["Paris"], 0, 0),
    ],
)
def test_scores_by_hand(given: str, golds: list[str], exact: float, f1: float) -> None:
    """Another gold than the nearest, words counted as a set, an empty answer that is half right."""
    found = answer_metrics({"q": given}, {"q": golds})
    assert found["exact_match"] == exact
    assert found["f1"] == pytest.approx(f1)
    assert ("no_answer_accuracy" in found) == (golds in ([], [""], ["the", "an"]))


def test_questions_of_both_kinds_are_told_apart() -> None:
    """The score of questions without an answer in that of the others."""
    references = {"a": ["Paris"], "b": [], "c": ["London bridge", "bridge"], "d": [], "e": []}
    predictions = {"a": "Paris", "b": "", "c": "the old bridge", "d": "Rome", "e": "a", "not asked": "x"}
    assert answer_metrics(predictions, references) == pytest.approx(
        {
            "exact_match": (1 + 1 + 0 + 0 + 1) / 5,
            "f1": (1 + 1 + 2 / 3 + 0 + 1) / 5,
            "has_answer_f1": (1 + 2 / 3) / 2,
            "no_answer_accuracy": 2 / 3,
        }
    )
    assert set(answer_metrics({"a": ""}, {"a": ["x"]})) == {"exact_match", "f1"}
    with pytest.raises(LimbeckError, match="2 of 5 questions were not answered, 'd' the first"):
        answer_metrics({"a": "", "b": "", "c": ""}, references)
    with pytest.raises(LimbeckError, match="no question has references"):
        answer_metrics({"a": ""}, {})


def test_scores_against_torchmetrics() -> None:
    """Another normalisation or counting than that of the official script of SQuAD 1.1."""
    words = [
        "The",
        "a",
        "Norman",
        "dynasty,",
        "in",
        "France.",
        "10th",
        "century",
        "(1066)",
        "king's",
        "an",
        "Rollo",
        "—",
    ]
    random.seed(0)

    def phrase(least: int) -> str:
        return " ".join(random.choices(words, k=random.randint(least, 6)))

    golds = {f"q{n}": [f"{phrase(1)} duke" for _ in range(random.randint(1, 4))] for n in range(400)}
    given = {name: random.choice([*texts, phrase(0), phrase(0)]) for name, texts in golds.items()}
    expected = squad(
        [{"id": name, "prediction_text": text} for name, text in given.items()],
        [{"id": name, "answers": {"text": texts, "answer_start": [0] * len(texts)}} for name, texts in golds.items()],
    )
    found = answer_metrics(given, golds)
    assert 100 * found["exact_match"] == pytest.approx(float(expected["exact_match"]), abs=1e-3)
    assert 100 * found["f1"] == pytest.approx(float(expected["f1"]), abs=1e-3)
    assert 0.2 < found["exact_match"] < 0.9


def test_agreement_by_hand() -> None:
    """Student and teacher swapped; agreement of spellings that the scores take for one."""
    student = {"a": "Paris", "b": "", "c": "the bridge", "d": "Rome"}
    teacher = {"a": "paris!", "b": "x", "c": "London bridge", "d": "Oslo"}
    references = {"a": ["Paris"], "b": [], "c": ["London bridge"], "d": ["Rome"], "not asked": ["x"]}
    found = answer_fidelity(student, teacher, references)
    assert found == pytest.approx(
        {
            "agreement": 1 / 4, "teacher_f1": (1 + 0 + overlap("bridge", "london bridge") + 0) / 4,
            "both_right": 1 / 4, "both_wrong": 0.0, "student_only": 2 / 4, "teacher_only": 1 / 4,
        }
    )  # fmt: skip
    assert set(answer_fidelity(student, teacher, {})) == {"agreement", "teacher_f1"}
    with pytest.raises(LimbeckError, match="answers to the same questions, got 4 of the student and 1 of the teacher"):
        answer_fidelity(student, {"a": ""}, {})


def test_divergence_against_a_loop() -> None:
    """Padding and the question in the probabilities, CLS left out of them, arguments swapped."""
    windows = Words([14, 3, 0])
    student, teacher = random_logits(windows, 0), random_logits(windows, 1)
    values = []
    for mine, theirs in zip(student, teacher, strict=True):
        for row, spots in enumerate(windows.spots):
            allowed = [0, *(token for token, spot in enumerate(spots) if spot[0] >= 0)]
            values.append(
                kl_divergence(Categorical(logits=theirs[row, allowed]), Categorical(logits=mine[row, allowed]))
            )
    assert span_kl(student, teacher, windows) == pytest.approx(float(torch.stack(values).mean()))
    assert span_kl(student, student, windows) == 0.0
    cut = (student[0].masked_fill(torch.arange(12) == 4, -math.inf), student[1])
    assert span_kl(cut, cut, windows) == 0.0
    with pytest.raises(LimbeckError, match="must be equal"):
        span_kl(student, (teacher[0][:, :10], teacher[1][:, :10]), windows)
