"""Encoder-decoders: which tokens of source and target count, live and from a label store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from limbeck import Distiller, LabelStore, Live, Stored, Term, label
from limbeck.errors import LimbeckError
from limbeck.losses import DKD, KD, FeatureMSE, Loss, ReverseKL, Supervised
from limbeck.models.forward import forward_of
from limbeck.shortcuts import SHORTCUTS
from limbeck.store import Codec, DenseLogits, Features, HeadStates, SampledLogits, TopKLogits
from limbeck.tokens import TokenPlan, of_encoder, real_tokens

VOCABULARY = 53
START, PAD, END = 0, 0, 2
SOURCES = [[7, 8, 9, 10, 11, 2], [12, 13, 2], [14, 15, 16, 17, 2]]
TARGETS = [[21, 22, 23, 2], [24, 25, 26, 27, 28, 29, 2], [30, 2]]
SMALL = {"vocab_size": VOCABULARY, "d_model": 16, "dropout": 0.0, "pad_token_id": PAD, "eos_token_id": END}
LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
          "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32,
          "decoder_start_token_id": START, "forced_eos_token_id": None}  # fmt: skip

MODELS: dict[str, Callable[[], Any]] = {
    "bart": lambda: transformers.BartConfig(**SMALL, **LAYERS, bos_token_id=1),
    "marian": lambda: transformers.MarianConfig(**SMALL, **LAYERS),
    "t5": lambda: transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=START, pad_token_id=PAD, eos_token_id=END,
    ),
}  # fmt: skip


def model(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    made = transformers.AutoModelForSeq2SeqLM.from_config(MODELS[name]()).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


def padded(rows: list[list[int]], filling: int, length: int) -> Tensor:
    return torch.tensor([row + [filling] * (length - len(row)) for row in rows])


def batch_of(at: list[int], *, extra: int = 0) -> dict[str, Tensor]:
    sources, targets = [SOURCES[i] for i in at], [TARGETS[i] for i in at]
    width, length = max(map(len, sources)) + extra, max(map(len, targets)) + extra
    labels = padded(targets, -100, length)
    return {
        "input_ids": padded(sources, PAD, width),
        "attention_mask": (padded(sources, -1, width) >= 0).long(),
        "decoder_input_ids": padded([[START, *row[:-1]] for row in targets], PAD, length),
        "labels": labels,
        "ids": torch.tensor(at) + 100,
    }


def naive(student: Any, teacher: Any, at: list[int], temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy and T² · KL, means over the tokens of all targets; each pair by itself, so without padding."""
    hard, soft = [], []
    for index in at:
        given = {
            "input_ids": torch.tensor([SOURCES[index]]),
            "decoder_input_ids": torch.tensor([[START, *TARGETS[index][:-1]]]),
        }
        mine, theirs = student(**given).logits[0], teacher(**given).logits[0].detach()
        for place, token in enumerate(TARGETS[index]):
            hard.append(-mine[place].log_softmax(-1)[token])
            p, q = (theirs[place] / temperature).softmax(-1), (mine[place] / temperature).softmax(-1)
            soft.append(temperature**2 * (p * (p.log() - q.log())).sum())
    return torch.stack(hard).mean(), torch.stack(soft).mean()


def gradients(module: nn.Module) -> list[Tensor]:
    found = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    module.zero_grad()
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "shortcuts", [SHORTCUTS, SHORTCUTS - {"linear-head"}, frozenset()], ids=["all", "dense", "none"]
)
def test_a_step_is_that_of_each_pair_by_itself(name: str, shortcuts: frozenset[str]) -> None:
    """Padding of the target that is learned or distilled, logits shifted twice, T² left out, a head's bias lost."""
    student, teacher = model(name), model(name, 1)
    if "final_logits_bias" in dict(student.named_buffers()):
        student.final_logits_bias.normal_()
    everything = [0, 1, 2]
    hard, soft = naive(student, teacher, everything, 2.0)
    (0.3 * hard + 0.7 * soft).backward()
    expected = gradients(student)
    distiller = Distiller(
        student, Live(teacher, shortcuts=shortcuts), [Term(Supervised(), 0.3), Term(KD(2.0), 0.7)], shortcuts=shortcuts
    )
    for extra in (0, 4):
        output = distiller(batch_of(everything, extra=extra))
        output.loss.backward()
        torch.testing.assert_close(output.loss, 0.3 * hard + 0.7 * soft, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(output.terms["supervised"].double(), hard.detach(), rtol=1e-6, atol=1e-9)
        mine = gradients(student)
        assert len(mine) == len(expected)
        for one, other in zip(mine, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_the_supervised_term_is_the_models_own_loss(name: str) -> None:
    """A cross-entropy that is not the one with which everyone fine-tunes."""
    student, batch = model(name), batch_of([0, 1, 2])
    given = {key: value for key, value in batch.items() if key not in ("ids", "decoder_input_ids")}
    # transformers shifts the labels itself, with its own start token.
    theirs = student(**given).loss
    torch.testing.assert_close(Distiller(student, None, [Term(Supervised())])(batch).loss, theirs, rtol=1e-6, atol=1e-9)


def test_accumulated_batches_are_one_batch() -> None:
    """A batch of short targets that weighs as much as one of long ones; features of source and target counted alike."""
    student, teacher = model("bart"), model("bart", 1)
    terms = [
        Term(Supervised(), 0.3),
        Term(KD(2.0), 0.7),
        Term(FeatureMSE(), 0.5, student="model.encoder.layers.0", teacher="model.encoder.layers.0"),
        Term(FeatureMSE(), 0.5, student="model.decoder.layers.1", teacher="model.decoder.layers.0"),
    ]
    distiller = Distiller(student, teacher, terms, example=batch_of([0]))
    distiller(batch_of([0, 1, 2])).loss.backward()
    whole = gradients(student)
    parts = [batch_of([0]), batch_of([2, 1])]
    total = torch.stack([distiller.counts(part) for part in parts]).sum(0)
    assert total.tolist() == [13.0, 13.0, 14.0, 13.0]
    for part in parts:
        distiller(part, total).loss.backward()
    for one, other in zip(gradients(student), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)
    heads = Distiller(student, teacher, terms[:2])
    assert torch.stack([heads.counts(part) for part in parts]).sum(0).tolist() == [13.0, 13.0]


@pytest.mark.parametrize("shortcuts", [SHORTCUTS, frozenset()], ids=["all", "none"])
def test_hidden_states_count_where_their_own_text_is(shortcuts: frozenset[str]) -> None:
    """The source's padding cut out of the decoder's states, or the target's out of the encoder's, where both happen to
    be of one length."""
    student, teacher = model("t5"), model("t5", 1)
    batch = batch_of([0, 2])
    batch |= {
        name: F.pad(batch[name], (0, 2), value=-100 * (name == "labels")) for name in ("decoder_input_ids", "labels")
    }
    assert batch["input_ids"].shape == batch["labels"].shape
    given = {name: value for name, value in batch.items() if name not in ("labels", "ids")}
    mine, theirs = (each(**given, output_hidden_states=True) for each in (student, teacher))
    for stack, hidden, lengths in (
        ("encoder", "encoder_hidden_states", [6, 5]),
        ("decoder", "decoder_hidden_states", [4, 2]),
    ):
        term = Term(FeatureMSE(), student=f"{stack}.block.0", teacher=f"{stack}.block.0")
        expected = [
            (getattr(mine, hidden)[1][row, place] - getattr(theirs, hidden)[1][row, place]).square().mean()
            for row, length in enumerate(lengths)
            for place in range(length)
        ]
        distiller = Distiller(student, Live(teacher), [term], shortcuts=shortcuts)
        torch.testing.assert_close(distiller(batch).loss, torch.stack(expected).mean())
        assert distiller.counts(batch).tolist() == [sum(lengths)]


def test_losses_of_a_whole_text_are_told_its_own_padding() -> None:
    """A loss on the decoder's states that takes the source's padding for its own."""
    seen = []

    class Watching(Loss):
        name = "watching"
        inputs = ("tokens",)
        wants = "tokens"
        structured = True

        def forward(self, student: Tensor, tokens: Tensor) -> Tensor:
            seen.append(tokens)
            return student.flatten(1).sum(1)

    batch = batch_of([0, 1])
    for name in ("model.encoder.layers.0", "model.decoder.layers.0"):
        Distiller(model("marian"), model("marian", 1), [Term(Watching(), student=name)])(batch)
    assert torch.equal(seen[0], batch["attention_mask"].bool())
    assert torch.equal(seen[1], batch["labels"] != -100)


def test_names_say_whose_tokens_they_are() -> None:
    """A cross-attention, which has the encoder's name inside the decoder's path, counted at the source's tokens."""
    assert of_encoder("model.encoder.layers.0")
    assert of_encoder("encoder_last_hidden_state")
    assert not of_encoder("model.decoder.layers.0.encoder_attn")
    assert not of_encoder("decoder.bert.encoder.layer.0")
    assert not of_encoder("lm_head.input")


def test_tokens_without_a_label_are_distilled() -> None:
    """-1 that is learned as a class, or left out of what the teacher teaches."""
    student, teacher = model("bart"), model("bart", 1)
    batch = batch_of([0, 1])
    batch["labels"] = torch.where(batch["labels"] == -100, -100, -1)
    distiller = Distiller(student, teacher, [Term(Supervised(), 0.5), Term(KD(2.0))])
    assert distiller.counts(batch).tolist() == [0.0, 11.0]
    torch.testing.assert_close(distiller(batch).loss, naive(student, teacher, [0, 1], 2.0)[1], rtol=1e-6, atol=1e-9)
    del batch["labels"]
    assert Distiller(student, teacher, [Term(KD(2.0))]).counts(batch).tolist() == [14.0]
    batch["labels"] = torch.tensor([-1, -1])  # as a collator writes it
    assert distiller.counts(batch).tolist() == [0.0, 14.0]
    batch["decoder_attention_mask"] = (batch_of([0, 1])["labels"] != -100).long()
    assert distiller.counts(batch).tolist() == [0.0, 11.0]


def test_a_prompt_of_the_target_counts_as_text_and_not_as_an_answer() -> None:
    """A language code that is distilled, or whose hidden state is taken for padding."""
    batch = batch_of([1])
    batch["labels"][0, :2] = -100
    assert TokenPlan(batch, causal=False).logits_count == 5
    assert real_tokens(batch).sum() == 7


def test_a_pair_without_a_target() -> None:
    """NaN from a batch in which nothing is to be learned."""
    batch = batch_of([0, 1])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    distiller = Distiller(model("t5"), model("t5", 1), [Term(Supervised(), 0.5), Term(KD(1.0), 0.5)])
    loss = distiller(batch).loss
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("name", MODELS)
def test_every_loss_on_logits_takes_the_tokens(name: str) -> None:
    """Losses outside the fused ones that get a text's axis, or its padding."""
    student, teacher = model(name), model(name, 1)
    batch = batch_of([0, 1, 2])
    given = {key: value for key, value in batch.items() if key not in ("labels", "ids")}
    mine, theirs = (each(**given).logits.detach()[batch["labels"] != -100] for each in (student, teacher))
    labels = batch["labels"][batch["labels"] != -100]
    for loss in (DKD(), ReverseKL(2.0)):
        rest = [labels] if "labels" in loss.inputs else []
        found = Distiller(student, teacher, [Term(loss)])(batch).loss
        torch.testing.assert_close(found, loss(mine, theirs, *rest).mean(), rtol=1e-6, atol=1e-9)


def test_what_is_wrong_with_a_batch() -> None:
    """A model that takes the source for the target's tokens and learns to copy it; labels of another length."""
    batch = batch_of([0, 1])
    with pytest.raises(LimbeckError, match=r"expected labels of shape \(2, 7\), as decoder_input_ids, got \(2, 6\)"):
        TokenPlan({**batch, "labels": batch["labels"][:, :6]}, causal=False)
    del batch["decoder_input_ids"]
    for name in MODELS:
        with pytest.raises(LimbeckError, match=r"needs 'decoder_input_ids', the batch has .*DataCollatorForSeq2Seq"):
            forward_of(model(name))(batch)


class Pairs(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The pairs as a data set that gives whole batches, as PairSet does."""

    def __init__(self, *, ids: bool = True) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(SOURCES)

    def __getitems__(self, at: list[int]) -> dict[str, Tensor]:
        batch = batch_of(at)
        return batch if self._ids else {name: value for name, value in batch.items() if name != "ids"}


def stored(folder: Path, teacher: nn.Module, ids: bool = True, **signals: Codec) -> LabelStore:
    named = {name.replace("__", "."): codec for name, codec in signals.items()}
    return label(teacher, Pairs(ids=ids), folder, signals=named, batch_size=2, say=lambda _: None)


@pytest.mark.parametrize(
    ("codec", "tolerance"),
    [
        (DenseLogits(), 1e-3),
        (HeadStates(), 1e-3),
        (TopKLogits(k=VOCABULARY, temperature=2.0), 2e-3),
        (SampledLogits(draws=4096, temperature=2.0), 2e-2),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("ids", [True, False], ids=["by id", "by content"])
def test_stored_labels_teach_as_the_teacher_does(tmp_path: Path, codec: Codec, tolerance: float, ids: bool) -> None:
    """Rows of the source's tokens, of another place or another pair; a row for padding."""
    student, teacher = model("bart").float(), model("bart", 1).float()
    store = stored(tmp_path / "store", teacher, ids, logits=codec)
    assert store.signals["logits"].per == "decoder-token"
    assert sorted(store.lengths.tolist()) == sorted(map(len, TARGETS))
    terms = [Term(Supervised(), 0.3), Term(KD(2.0), 0.7)]
    batch = batch_of([2, 0, 1], extra=3)
    if not ids:
        del batch["ids"]
    live, kept = Distiller(student, teacher, terms), Distiller(student, Stored(store), terms)
    live(batch).loss.backward()
    wanted = gradients(student)
    output = kept(batch)
    output.loss.backward()
    torch.testing.assert_close(output.loss, live(batch).loss, rtol=tolerance, atol=tolerance)
    for one, other in zip(gradients(student), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()) * 3 + 1e-5)
    if "log_sum" in (found := store.statistics("logits", torch.arange(13))):
        first = store.rows(batch_of([0])["ids"] if ids else store.ids[:1])
        logits = teacher(**{k: v for k, v in batch_of([0]).items() if k not in ("ids", "labels")}).logits[0]
        start = int((store.lengths.cumsum(0) - store.lengths)[first])
        places = slice(start, start + 4)
        torch.testing.assert_close(found["log_sum"][places], logits.detach().logsumexp(-1), rtol=1e-5, atol=1e-4)
        log_p = logits.detach().log_softmax(-1).gather(1, torch.tensor(TARGETS[0])[:, None]).squeeze(1)
        torch.testing.assert_close(found["label"][places], log_p, rtol=1e-3, atol=1e-3)


def test_targets_that_the_teacher_did_not_see(tmp_path: Path) -> None:
    """The teacher's words on the reference given for another translation of the same source."""
    taught = Stored(stored(tmp_path / "store", model("marian", 1).float(), logits=DenseLogits()))
    batch = batch_of([0, 1])
    taught(batch)
    batch["decoder_input_ids"][1, 3] += 1
    with pytest.raises(LimbeckError, match="sample 101 in view 0 is not what the teacher of the label store"):
        taught(batch)


def test_a_pair_that_the_store_does_not_hold(tmp_path: Path) -> None:
    """Rows of the live teacher put in the places of other pairs."""
    teacher, student = model("t5", 1).float(), model("t5").float()
    store = stored(tmp_path / "store", teacher, logits=TopKLogits(k=VOCABULARY))
    batch = batch_of([1, 0, 2])
    batch["ids"][1] = 7
    with pytest.raises(LimbeckError, match=r"does not hold text 7 \(1 of this batch's 3 are missing\)"):
        Stored(store)(batch)
    both = Distiller(student, Stored(store, Live(teacher)), [Term(KD(1.0))])(batch).loss
    torch.testing.assert_close(both, Distiller(student, teacher, [Term(KD(1.0))])(batch).loss, rtol=2e-3, atol=2e-3)


def test_hidden_states_in_a_store(tmp_path: Path) -> None:
    """States of the source's tokens kept as the target's."""
    student, teacher = model("bart").float(), model("bart", 1).float()
    terms = [Term(FeatureMSE(), student="model.decoder.layers.0", teacher="model.decoder.layers.1")]
    kept = Stored(stored(tmp_path / "store", teacher, model__decoder__layers__1=Features()))
    batch = batch_of([2, 1, 0])
    live = Distiller(student, teacher, terms)(batch).loss
    torch.testing.assert_close(Distiller(student, kept, terms)(batch).loss, live, rtol=1e-3, atol=1e-3)
    with pytest.raises(LimbeckError, match=r"'model\.encoder\.layers\.0': has a row for each token of the source"):
        stored(tmp_path / "other", teacher, model__encoder__layers__0=Features())
