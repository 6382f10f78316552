"""Texts looked up in a label store: packed, padded with positions, in segments, tagged token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from limbeck import Distiller, LabelStore, Live, Stored, Term, label
from limbeck.errors import LimbeckError
from limbeck.losses import KD, Supervised
from limbeck.shortcuts import SHORTCUTS
from limbeck.store import Codec, DenseLogits, HeadStates, TopKLogits
from limbeck.types import TopK, dense_logits

VOCABULARY = 61
TEXTS = [
    torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))
    for length in (7, 3, 12, 9, 5)
]


def quiet(_line: str) -> None:
    pass


def causal(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def encoder(kind: Any, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0, num_labels=4,
    )  # fmt: skip
    model = kind(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    module: nn.Module = model.eval()
    return module


def padded(texts: list[Tensor], length: int = 14, *, left: bool = False) -> dict[str, Tensor]:
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        at = slice(length - len(text), length) if left else slice(0, len(text))
        ids[row, at], mask[row, at] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = padded([sample["input_ids"] for sample in samples], 16)
    if "id" in samples[0]:
        batch["ids"] = torch.tensor([sample["id"] for sample in samples])
    return batch


def packed(texts: list[Tensor], names: list[int] | None = None) -> dict[str, Tensor]:
    batch = {
        "input_ids": torch.cat(texts)[None],
        "position_ids": torch.cat([torch.arange(len(text)) for text in texts])[None],
    }
    if names is not None:
        called = [torch.full((len(text),), name) for text, name in zip(texts, names, strict=True)]
        batch["document_ids"] = torch.cat(called)[None]
    return batch


def stored(folder: Path, teacher: nn.Module, codec: Codec, *, own_ids: bool, count: int = len(TEXTS)) -> LabelStore:
    samples: list[dict[str, Any]] = [{"input_ids": text} for text in TEXTS[:count]]
    if own_ids:
        samples = [{**sample, "id": number} for number, sample in enumerate(samples)]
    return label(teacher, samples, folder, signals={"logits": codec}, collate=collate, batch_size=2, say=quiet)


def test_documents_under_wrong_names(tmp_path: Path) -> None:
    """The labels of other documents, where a packed batch calls its own by numbers of another count."""
    teacher = Stored(stored(tmp_path / "store", causal(), DenseLogits(), own_ids=True))
    teacher(packed([TEXTS[2], TEXTS[0]], [2, 0]))
    with pytest.raises(LimbeckError, match="sample 1 in view 0 is not what the teacher of the label store"):
        teacher(packed([TEXTS[2], TEXTS[0]], [2, 1]))


@pytest.mark.parametrize("codec", [DenseLogits(), HeadStates(), TopKLogits(k=VOCABULARY)], ids=lambda c: c.name)
def test_a_new_document_among_stored_ones(tmp_path: Path, codec: Codec) -> None:
    """The stored documents of a packed row, replaced by what a live teacher makes of them beside a new one."""
    teacher, student = causal(), causal(1)
    store = stored(tmp_path / "store", teacher, codec, own_ids=False, count=3)
    order = [TEXTS[0], TEXTS[3], TEXTS[2], TEXTS[4]]
    batch = packed(order)
    with pytest.raises(LimbeckError, match=r"does not hold text -?\d+ \(1 of this batch's 1 are missing\)"):
        Stored(store)(batch)
    fallback = Stored(store, Live(teacher))
    loss = Distiller(student, fallback, [Term(KD(1.0))])(batch).loss
    live = Distiller(student, Live(teacher), [Term(KD(1.0))])(batch).loss
    torch.testing.assert_close(loss, live, rtol=2e-3, atol=2e-3)
    true = dense(fallback(batch).target("logits"))
    nn.init.normal_(teacher.model.layers[0].mlp.up_proj.weight)  # type: ignore[union-attr,index,arg-type]
    alone = [dense(Live(teacher)({"input_ids": text[None]})["logits"])[0, :-1] for text in order]
    parts = dense(fallback(batch).target("logits")).split([len(text) - 1 for text in order])
    for part, kept, given, new in zip(
        parts, true.split([len(text) - 1 for text in order]), alone, (False, True, False, True), strict=True
    ):
        if new:
            torch.testing.assert_close(part.softmax(-1), given.softmax(-1), rtol=2e-2, atol=2e-3)
        else:
            assert torch.equal(part, kept)


def dense(target: Any) -> Tensor:
    """Logits in any form as (items, classes)."""
    if isinstance(target, TopK):
        return torch.zeros(len(target.ids), VOCABULARY).scatter(1, target.ids, target.log_probs)
    return target if isinstance(target, Tensor) else dense_logits(target).detach()


@pytest.mark.parametrize("own_ids", [False, True], ids=["by content", "by own ids"])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("counted", ["over padding", "from the text's start"])
def test_positions_given_for_padded_texts(tmp_path: Path, own_ids: bool, left: bool, counted: str) -> None:
    """Texts taken for packed documents, which nobody knows, since the batch says the usual positions."""
    teacher = causal()
    store = stored(tmp_path / "store", teacher, DenseLogits(), own_ids=own_ids)
    batch = padded([TEXTS[2], TEXTS[0]], left=left)
    plain = Stored(store)({**batch, "ids": torch.tensor([2, 0])} if own_ids else batch)["logits"]
    batch["position_ids"] = torch.arange(14).expand(2, 14)
    if counted == "from the text's start":
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).masked_fill(batch["attention_mask"] == 0, 1)
    if own_ids:
        batch["ids"] = torch.tensor([2, 0])
    batch["input_ids"] = batch["input_ids"].int()
    assert torch.equal(Stored(store)(batch)["logits"], plain)


def test_packed_rows_with_padding_at_their_end(tmp_path: Path) -> None:
    """The last document called by its content and the padding's."""
    store = stored(tmp_path / "store", causal(), DenseLogits(), own_ids=False)
    batch = packed([TEXTS[2], TEXTS[0]])
    plain = Stored(store)(batch)["logits"]
    longer = {name: F.pad(tensor, (0, 3)) for name, tensor in batch.items()}
    longer["attention_mask"] = (longer["input_ids"] > 0).long()
    for end in (torch.zeros(3), torch.tensor([7, 8, 9])):
        longer["position_ids"][0, -3:] = end
        assert torch.equal(Stored(store)(longer)["logits"], plain)


def test_one_text_in_two_segments(tmp_path: Path) -> None:
    """Two samples of the same tokens, as question and answer or as one, of which both get the first one's labels."""
    teacher = encoder(transformers.BertForSequenceClassification)
    segments = torch.stack([torch.zeros(12), torch.tensor([0] * 5 + [1] * 7), torch.tensor([0] * 6 + [1] * 6)]).long()
    samples = [{"input_ids": TEXTS[2], "token_type_ids": each} for each in segments]

    def together(chosen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([sample[name] for sample in chosen]) for name in chosen[0]}

    store = label(teacher, samples, tmp_path / "store", collate=together, say=quiet)
    assert len(store.ids.unique()) == 3
    batch = together([samples[2], samples[0], samples[1]])
    torch.testing.assert_close(Stored(store)(batch)["logits"], Live(teacher)(batch)["logits"], rtol=1e-3, atol=1e-3)
    without = {"input_ids": TEXTS[2][None]}
    torch.testing.assert_close(Stored(store)(without)["logits"], Live(teacher)(without)["logits"], rtol=1e-3, atol=1e-3)
    named = [{**sample, "ids": torch.tensor(number)} for number, sample in enumerate(samples)]
    own = Stored(label(teacher, named, tmp_path / "own", collate=together, say=quiet))
    own(together(named))
    with pytest.raises(LimbeckError, match="sample 1 in view 0 is not what the teacher of the label store"):
        own({**together(named), "token_type_ids": segments[[0, 2, 2]]})


@pytest.mark.parametrize(
    ("codec", "shortcuts"),
    [
        (None, SHORTCUTS),
        (None, frozenset()),
        (DenseLogits(), SHORTCUTS),
        (TopKLogits(k=VOCABULARY, temperature=2.0), SHORTCUTS),
    ],
    ids=["live", "live, masked", "dense", "top-k"],
)
@pytest.mark.parametrize("labels", [False, True], ids=["teacher alone", "with labels"])
@pytest.mark.parametrize("kind", [transformers.BertForTokenClassification, transformers.BertForMaskedLM])
def test_an_encoder_that_says_something_of_each_token(
    tmp_path: Path, kind: Any, labels: bool, codec: Codec | None, shortcuts: frozenset[str]
) -> None:
    """Padding that is distilled, by a live teacher; a traceback or shapes that do not fit, by a stored one."""
    teacher, student = encoder(kind), encoder(kind, 1)
    batch = padded([TEXTS[2], TEXTS[1], TEXTS[0]])
    taught: Any = Live(teacher, shortcuts=shortcuts)
    if codec is not None:
        taught = Stored(stored(tmp_path / "store", teacher, codec, own_ids=False))
    terms = [Term(KD(2.0), 0.7)]
    real = batch["attention_mask"].bool()
    if labels:
        given = torch.randint(0, 4, (3, 14)).masked_fill(~real, -100)
        given[0, 3], given[0, 4] = -100, -1
        batch["labels"], real = given, given != -100
        terms.append(Term(Supervised(), 0.3))
    mine, theirs = (
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[real].detach()
        for model in (student, teacher)
    )
    expected = (
        0.7
        * 4
        * F.kl_div(F.log_softmax(mine / 2, -1), F.log_softmax(theirs / 2, -1), reduction="batchmean", log_target=True)
    )
    if labels:
        expected += 0.3 * F.cross_entropy(mine, batch["labels"][real], ignore_index=-1)
    distiller = Distiller(student, taught, terms, shortcuts=shortcuts).eval()
    torch.testing.assert_close(distiller(batch).loss, expected, rtol=5e-3, atol=1e-3)
    parts = [{key: value[at] for key, value in batch.items()} for at in (slice(0, 1), slice(1, 3))]
    total = torch.stack([distiller.counts(part) for part in parts]).sum(0)
    assert total.tolist()[0] == int(real.sum())
    summed = sum(distiller(part, total).loss for part in parts)
    torch.testing.assert_close(summed, expected, rtol=5e-3, atol=1e-3)


def test_an_encoder_without_a_mask(tmp_path: Path) -> None:
    """A stored row a token beside the student's rows a text, where no text is padded."""
    teacher, student = (encoder(transformers.BertForTokenClassification, seed) for seed in range(2))
    taught = Stored(stored(tmp_path / "store", teacher, DenseLogits(), own_ids=False))
    batch = {"input_ids": TEXTS[2][None]}
    live = Distiller(student, Live(teacher), [Term(KD(1.0))])(batch).loss
    torch.testing.assert_close(Distiller(student, taught, [Term(KD(1.0))])(batch).loss, live, rtol=5e-3, atol=1e-3)


def test_logits_of_a_decoder_are_of_its_own_tokens() -> None:
    """The source's padding cut out of the target's tokens, where both happen to be of one length."""
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        dropout_rate=0,
    )  # fmt: skip
    student, teacher = (transformers.T5ForConditionalGeneration(config) for _ in range(2))
    batch = {**padded([TEXTS[2], TEXTS[1]]), "decoder_input_ids": torch.randint(3, VOCABULARY, (2, 14))}
    mine, theirs = (model.eval()(**batch).logits.detach() for model in (student, teacher))
    expected = KD(1.0)(mine.flatten(0, 1), theirs.flatten(0, 1)).mean()
    torch.testing.assert_close(Distiller(student, Live(teacher), [Term(KD(1.0))]).eval()(batch).loss, expected)


@pytest.mark.parametrize("make", [causal, lambda seed: encoder(transformers.BertForTokenClassification, seed)])
def test_a_store_without_the_shortcut_that_leaves_padding_out(tmp_path: Path, make: Any) -> None:
    """A shortcut that is switched off, whose mask then meets labels that have no rows for padding."""
    store = stored(tmp_path / "labels", make(1), DenseLogits(), own_ids=False)
    with_it, without = (
        Distiller(make(0), Stored(store), [Term(KD(1.0))], shortcuts=shortcuts)
        for shortcuts in (SHORTCUTS, SHORTCUTS - {"compact-tokens"})
    )
    batch = padded(TEXTS)
    torch.testing.assert_close(without(batch).loss, with_it(batch).loss)
