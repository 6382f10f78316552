"""A store as a teacher: what a live one would have said, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from limbeck import Distiller, DistillTrainer, LabelStore, Live, Stored, Term, label
from limbeck.errors import LimbeckError
from limbeck.losses import DKD, KD, FeatureMSE, ReverseKL, Supervised
from limbeck.sources import CutMix, ImageSet, Mixup, collate_samples, load
from limbeck.sources.views import Crop, Flip, compose
from limbeck.store import Codec, DenseLogits, Features, HeadStates, SampledLogits, TopKLogits
from limbeck.teachers import adapter
from limbeck.types import Preprocessing


def quiet(_line: str) -> None:
    pass


def digits_net(seed: int = 0, width: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def digits() -> ImageSet:
    return load("digits").train


def near(stored: Tensor, live: Tensor) -> None:
    torch.testing.assert_close(stored, live.detach(), rtol=1e-3, atol=1e-2)


# -- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [None, Mixup(0.4), CutMix(1.0)], ids=str)
def test_the_student_sees_what_the_teacher_saw(tmp_path: Path, mixing: Any) -> None:
    """A mirrored picture with the label of the unmirrored: in any epoch, order, batch size, subset or worker."""
    net = digits_net()
    data = digits().with_view(compose(Crop(1), Flip()), seed=5, count=3).with_mixing(mixing)
    store = label(net, data, tmp_path / "store", batch_size=50, say=quiet)
    assert store.manifest.records == 3 * len(data)
    teacher, live = Stored(store), Live(net)
    some = data.subset(torch.randperm(len(data))[:90])
    for epoch in range(5):
        some.set_epoch(epoch)
        loader = DataLoader(
            some, batch_size=13, shuffle=True, collate_fn=collate_samples, num_workers=2 if epoch == 1 else 0
        )
        seen = set()
        for batch in loader:
            near(teacher(batch)["logits"], live(batch)["logits"])
            seen |= set(batch["views"].tolist())
        assert seen == {epoch % 3}


@pytest.mark.parametrize(
    "changed",
    [
        lambda data: data.with_view(compose(Crop(1), Flip()), seed=6, count=3),
        lambda data: data.with_view(Crop(1), seed=5, count=3),
        lambda data: data.without_view(),
        lambda data: data.with_preprocessing(Preprocessing((8, 8), 1, (0.31,), (0.38,))),
        lambda data: data.with_mixing(Mixup(0.4)),
    ],
    ids=["another seed", "another augmentation", "no augmentation", "another normalisation", "mixing"],
)
def test_other_pixels_are_an_error(tmp_path: Path, changed: Callable[[ImageSet], ImageSet]) -> None:
    """A student that learns the label of one picture from another."""
    data = digits().with_view(compose(Crop(1), Flip()), seed=5, count=3)
    teacher = Stored(label(digits_net(), data, tmp_path / "store", say=quiet))
    with pytest.raises(
        LimbeckError, match=r"is not what the teacher of the label store .* saw, prepared with .* seed 5"
    ):
        teacher(changed(data).__getitems__(list(range(40))))


class Arrays(Dataset[tuple[Tensor, Tensor]]):
    """A user's own data set of pairs, without ids."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], torch.tensor(-1)


@pytest.mark.parametrize("form", ["arrays", "pairs"])
def test_samples_are_known_by_their_content(tmp_path: Path, form: str) -> None:
    """Labels by position, which belong to other samples once the data is cut, shuffled, added to, or has doubles."""
    net, live = digits_net(), Live(digits_net())
    inputs = torch.randn(120, 1, 8, 8)
    inputs[7] = inputs[3]
    given: Any = (inputs, None) if form == "arrays" else Arrays(inputs)
    teacher = Stored(label(net, given, tmp_path / "store", batch_size=32, say=quiet))
    order = torch.randperm(120)[:50]
    batch = {"inputs": inputs[order]}
    near(teacher(batch)["logits"], live(batch)["logits"])
    grown = {"inputs": torch.cat([inputs[3:5], torch.randn(3, 1, 8, 8)])}
    with pytest.raises(
        LimbeckError, match=r"does not hold sample -?\d+ in view 0 \(3 of this batch's 5 are missing\); label"
    ):
        teacher(grown)
    near(Stored(teacher.store, Live(net))(grown)["logits"], live(grown)["logits"])


def test_a_batch_of_strangers_only(tmp_path: Path) -> None:
    """A crash where all of a batch is new."""
    net = digits_net()
    for codec in (DenseLogits(), TopKLogits(k=3), SampledLogits()):
        folder = tmp_path / codec.name
        store = label(net, (torch.randn(10, 1, 8, 8), None), folder, signals={"logits": codec}, say=quiet)
        batch = {"inputs": torch.randn(4, 1, 8, 8)}
        target = Stored(store, Live(net)).__call__(batch).target("logits")
        if isinstance(target, Tensor):
            near(target, net(batch["inputs"]))
        else:
            assert target.ids.shape[0] == 4


def test_another_teacher_is_refused(tmp_path: Path) -> None:
    """Half of the labels from one teacher and half from another: other weights, or another normalisation."""
    data = digits()
    store = label(digits_net(), data, tmp_path / "store", say=quiet)
    Stored(store, Live(digits_net()))
    with pytest.raises(LimbeckError, match=r"is of 'Sequential' with weights \w+…, the teacher given has weights \w+…"):
        Stored(store, Live(digits_net(1)))
    other = adapter(data.preprocessing, Preprocessing((8, 8), 1, (0.5,), (0.5,)))
    with pytest.raises(LimbeckError, match="the teacher given has weights"):
        Stored(store, Live(digits_net(), adapt=other))


def test_terms_that_a_store_cannot_serve_fail_at_once(tmp_path: Path) -> None:
    """A run that stops at step 900, or trains on what is not there."""
    data, student = digits(), digits_net(1)
    stores = {
        codec.name: label(digits_net(), data, tmp_path / codec.name, signals={"logits": codec}, say=quiet)
        for codec in (DenseLogits(), TopKLogits(k=3, temperature=2.0), SampledLogits(temperature=2.0))
    }
    for codec, term, message in (
        ("sampled", Term(ReverseKL(2.0)), "term reverse-kl: the loss 'reverse-kl' cannot be computed .* 'sampled'"),
        ("top-k", Term(DKD()), "term dkd: the loss 'dkd' cannot be computed"),
        ("top-k", Term(KD(4.0)), "its temperature is 4, but the codec 'top-k' stored targets at temperature 2"),
        ("dense", Term(FeatureMSE(), student="1", teacher="1"), "has no signal '1'"),
    ):
        with pytest.raises(LimbeckError, match=message):
            Distiller(student, stores[codec], [term])
    batch = data.__getitems__([0, 1, 2, 3])
    for codec in ("top-k", "sampled"):
        loss = Distiller(student, Stored(stores[codec]), [Term(Supervised(), 0.1), Term(KD(2.0), 0.9)])(batch).loss
        live = Distiller(student, digits_net(), [Term(Supervised(), 0.1), Term(KD(2.0), 0.9)])(batch).loss
        assert 0.3 * live < loss < 3 * live


def test_a_training_from_a_store_is_the_live_one(tmp_path: Path) -> None:
    """Labels that are right in a batch and wrong in a training: order, epochs, the last batch."""
    data = digits().with_view(Crop(1), seed=1, count=2)
    teacher = digits_net()
    store = label(teacher, data, tmp_path / "store", say=quiet)
    weights = []
    for taught in (Live(teacher), Stored(store)):
        distiller = Distiller(digits_net(1, 8), taught)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=40, per_device_train_batch_size=64, learning_rate=0.01,
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        )  # fmt: skip
        DistillTrainer(distiller, arguments, train_dataset=data).train()
        weights.append(torch.cat([parameter.flatten() for parameter in distiller.parameters()]).detach())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-2, atol=2e-3)


# -- texts -------------------------------------------------------------------------------------------------------

VOCABULARY = 61


def causal(seed: int, width: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


TEXTS = [
    torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))
    for length in (7, 3, 12, 1, 5)
]


class Texts(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": TEXTS[index]}


def padded(texts: list[Tensor], length: int, *, left: bool) -> dict[str, Tensor]:
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        at = slice(length - len(text), length) if left else slice(0, len(text))
        ids[row, at], mask[row, at] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def packed(texts: list[Tensor]) -> dict[str, Tensor]:
    positions = torch.cat([torch.arange(len(text)) for text in texts])
    return {"input_ids": torch.cat(texts)[None], "position_ids": positions[None]}


def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return padded([sample["input_ids"] for sample in samples], 16, left=False)


CODECS: list[Codec] = [DenseLogits(), HeadStates(), TopKLogits(k=VOCABULARY)]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("form", ["right", "left", "packed", "packed by name"])
def test_texts_however_they_are_batched(tmp_path: Path, codec: Codec, form: str) -> None:
    """Labels of the token beside: after other padding, another length, another order, or packing."""
    teacher, student = causal(0), causal(1, 8)
    store = label(
        teacher, Texts(), tmp_path / "store", signals={"logits": codec}, batch_size=2, collate=collate, say=quiet
    )
    assert store.manifest.items == sum(map(len, TEXTS))
    order = [TEXTS[index] for index in (2, 0, 4, 1)]
    batch = packed(order) if form.startswith("packed") else padded(order, 14, left=form == "left")
    if form == "packed by name":
        called = dict(zip(map(len, TEXTS), store.ids.tolist(), strict=True))
        batch["document_ids"] = torch.cat([torch.full((len(text),), called[len(text)]) for text in order])[None]
    stored = Distiller(student, Stored(store), [Term(KD(1.0))])
    loss = stored(batch).loss
    # What the teacher says of each text by itself, against what the student does.
    values = []
    for text in order:
        mine, theirs = (model(input_ids=text[None]).logits[0, :-1] for model in (student, teacher))
        values.append(KD(1.0)(mine, theirs))
    expected = torch.cat(values).mean()
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=2e-3)
    mine, theirs = (torch.autograd.grad(each, list(student.parameters())) for each in (loss, expected))
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    assert all(float((a - b).abs().max()) < 5e-3 * scale for a, b in zip(mine, theirs, strict=True))


def test_a_new_text_goes_to_the_live_teacher(tmp_path: Path) -> None:
    """A text that was added, with the labels of another; and its tokens with those of their neighbours."""
    teacher, student = causal(0), causal(1, 8)
    texts = [TEXTS[2], torch.randint(3, VOCABULARY, (9,)), TEXTS[0]]
    batch = padded(texts, 13, left=False)
    live = Distiller(student, Live(teacher), [Term(KD(1.0))])(batch).loss
    for codec in CODECS:
        store = label(
            teacher, Texts(), tmp_path / codec.name, signals={"logits": codec}, collate=collate, say=quiet
        )  # fmt: skip
        with pytest.raises(LimbeckError, match=r"does not hold text -?\d+ \(1 of this batch's 3 are missing\)"):
            Stored(store)(batch)
        stored = Distiller(student, Stored(store, Live(teacher)), [Term(KD(1.0))])(batch).loss
        torch.testing.assert_close(stored, live, rtol=2e-3, atol=2e-3)


def test_an_encoder_with_hidden_states(tmp_path: Path) -> None:
    """Hidden states of padding, or of the tokens of another text."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        hidden_dropout_prob=0, attention_probs_dropout_prob=0, num_labels=3,
    )  # fmt: skip
    student, teacher = (transformers.BertForSequenceClassification(config) for _ in range(2))
    teacher.eval()
    signals: dict[str, Codec] = {"logits": DenseLogits(), "hidden.1": Features(), "hidden.2": Features(bits=8)}
    store = label(teacher, Texts(), tmp_path / "store", signals=signals, batch_size=3, collate=collate, say=quiet)
    assert {name: signal.per for name, signal in store.signals.items()} == {
        "logits": "sample", "hidden.1": "token", "hidden.2": "token",
    }  # fmt: skip
    terms = [Term(KD(2.0)), Term(FeatureMSE(), student="hidden.1", teacher="hidden.1", weight=3.0),
             Term(FeatureMSE(), student="hidden.2", teacher="hidden.2")]  # fmt: skip
    batch = {**padded([TEXTS[4], TEXTS[2]], 15, left=False), "labels": torch.tensor([0, 2])}
    stored = Distiller(student, Stored(store), terms)(batch)
    live = Distiller(student, Live(teacher), terms)(batch)
    for name, value in live.terms.items():
        torch.testing.assert_close(stored.terms[name], value, rtol=1e-2, atol=1e-3)


def test_reading_is_cheap(tmp_path: Path) -> None:
    """A loop over samples in Python, which makes a batch wait for its labels."""
    import time

    inputs = torch.randn(5_000, 1, 8, 8)
    store = LabelStore.open(label(digits_net(), (inputs, None), tmp_path / "store", say=quiet).folder)
    ids = store.ids[torch.from_numpy(np.random.default_rng(0).permutation(5_000))][:2_048]
    store.read("logits", store.rows(ids))
    start = time.perf_counter()
    for _ in range(20):
        store.read("logits", store.rows(ids))
    assert (time.perf_counter() - start) / 20 < 0.01
