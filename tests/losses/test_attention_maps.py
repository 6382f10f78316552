"""Attention matrices matched, against loops over heads and tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise, features
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from limbeck import Distiller, LimbeckError, Term
from limbeck.losses import AttentionMSE, Loss, attention_mse

TOKENS = torch.tensor([[True] * 5, [True, True, True, False, False], [False, True, True, True, False]])


def naive(tokens: Tensor) -> Any:
    def values(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
        found = []
        for item in range(len(student)):
            ours, theirs = student[item].tolist(), teacher[item].tolist()
            if len(ours) != len(theirs):
                ours, theirs = [averaged(ours)], [averaged(theirs)]
            there = [index for index, real in enumerate(tokens[item].tolist()) if real]
            squares = [
                (a[row][column] - b[row][column]) ** 2
                for a, b in zip(ours, theirs, strict=True)
                for row in there
                for column in there
            ]
            found.append(sum(squares) / len(squares))
        return found

    return values


def averaged(heads: list[list[list[float]]]) -> list[list[float]]:
    size = len(heads[0])
    return [[sum(head[row][column] for head in heads) / len(heads) for column in range(size)] for row in range(size)]


ALL = torch.ones(3, 5, dtype=torch.bool)
SAME = (3, 4, 5, 5)
CASES = [
    Case("same-heads", AttentionMSE, SAME, SAME, naive(ALL), mismatch=(3, 4, 6, 6)),
    Case("other-heads", AttentionMSE, (3, 2, 5, 5), SAME, naive(ALL), mismatch=(2, 4, 5, 5)),
    Case("padded", AttentionMSE, SAME, SAME, naive(TOKENS), given={"tokens": TOKENS}),
    Case("padded-other-heads", AttentionMSE, (3, 2, 5, 5), SAME, naive(TOKENS), given={"tokens": TOKENS}),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def test_padding_is_never_read() -> None:
    """NaN in the rows of padding, or a text of padding alone, that ends the run."""
    student, teacher = features(SAME, 0), features(SAME, 1)
    tokens = TOKENS.clone()
    tokens[0] = False
    missing = ~(tokens[:, None, :, None] & tokens[:, None, None, :])
    leaf = torch.where(missing, torch.nan, student).requires_grad_()  # type: ignore[arg-type]
    values = attention_mse(leaf, torch.where(missing, torch.nan, teacher), tokens)  # type: ignore[arg-type]
    torch.testing.assert_close(values, attention_mse(student, teacher, tokens))  # type: ignore[arg-type]
    assert float(values[0].detach()) == 0.0
    (slope,) = torch.autograd.grad(values.sum(), leaf)
    assert bool(slope.isfinite().all())
    assert bool((slope[missing.expand_as(slope)] == 0).all())


def test_a_masked_score_counts_as_zero() -> None:
    """Scores before the softmax, where −10000 or −∞ at a masked key outweighs all others, or is NaN between two."""
    student, teacher = features(SAME, 2), features(SAME, 3)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    zeros = student.clone(), teacher.clone()
    low = student.clone(), teacher.clone()
    for each, value in ((zeros[0], 0.0), (zeros[1], 0.0), (low[0], -1e4), (low[1], -torch.inf)):
        each[:, :, :, 3:] = value
    torch.testing.assert_close(attention_mse(*low), attention_mse(*zeros))


def bert(width: int) -> nn.Module:
    config = BertConfig(
        vocab_size=30, hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=width,
        max_position_embeddings=12,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def texts(padding: int) -> dict[str, Tensor]:
    """Texts of 5 and 3 tokens, with so much padding behind."""
    ids = torch.tensor([[4, 9, 2, 7, 5], [3, 8, 6, 0, 0]])
    return {"input_ids": F.pad(ids, (0, padding)), "attention_mask": F.pad((ids > 0).long(), (0, padding))}


def test_more_padding_changes_nothing() -> None:
    """The mask of a batch of texts that does not reach the loss."""
    torch.manual_seed(0)
    term = Term(AttentionMSE(), student="attention.1", teacher="attention.0")
    distiller = Distiller(bert(8), bert(16), [term], example=texts(0)).eval()
    torch.testing.assert_close(distiller(texts(4)).loss, distiller(texts(0)).loss)


def test_a_mask_of_another_length_is_named() -> None:
    """A mask that is broadcast over the batch."""
    with pytest.raises(LimbeckError, match=r"expected a mask of shape \(3, 5\)"):
        attention_mse(torch.zeros(SAME), torch.zeros(SAME), TOKENS[:1])
