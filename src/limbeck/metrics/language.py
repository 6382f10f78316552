"""How well a model foretells text, and how near two models' foretelling is, without their logits ever being whole."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.types import LinearHead, Target, dense_logits

CHUNK_BYTES = 64 << 20
"""What the logits of a chunk of tokens may take."""


def language_metrics(
    sum_nll: float, tokens: int, *, words: int | None = None, bytes: int | None = None
) -> dict[str, float]:
    """What a text's negative log-likelihood is a token, a word and a byte.

    - `nll`: nats a token; `perplexity`: its exponential;
    - `word_perplexity`: the exponential of the nats a word, where `words` are given: it compares models whatever their
      tokens are, but not with numbers that count line ends as words, as WikiText's published ones do;
    - `bits_per_byte`: where `bytes` of UTF-8 are given: what the text costs, compared whatever tokens and words are.

    All nats count, those of a document's end included. `words` and `bytes` are those of the tokens that were predicted.

    Args:
        sum_nll: nats of all predicted tokens together.
        tokens: how many those are.

    Raises:
        LimbeckError: there is no token, word or byte.
    """
    if tokens < 1 or (words is not None and words < 1) or (bytes is not None and bytes < 1):
        raise LimbeckError(
            f"language metrics: expected at least one predicted token, word and byte, got {tokens} tokens, {words} "
            f"words and {bytes} bytes; give a text that has some"
        )
    values = {"nll": sum_nll / tokens, "perplexity": _exp(sum_nll / tokens)}
    if words is not None:
        values["word_perplexity"] = _exp(sum_nll / words)
    if bytes is not None:
        values["bits_per_byte"] = sum_nll / math.log(2.0) / bytes
    return values


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700.0 else math.inf


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """What one model says of each token of a text, (tokens,): `nll` in nats, float64, 0 where there is no label; and
    `predicted`, its most probable token, int64."""

    nll: Tensor
    predicted: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TokenDivergences:
    """How far two models are apart at each token of a text, (tokens,) float64, in nats: `forward` is KL(teacher ‖
    student), `reverse` KL(student ‖ teacher)."""

    forward: Tensor
    reverse: Tensor


@torch.no_grad()
def token_scores(
    logits: Target, labels: Tensor, *, vocabulary: int | None = None, chunk: int | None = None
) -> TokenScores:
    """The negative log-likelihood of each token, and what the model would have said, a chunk of tokens at a time.

    Args:
        logits: (tokens, vocabulary), or the head that makes them.
        labels: (tokens,) int64, negative where there is none.
        vocabulary: how many entries may be predicted, where those beyond are padding; all by default.
        chunk: tokens at a time; by default as many as fit in 64 MB.

    Raises:
        LimbeckError: there is not one label a token, or logits of another form.
    """
    head = _checked(logits, "the model")
    if labels.shape != (_count(head),):
        raise LimbeckError(f"token scores: expected a label a token, {_count(head)}, got {tuple(labels.shape)}")
    nll, predicted = [], []
    for at in _chunks(_count(head), vocabulary_of(head), chunk):
        log_q = _log_softmax(head, at)
        known = labels[at] >= 0
        picked = log_q.gather(1, labels[at].clamp(min=0).unsqueeze(1)).squeeze(1)
        nll.append(torch.where(known, -picked, 0.0).double())
        predicted.append(log_q[:, :vocabulary].argmax(1))
    return TokenScores(_joined(nll, torch.float64), _joined(predicted, torch.int64))


@torch.no_grad()
def token_divergences(student: Target, teacher: Target, *, chunk: int | None = None) -> TokenDivergences:
    """KL divergence both ways at each token, a chunk of tokens at a time.

    Where the vocabularies differ in size, the entries beyond the smaller one are padding and are left out of both.

    Args:
        student: (tokens, vocabulary), or the head that makes them.
        teacher: the same of as many tokens.
        chunk: tokens at a time; by default as many as fit in 64 MB.

    Raises:
        LimbeckError: the models give different numbers of tokens, or logits of another form.
    """
    mine, theirs = _checked(student, "the student"), _checked(teacher, "the teacher")
    if _count(mine) != _count(theirs):
        raise LimbeckError(
            f"token divergences: the student gives {_count(mine)} tokens, the teacher {_count(theirs)}; both must be "
            "of the same text in the same tokens"
        )
    vocabulary = min(vocabulary_of(mine), vocabulary_of(theirs))
    forward, reverse = [], []
    for at in _chunks(_count(mine), max(vocabulary_of(mine), vocabulary_of(theirs)), chunk):
        log_q, log_p = (_log_softmax(each, at, vocabulary) for each in (mine, theirs))
        forward.append(_kl(log_p, log_q))
        reverse.append(_kl(log_q, log_p))
    return TokenDivergences(_joined(forward, torch.float64), _joined(reverse, torch.float64))


def _checked(logits: Target, whose: str) -> Tensor | LinearHead:
    if isinstance(logits, LinearHead) or (isinstance(logits, Tensor) and logits.dim() == 2):
        return logits
    got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    raise LimbeckError(
        f"token scores: expected logits (tokens, vocabulary) of {whose}, or its head, got {got}; a store of some "
        "probabilities cannot say what the others are"
    )


def _count(logits: Tensor | LinearHead) -> int:
    return len(logits if isinstance(logits, Tensor) else logits.hidden)


def vocabulary_of(logits: Tensor | LinearHead) -> int:
    """How many entries logits have, (tokens, vocabulary), or those that a head makes."""
    return logits.shape[1] if isinstance(logits, Tensor) else len(logits.weight)


def _chunks(count: int, vocabulary: int, chunk: int | None) -> list[slice]:
    size = chunk or max(16, CHUNK_BYTES // (4 * vocabulary))
    return [slice(start, start + size) for start in range(0, count, size)]


def _log_softmax(logits: Tensor | LinearHead, at: slice, vocabulary: int | None = None) -> Tensor:
    if isinstance(logits, Tensor):
        rows = logits[at]
    else:
        rows = dense_logits(LinearHead(logits.hidden[at], logits.weight, logits.bias, logits.scale, logits.softcap))
    rows = rows[:, :vocabulary]
    return (rows if rows.dtype is torch.float64 else rows.float()).log_softmax(1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) of each row; where p is 0 its share is 0, also if q rules the outcome out as well."""
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill_(p == 0, 0.0)).sum(1).double()


def _joined(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)
