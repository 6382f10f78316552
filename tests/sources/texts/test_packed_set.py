"""Packed text: no token lost or predicted twice, no document that sees another, counts that add up."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader

from limbeck import Distiller, Stored, Term, label
from limbeck.errors import LimbeckError
from limbeck.losses import KD, Supervised
from limbeck.models import forward_of
from limbeck.sources import as_training_data, collate_samples
from limbeck.sources.texts import PackedSet, Tokenizing, train_tokenizer
from limbeck.sources.texts.vocabularies import Kind
from limbeck.store import DenseLogits
from limbeck.tokens import TokenPlan

DOCUMENTS = [
    "The quick brown fox jumps over the lazy dog .",
    "A second one , short .",
    "größe <unk> 0 @.@ 7 — 你好 🙂 end",
    "",
    "a",
    "The quick brown fox jumps over the lazy dog , and then over a second one , and a third , until it is tired . ",
]


def tokenizing(kind: Kind = "characters", length: int = 16, **options: Any) -> Tokenizing:
    made = train_tokenizer(DOCUMENTS, kind=kind, vocabulary=300, **{"lowercase": False} | options)
    return Tokenizing(made, length)


def rows(data: PackedSet) -> list[dict[str, Tensor]]:
    return [data[index] for index in range(len(data))]


def stream(made: Tokenizing) -> list[list[int]]:
    """The documents' tokens, one by one."""
    begin, end = made.tokenizer.bos_token_id, made.tokenizer.eos_token_id
    return [[begin, *made.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in DOCUMENTS if text]


def causal(name: str, vocabulary: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config: Any = {
        "llama": lambda: transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3,
        ),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3
        ),
    }[name]()  # fmt: skip
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(config).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("overlap", [0, 1, 5, 15])
def test_every_token_is_predicted_once(packed: bool, overlap: int) -> None:
    """Tokens lost at the end of a row or of the data, learned twice, or predicted from another document."""
    made = tokenizing()
    data = PackedSet(DOCUMENTS, made, packed=packed, overlap=overlap)
    whole = [token for document in stream(made) for token in document]
    seen: Counter[int] = Counter()
    predicted = []
    for row in rows(data):
        batch = {name: value.unsqueeze(0) for name, value in row.items()}
        plan = TokenPlan(batch, causal=True)
        at = plan.where("logits")
        ids = batch["input_ids"][0]
        assert plan.labels is not None
        assert torch.equal(plan.labels, ids[at + 1])
        predicted += plan.labels.tolist()
        real = batch["attention_mask"][0].bool() if not packed else torch.ones_like(ids, dtype=torch.bool)
        seen.update(ids[real].tolist())
    assert not Counter(whole) - seen, "tokens that are in no row"
    behind_first = [token for document in stream(made) for token in document[1:]]
    if overlap:
        assert predicted == behind_first
    else:
        assert not Counter(predicted) - Counter(behind_first)
    assert data.tokens == len(predicted)


@pytest.mark.parametrize("overlap", [5, 12])
def test_later_rows_have_context(overlap: int) -> None:
    """A stride that scores tokens with less context than it says."""
    made = tokenizing()
    for packed in (True, False):
        for row in rows(PackedSet(DOCUMENTS[-1:], made, packed=packed, overlap=overlap))[1:]:
            counted = (row["labels"] != -100).nonzero().flatten()
            assert int(counted[0]) >= overlap
            assert len(row["input_ids"]) == 16, "a last row that is not full"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_packed_row_gives_what_each_document_gives_alone(name: str) -> None:
    """Attention, or positions, that leak from one document of a row into the next."""
    made = tokenizing(length=48)
    data = PackedSet(DOCUMENTS, made)
    read = forward_of(causal(name, made.vocabulary))
    batch = data.__getitems__(range(len(data)))
    pieces = 0
    with torch.no_grad():
        packed = read(batch)["logits"]
        for row in range(len(data)):
            edges = [*(batch["position_ids"][row] == 0).nonzero().flatten().tolist(), 48]
            for start, stop in itertools.pairwise(edges):
                alone = read({"input_ids": batch["input_ids"][row : row + 1, start:stop]})["logits"]
                torch.testing.assert_close(packed[row, start:stop], alone[0])
                pieces += 1
    assert pieces == len(data) + 4


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_loss_is_transformers_own(name: str) -> None:
    """Labels that transformers' own shift would take across documents."""
    made = tokenizing(length=48)
    model: Any = causal(name, made.vocabulary)
    data = PackedSet(DOCUMENTS, made)
    batch = data.__getitems__(range(len(data)))
    given = {key: batch[key] for key in ("input_ids", "position_ids", "labels")}
    with torch.no_grad():
        expected = model(**given, use_cache=False).loss
        found = Distiller(model, None, [Term(Supervised())])(batch).loss
        torch.testing.assert_close(found.float(), expected)
        loose = PackedSet(DOCUMENTS, made, packed=False)
        apart = loose.__getitems__(range(len(loose)))
        mine = Distiller(model, None, [Term(Supervised())])(apart).loss
        expected = model(**{key: each for key, each in apart.items() if key != "ids"}, use_cache=False).loss
        torch.testing.assert_close(mine.float(), expected)


def test_padding_is_no_text() -> None:
    """Padding that is attended to or learned, or a row cut short of its last token."""
    made = tokenizing(length=64)
    data = PackedSet(DOCUMENTS, made, packed=False)
    batch = data.__getitems__([1, 3])
    lengths = batch["attention_mask"].sum(1).tolist()
    assert lengths == [len(stream(made)[1]), 3]
    assert batch["input_ids"].shape == (2, max(lengths))
    assert batch["input_ids"][1].tolist() == [*stream(made)[3], *[made.pad_id] * (max(lengths) - 3)]
    assert batch["labels"][1].tolist() == [-100, *stream(made)[3][1:], *[-100] * (max(lengths) - 3)]
    assert "position_ids" not in batch


@pytest.mark.parametrize("kind", ["bpe", "bytes", "characters", "wordpiece"])
def test_bytes_and_words_add_up(kind: Kind) -> None:
    """Bytes counted as characters, twice where a character is several tokens, or lost with dropped white space."""
    made = tokenizing(kind, 8)
    for packed in (True, False):
        data = PackedSet(DOCUMENTS, made, packed=packed, overlap=3)
        assert data.bytes == sum(len(text.encode()) for text in DOCUMENTS)
        assert data.words == sum(len(text.split()) for text in DOCUMENTS)


def test_what_is_not_predicted_does_not_count() -> None:
    """Bits per byte that are too small, as bytes count that no token paid for."""
    made = tokenizing()
    made.tokenizer.bos_token = None
    text = "étoile brillante"
    data = PackedSet([text], made, 64)
    assert (data.tokens, data.bytes, data.words) == (len(text), len(text.encode()) - 2, 2)
    cut = PackedSet([text], made, 9, overlap=0)
    # Of two rows the first token each: "é", and of the last row, filled up by seven others, none.
    assert (cut.tokens, cut.bytes) == (data.tokens, data.bytes)
    cut = PackedSet(["abcdefgh" * 3 + "x"], made, 13, overlap=0)
    assert (cut.tokens, cut.bytes) == (24, 23)


def test_ids_last() -> None:
    """An id that changes with the order of documents, or one id for two texts."""
    made = tokenizing(length=64)
    first = PackedSet(DOCUMENTS, made, packed=False)
    turned = PackedSet(DOCUMENTS[::-1], made, packed=False)
    assert sorted(first.ids.tolist()) == sorted(turned.ids.tolist())
    assert len(set(first.ids.tolist())) == len(first)
    packed = PackedSet(DOCUMENTS, made)
    assert torch.equal(packed.ids, PackedSet(DOCUMENTS, made, name="other").ids)
    whole = PackedSet(DOCUMENTS, made, 500, packed=False)
    assert set(PackedSet(DOCUMENTS, made, 500)[0]["document_ids"].tolist()) == set(whole.ids.tolist())


def test_pieces_are_what_a_store_labels(tmp_path: Path) -> None:
    """Stored answers of whole rows, in which no document of another packing is found; or of other tokens."""
    made = tokenizing(length=32)
    documents = [*DOCUMENTS, DOCUMENTS[1]]
    packed = PackedSet(documents, made, overlap=4)
    pieces = packed.pieces()
    assert len(pieces) > len(packed)
    assert (pieces.tokens, pieces.bytes) == (packed.tokens, packed.bytes)
    batch = packed.__getitems__(range(len(packed)))
    apart = pieces.__getitems__(range(len(pieces)))
    assert torch.equal(apart["input_ids"][apart["attention_mask"].bool()], batch["input_ids"].flatten())
    counted = TokenPlan(batch, causal=True).labels
    again = TokenPlan(apart, causal=True).labels
    assert counted is not None
    assert again is not None
    assert torch.equal(counted, again)
    teacher, student = (causal("llama", made.vocabulary, seed) for seed in (1, 2))
    label(teacher, pieces, tmp_path / "store", signals={"logits": DenseLogits()}, say=lambda _: None)
    terms = [Term(Supervised(), 0.5), Term(KD(2.0), 0.5)]
    live = Distiller(student, teacher, terms)(batch).loss
    stored = Distiller(student, Stored(tmp_path / "store"), terms)(batch).loss
    torch.testing.assert_close(stored, live, rtol=1e-4, atol=1e-4)


def test_it_goes_through_a_loader() -> None:
    """Batches that the training's collator takes apart, relabels or refuses."""
    data = PackedSet(DOCUMENTS, tokenizing())
    taken, collate = as_training_data(data, None)
    assert taken is data
    batches = list(DataLoader(taken, 2, collate_fn=collate))
    assert torch.equal(torch.cat([batch["ids"] for batch in batches]), data.ids)
    assert batches[0].keys() == {"input_ids", "position_ids", "document_ids", "labels", "ids"}
    whole = collate_samples(data.__getitems__([0, 1]))
    assert torch.equal(whole["labels"], batches[0]["labels"])


def test_the_preparation_is_the_tokenizer() -> None:
    """A store of another tokenizer's rows that passes for this one's."""
    assert PackedSet(DOCUMENTS, tokenizing()).prepared_as() == PackedSet(DOCUMENTS[:1], tokenizing(), 7).prepared_as()
    other = PackedSet(DOCUMENTS, tokenizing("bytes"))
    assert other.prepared_as() != PackedSet(DOCUMENTS, tokenizing()).prepared_as()


def test_a_mistake_is_named() -> None:
    """An endless loop, or an empty batch, in place of one line."""
    made = tokenizing()
    for options in ({"length": 1}, {"overlap": 16}, {"overlap": -1}):
        with pytest.raises(LimbeckError, match="rows of at least 2 tokens and an overlap from 0 to below that"):
            PackedSet(DOCUMENTS, made, **options)  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="test: the split is empty"):
        PackedSet(["", ""], made, name="test")
    with pytest.raises(LimbeckError, match="expected a list of documents, got one text"):
        PackedSet("text", made)
    made.tokenizer.eos_token = None
    with pytest.raises(LimbeckError, match="no token for the end of a document"):
        PackedSet(DOCUMENTS, made)


def test_a_text_shorter_than_a_row_is_one_row() -> None:
    """Padding, or no row at all."""
    made = tokenizing(length=512)
    (row,) = rows(PackedSet(DOCUMENTS, made))
    assert row["input_ids"].tolist() == [token for document in stream(made) for token in document]
    assert math.isclose(float((row["labels"] == -100).sum()), len(stream(made)))
