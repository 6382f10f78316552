"""What text costs: against transformers' own loss, torchmetrics, and numbers counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.metrics import language_metrics, token_divergences, token_scores
from limbeck.types import LinearHead, TopK, dense_logits

TOKENS, WIDTH, VOCABULARY = 11, 5, 9
generator = torch.Generator().manual_seed(0)


def head(vocabulary: int = VOCABULARY, seed: int = 0, **bends: float) -> LinearHead:
    own = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=own, dtype=torch.float64)
        for shape in ((TOKENS, WIDTH), (vocabulary, WIDTH), (vocabulary,))
    )
    return LinearHead(hidden, weight, bias, **bends)


LABELS = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)


def test_by_hand() -> None:
    """Bits for nats, words for bytes, or a mean that was taken twice: a fair coin's 8 tosses cost 8 bits."""
    found = language_metrics(8 * math.log(2), 8, words=2, bytes=4)
    assert found == pytest.approx(
        {"nll": math.log(2), "perplexity": 2.0, "word_perplexity": 16.0, "bits_per_byte": 2.0}
    )
    assert language_metrics(3.0, 6) == pytest.approx({"nll": 0.5, "perplexity": math.exp(0.5)})
    assert language_metrics(1e6, 1)["perplexity"] == math.inf


def test_two_tokenizers_of_one_model_cost_the_same() -> None:
    """Bits per byte that depend on how a text is cut: pairs of letters, each as likely as its letters together, cost
    what the letters do, though their perplexity is the letters' squared."""
    letters = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    text = torch.tensor([0, 1, 2, 2, 0, 0, 1, 0])
    pairs = torch.outer(letters, letters).flatten()
    by_letter = token_scores(letters.log().expand(8, 3), text)
    by_pair = token_scores(pairs.log().expand(4, 9), text[::2] * 3 + text[1::2])
    one, other = (
        language_metrics(float(each.nll.sum()), len(each.nll), words=1, bytes=8) for each in (by_letter, by_pair)
    )
    assert one["bits_per_byte"] == pytest.approx(other["bits_per_byte"])
    assert one["word_perplexity"] == pytest.approx(other["word_perplexity"])
    assert other["perplexity"] == pytest.approx(one["perplexity"] ** 2)


@pytest.mark.parametrize("chunk", [1, 4, None])
@pytest.mark.parametrize("bends", [{}, {"scale": 0.5, "softcap": 1.5}], ids=str)
def test_chunks_are_cross_entropy(chunk: int | None, bends: dict[str, float]) -> None:
    """A chunk that is lost, or a head whose logits are bent and here are not."""
    labels = LABELS.clone()
    labels[3] = -1
    given = head(**bends)
    logits = dense_logits(given)
    for target in (given, logits):
        found = token_scores(target, labels, chunk=chunk)
        expected = F.cross_entropy(logits, labels, reduction="none", ignore_index=-1)
        torch.testing.assert_close(found.nll, expected)
        assert torch.equal(found.predicted, logits.argmax(1))


def test_perplexity_is_torchmetrics() -> None:
    """A perplexity that is another's."""
    logits = dense_logits(head()).float()
    theirs = torchmetrics.text.Perplexity()
    theirs.update(logits.unsqueeze(0), LABELS.unsqueeze(0))
    found = token_scores(logits, LABELS)
    mine = language_metrics(float(found.nll.sum()), TOKENS)
    assert mine["perplexity"] == pytest.approx(float(theirs.compute()), rel=1e-5)


@pytest.mark.parametrize("chunk", [2, None])
@pytest.mark.parametrize("extra", [0, 3])
def test_divergences_are_torchs(chunk: int | None, extra: int) -> None:
    """Directions swapped, or padding of the larger vocabulary that takes probability."""
    student, teacher = head(VOCABULARY + extra, 1), head(VOCABULARY, 2)
    log_q = dense_logits(student)[:, :VOCABULARY].log_softmax(1)
    log_p = dense_logits(teacher).log_softmax(1)
    forward = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    reverse = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    for mine, theirs in ((student, teacher), (dense_logits(student), dense_logits(teacher))):
        found = token_divergences(mine, theirs, chunk=chunk)
        torch.testing.assert_close(found.forward, forward)
        torch.testing.assert_close(found.reverse, reverse)
        turned = token_divergences(theirs, mine, chunk=chunk)
        torch.testing.assert_close(turned.forward, reverse)


def test_padding_is_never_predicted() -> None:
    """A student that disagrees with its teacher because an entry of the padding is its largest."""
    logits = torch.tensor([[0.0, 1.0, 5.0]])
    assert token_scores(logits, torch.tensor([1])).predicted.tolist() == [2]
    assert token_scores(logits, torch.tensor([1]), vocabulary=2).predicted.tolist() == [1]


def test_excluded_entries() -> None:
    """NaN where both models exclude an entry, or a finite number where the student excludes what the teacher gives."""
    student = torch.tensor([[0.0, 0.0, -math.inf], [0.0, 0.0, -math.inf]])
    teacher = torch.tensor([[0.0, 0.0, -math.inf], [0.0, 0.0, 0.0]])
    found = token_divergences(student, teacher)
    assert found.forward.tolist() == pytest.approx([0.0, math.inf], abs=1e-6)
    assert found.reverse.tolist() == pytest.approx([0.0, math.log(1.5)], abs=1e-6)


def test_half_precision_is_summed_in_more() -> None:
    """Statistics in half precision."""
    logits = dense_logits(head()).bfloat16()
    found = token_scores(logits, LABELS)
    assert found.nll.dtype is torch.float64
    torch.testing.assert_close(found.nll, token_scores(logits.float(), LABELS).nll)


def mistakes() -> list[tuple[object, str]]:
    logits = torch.zeros(2, 3)
    few = TopK(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1), torch.zeros(2))
    return [
        (lambda: language_metrics(1.0, 0), "at least one predicted token"),
        (lambda: language_metrics(1.0, 1, words=0), "0 words"),
        (lambda: language_metrics(1.0, 1, bytes=0), "0 bytes"),
        (lambda: token_scores(logits, torch.zeros(3, dtype=torch.int64)), "a label a token, 2"),
        (lambda: token_scores(logits[None], torch.zeros(1, dtype=torch.int64)), r"got shape \(1, 2, 3\)"),
        (lambda: token_divergences(logits, torch.zeros(3, 3)), "gives 2 tokens, the teacher 3"),
        (lambda: token_divergences(logits, few), "of the teacher, or its head, got a TopK"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_mistake_is_named(number: int) -> None:
    """Broadcasting, or a division by 0, in place of one line."""
    call, message = mistakes()[number]
    with pytest.raises(LimbeckError, match=message):
        call()  # type: ignore[operator]


def test_nothing_gives_nothing() -> None:
    """A crash at a batch in which no token counts."""
    none = Tensor([]).view(0, 3)
    assert len(token_scores(none, torch.zeros(0, dtype=torch.int64)).nll) == 0
    assert len(token_divergences(none, none).forward) == 0
