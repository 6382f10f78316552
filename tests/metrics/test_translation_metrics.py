"""limbeck.metrics.translation against sacreBLEU's own functions, and BLEU and chrF counted by hand."""

from __future__ import annotations

import builtins
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from limbeck.errors import LimbeckError
from limbeck.metrics import sentence_scores, translation_fidelity, translation_metrics

sacrebleu = pytest.importorskip("sacrebleu")

# The sentences of sacreBLEU's documentation, with the first of their references.
HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
REFERENCES = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
FIRST = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]


def words(text: str) -> list[str]:
    """What 13a makes of plain sentences: punctuation stands alone, apostrophes do not."""
    return re.sub(r"([.,!?])", r" \1 ", text).split()


def ngrams(items: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(items[at : at + size]) for at in range(len(items) - size + 1))


def naive_bleu(hypotheses: list[str], references: list[str]) -> float:
    right, total = [0] * 5, [0] * 5
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for size in range(1, 5):
            mine, theirs = ngrams(words(hypothesis), size), ngrams(words(reference), size)
            right[size] += sum(min(count, theirs[gram]) for gram, count in mine.items())
            total[size] += sum(mine.values())
    logs, smooth = [], 1.0
    for size in range(1, 5):
        if right[size] == 0:  # NIST: each order without a match halves what it is taken for
            smooth *= 2
            logs.append(math.log(1 / (smooth * total[size])))
        else:
            logs.append(math.log(right[size] / total[size]))
    lengths = [sum(len(words(text)) for text in texts) for texts in (hypotheses, references)]
    brevity = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    return brevity * math.exp(sum(logs) / 4)


def naive_chrf(hypotheses: list[str], references: list[str]) -> float:
    right, mine, theirs = [0] * 7, [0] * 7, [0] * 7
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for size in range(1, 7):
            one, other = (ngrams(re.sub(r"\s", "", text), size) for text in (hypothesis, reference))
            right[size] += sum((one & other).values())
            mine[size] += sum(one.values())
            theirs[size] += sum(other.values())
    precision = sum(right[size] / mine[size] for size in range(1, 7)) / 6
    recall = sum(right[size] / theirs[size] for size in range(1, 7)) / 6
    return 5 * precision * recall / (4 * precision + recall)


@pytest.mark.parametrize("references", [REFERENCES, FIRST])
def test_corpus_scores(references: list[str]) -> None:
    """A mean of sentence scores, texts without smoothing or penalty, percent for fractions, sides exchanged."""
    found = translation_metrics(HYPOTHESES, references)
    assert found["bleu"] == pytest.approx(naive_bleu(HYPOTHESES, references), rel=1e-9)
    assert found["chrf"] == pytest.approx(naive_chrf(HYPOTHESES, references), rel=1e-9)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(HYPOTHESES, [references]).score / 100, rel=1e-12)
    assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(HYPOTHESES, [references]).score / 100, rel=1e-12)
    ratio = sum(map(len, map(words, HYPOTHESES))) / sum(map(len, map(words, references)))
    assert found["length_ratio"] == pytest.approx(ratio, rel=1e-12)
    assert found.keys() == {"bleu", "chrf", "length_ratio"}


def test_the_numbers_of_the_documentation() -> None:
    """Another tokeniser or smoothing than the default: the library's documentation gives 48.53 for both references."""
    both = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES, FIRST])
    assert both.score == pytest.approx(48.530827, abs=1e-6)
    assert translation_metrics(REFERENCES, REFERENCES) == pytest.approx({"bleu": 1, "chrf": 1, "length_ratio": 1})


def test_short_and_empty_translations() -> None:
    """A division by nothing where a model wrote nothing."""
    found = translation_metrics(["", ""], ["A dog.", "A cat."])
    assert found == {"bleu": 0.0, "chrf": 0.0, "length_ratio": 0.0}
    assert translation_metrics(["a"], [""])["length_ratio"] == 1.0
    half = translation_metrics(["A dog runs on the grass."], ["A dog runs on the grass. A dog runs on the grass."])
    assert half["length_ratio"] == pytest.approx(0.5)
    assert half["bleu"] == pytest.approx(math.exp(1 - 2), rel=1e-9)


@pytest.mark.parametrize("similarity", ["bleu", "chrf"])
def test_sentence_scores(similarity: Any) -> None:
    """A sentence judged by the corpus, or a right one of two words that scores nothing for lack of 4-grams."""
    found = sentence_scores(HYPOTHESES, FIRST, similarity=similarity)
    own = getattr(sacrebleu, f"sentence_{similarity}")
    expected = [own(one, [other]).score / 100 for one, other in zip(HYPOTHESES, FIRST, strict=True)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert sentence_scores(["Two dogs"], ["Two dogs"], similarity=similarity) == pytest.approx([1.0])
    assert sentence_scores(["", "x"], ["Two dogs", "Two dogs"], similarity=similarity) == pytest.approx([0.0, 0.0])


def test_fidelity() -> None:
    """Agreement with the references taken for agreement with the teacher."""
    student, teacher = [*HYPOTHESES, "A dog."], [HYPOTHESES[0], *FIRST[1:], "A dog."]
    found = translation_fidelity(student, teacher)
    assert found["agreement"] == 0.5
    assert found["teacher_bleu"] == pytest.approx(naive_bleu(student, teacher), rel=1e-9)


def test_texts_that_cannot_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts judged by their neighbours' references, or a text letter by letter; a traceback where sacrebleu is not."""
    for function in (translation_metrics, translation_fidelity, sentence_scores):
        with pytest.raises(LimbeckError, match="a reference for each, got 2 texts and 1 references"):
            function(["a", "b"], ["a"])
        with pytest.raises(LimbeckError, match="at least one text"):
            function([], [])
        with pytest.raises(LimbeckError, match=r"got one text; give \[text\]"):
            function("abc", ["abc"])
    with pytest.raises(LimbeckError, match="unknown similarity 'blue'; did you mean 'bleu'"):
        sentence_scores(["a"], ["a"], similarity="blue")  # type: ignore[arg-type]
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.startswith("sacrebleu"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(LimbeckError, match=r'pip install "limbeck\[text\]"'):
        translation_metrics(["a"], ["a"])
    with pytest.raises(LimbeckError, match=r'pip install "limbeck\[text\]"'):
        sentence_scores(["a"], ["a"], similarity="chrf")
