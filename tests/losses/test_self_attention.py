"""Self-attention relations, against loops over heads and tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise, Shapes, features
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from limbeck import Distiller, LimbeckError, Term
from limbeck.losses import Loss, MiniLM, minilm

TOKENS = torch.tensor([[True] * 4, [True, True, False, False], [False, True, True, True]])
ALL = torch.ones(3, 4, dtype=torch.bool)


def softmax(row: list[float]) -> list[float]:
    shares = [math.exp(value - max(row)) for value in row]
    return [share / sum(shares) for share in shares]


def relation(vectors: list[list[float]], head: int, heads: int) -> list[list[float]]:
    """How each of a text's tokens relates to all of them, in one relation head."""
    width = len(vectors[0]) // heads
    parts = [vector[head * width : (head + 1) * width] for vector in vectors]
    return [
        softmax([sum(a * b for a, b in zip(one, other, strict=True)) / math.sqrt(width) for other in parts])
        for one in parts
    ]


def naive(tokens: Tensor) -> Any:
    def values(student: Any, teacher: Any, labels: Tensor, loss: Loss) -> list[float]:
        assert isinstance(loss, MiniLM)
        heads = loss.relation_heads
        found = []
        for item in range(len(tokens)):
            total = 0.0
            for mine, other in zip(student, teacher, strict=True):
                ours, theirs = mine[item][tokens[item]].tolist(), other[item][tokens[item]].tolist()
                for head in range(heads):
                    for q, p in zip(relation(ours, head, heads), relation(theirs, head, heads), strict=True):
                        total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)) / (heads * len(ours))
            found.append(total)
        return found

    return values


def case(name: str, student: Shapes, teacher: Shapes, heads: int, tokens: Tensor | None, mismatch: Shapes) -> Case:
    return Case(
        name, lambda: MiniLM(relation_heads=heads), student, teacher, naive(ALL if tokens is None else tokens),
        mismatch=mismatch, given={} if tokens is None else {"tokens": tokens},
    )  # fmt: skip


NARROW, WIDE = (3, 4, 6), (3, 4, 12)
CASES = [
    case("one-width", (NARROW,) * 3, (NARROW,) * 3, 3, None, ((3, 5, 6),) * 3),
    case("two-widths", (NARROW,) * 3, (WIDE,) * 3, 6, None, ((2, 4, 12),) * 3),
    case("padded", (NARROW,) * 3, (WIDE,) * 3, 2, TOKENS, ((3, 4, 9),) * 3),
    case("values-alone-padded", (NARROW,), (NARROW,), 2, TOKENS, (NARROW, NARROW)),
    case("keys-of-fewer-heads", (WIDE, NARROW), (NARROW, WIDE), 2, None, (WIDE, (3, 4))),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def test_padding_is_never_read() -> None:
    """NaN in the vectors of padding, or a text of padding alone, that ends the run."""
    student, teacher = features(NARROW, 0), features(WIDE, 1)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    tokens = TOKENS.clone()
    tokens[0] = False
    leaf = torch.where(tokens.unsqueeze(-1), student, torch.nan).requires_grad_()
    spoilt = torch.where(tokens.unsqueeze(-1), teacher, torch.nan)
    values = minilm(leaf, spoilt, tokens, relation_heads=3)
    torch.testing.assert_close(values, minilm(student, teacher, tokens, relation_heads=3))
    assert float(values[0].detach()) == 0.0
    (slope,) = torch.autograd.grad(values.sum(), leaf)
    assert bool(slope.isfinite().all())
    assert bool((slope[~tokens] == 0).all())


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
    taps = tuple(f"bert.encoder.layer.1.attention.self.{kind}" for kind in ("query", "key", "value"))
    term = Term(MiniLM(), student=taps, teacher=taps)
    distiller = Distiller(bert(24), bert(48), [term], example=texts(0)).eval()
    assert len(distiller.objective.projectors) == 0
    torch.testing.assert_close(distiller(texts(4)).loss, distiller(texts(0)).loss)


def test_one_kind_needs_no_tuple() -> None:
    """A tap of the values alone that is read as a tuple of its texts."""
    student, teacher = features(NARROW, 2), features(NARROW, 3)
    torch.testing.assert_close(MiniLM(3)(student, teacher), MiniLM(3)((student,), (teacher,)))


def test_an_error_names_the_numbers_of_heads_that_fit() -> None:
    """A number of heads for one model's width, found out by a view that fails, or by parts that do not line up."""
    with pytest.raises(
        LimbeckError, match=r"12 relation heads do not divide every width.*these numbers do: 1, 2, 4, 8$"
    ):
        MiniLM()((torch.zeros(2, 3, 24),), (torch.zeros(2, 3, 32),))
    with pytest.raises(LimbeckError, match="positive number"):
        MiniLM(relation_heads=0)
    with pytest.raises(LimbeckError, match="expected a mask of shape"):
        minilm(torch.zeros(2, 3, 12), torch.zeros(2, 3, 12), torch.ones(1, 3, dtype=torch.bool))
