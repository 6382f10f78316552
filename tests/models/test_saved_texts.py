"""Saved models of texts: the card, the tokenizer beside it, and folders that transformers opens alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.models import (
    ModelSpec,
    SavedCard,
    Shape,
    TextShape,
    build,
    forward_of,
    known_models,
    load,
    read_card,
    save,
)
from limbeck.models.saved import SavedTokenizing
from limbeck.sources.texts import Tokenizing, train_tokenizer
from limbeck.types import Preprocessing

SENTENCES = ["the cat sat on the mat", "a dog ran in the park", "cats and dogs", "the park is green"]
TOKENIZING = Tokenizing(train_tokenizer(SENTENCES, vocabulary=60), 12)
SHAPE = TextShape(3, TOKENIZING.vocabulary, 12, TOKENIZING.pad_id, "classification")
ENCODED: dict[str, Tensor] = dict(TOKENIZING.pad(TOKENIZING.encode(SENTENCES)))

SMALL: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2},
    "llama": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8},
    "t5": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2},
    "bart": {
        "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
    },
}  # fmt: skip
SMALL["marian"] = SMALL["bart"]
HEADS: dict[str, tuple[str, Any, type[Any]]] = {
    "bert": ("bert", "classification", transformers.AutoModelForSequenceClassification),
    "bert-qa": ("bert", "question-answering", transformers.AutoModelForQuestionAnswering),
    "gpt2": ("gpt2", "causal-lm", transformers.AutoModelForCausalLM),
    "llama": ("llama", "causal-lm", transformers.AutoModelForCausalLM),
    "t5": ("t5", "seq2seq", transformers.AutoModelForSeq2SeqLM),
    "bart": ("bart", "seq2seq", transformers.AutoModelForSeq2SeqLM),
    "marian": ("marian", "seq2seq", transformers.AutoModelForSeq2SeqLM),
}


def of(head: Any) -> TextShape:
    return TextShape(3 if head == "classification" else 0, SHAPE.vocabulary, 12, SHAPE.pad_id, head, bos_id=2, eos_id=3)


def made(case: str) -> tuple[Any, ModelSpec, TextShape]:
    """A model of that kind, its spec, and what it is for."""
    kind, head, _ = HEADS[case]
    spec = ModelSpec(f"hf:{kind}", {"pretrained": False, "config": SMALL[kind]})
    torch.manual_seed(0)
    return build(spec, of(head)).eval(), spec, of(head)


def outputs(model: Any) -> Tensor:
    batch = dict(ENCODED)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        batch["decoder_input_ids"] = ENCODED["input_ids"][:, :4]
    with torch.no_grad():
        return forward_of(model)(batch)["logits"]


@pytest.mark.parametrize("case", HEADS)
def test_limbeck_and_transformers_read_the_same_model(case: str, tmp_path: Path) -> None:
    """A folder that only limbeck opens; tied weights that are half random; a tokenizer that is another."""
    model, spec, shape = made(case)
    save(model, tmp_path / "m", spec=spec, shape=shape, classes=(), preprocessing=TOKENIZING, task="text")
    expected = outputs(model)
    torch.testing.assert_close(outputs(load(tmp_path / "m")), expected, rtol=0, atol=0)
    torch.testing.assert_close(outputs(build(ModelSpec(str(tmp_path / "m")), shape).eval()), expected, rtol=0, atol=0)
    auto: Any = HEADS[case][2]
    plain, found = auto.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert type(plain) is type(model)
    torch.testing.assert_close(outputs(plain.eval()), expected, rtol=0, atol=0)
    if model.can_generate():
        assert plain.generation_config.eos_token_id == 3
        assert plain.generation_config.to_dict() == load(tmp_path / "m").generation_config.to_dict()  # type: ignore[union-attr,operator]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer(SENTENCES)["input_ids"] == TOKENIZING.encode(SENTENCES)["input_ids"]


def test_the_card_says_what_the_model_is_for(tmp_path: Path) -> None:
    """A tokenizer of other ids turns a good model into a bad one, and nothing would tell."""
    model, spec, shape = made("bert")
    save(
        model,
        tmp_path / "m",
        spec=spec,
        shape=shape,
        classes="abc",
        preprocessing=TOKENIZING,
        task="text-classification",
    )
    card = read_card(tmp_path / "m")
    assert card.shape == shape
    assert card.classes == ("a", "b", "c")
    assert card.preprocessing is None
    assert card.task == "text-classification"
    assert card.tokenizing == SavedTokenizing(TOKENIZING.identity(), 12)
    again = Tokenizing.read(tmp_path / "m")
    assert again.identity() == card.tokenizing.identity
    assert again.max_length == 12
    # A model without a spec is for texts as well.
    save(model, tmp_path / "n", spec=None, shape=shape, classes=(), preprocessing=TOKENIZING)
    assert read_card(tmp_path / "n").shape == shape
    save(
        load(tmp_path / "n"), tmp_path / "o", spec=ModelSpec(str(tmp_path / "n")), classes=(), preprocessing=TOKENIZING
    )
    assert read_card(tmp_path / "o").shape == shape


@pytest.mark.parametrize("name", known_models("texts"))
def test_the_small_ones_come_back(name: str, tmp_path: Path) -> None:
    """A built-in that is built for the classes and not for the tokens."""
    spec = ModelSpec(name, {"width": 8})
    model = build(spec, SHAPE).eval()
    save(model, tmp_path / "m", spec=spec, shape=SHAPE, classes="abc", preprocessing=TOKENIZING, task="text")
    torch.testing.assert_close(outputs(load(tmp_path / "m")), outputs(model), rtol=0, atol=0)
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"limbeck.json", "model.safetensors", "tokenizer.json"} <= names
    assert "config.json" not in names


def test_a_folder_is_built_only_for_its_data(tmp_path: Path) -> None:
    """Yesterday's model with another tokenizer reads other words; with other classes it says other things."""
    model, spec, shape = made("bert")
    save(model, tmp_path / "m", spec=spec, shape=shape, classes="abc", preprocessing=TOKENIZING)
    folder = ModelSpec(str(tmp_path / "m"))

    def asked(**changes: Any) -> TextShape:
        return TextShape(**({name: getattr(shape, name) for name in shape.__dataclass_fields__} | changes))

    for changes, message in (
        ({"num_classes": 4}, "number of classes is 3, the data's 4"),
        ({"vocabulary": 70}, f"vocabulary is {SHAPE.vocabulary}, the data's 70"),
        ({"problem": "multi-label"}, "problem is single-label, the data's multi-label"),
        ({"head": "causal-lm"}, "head is classification, the data's causal-lm"),
        ({"pad_id": 1}, "padding token is 0, the data's 1"),
        ({"max_length": 513}, "reads texts of up to 512 tokens, the data have up to 513"),
    ):
        with pytest.raises(LimbeckError, match=message):
            build(folder, asked(**changes))
    build(folder, asked(max_length=300))
    with pytest.raises(LimbeckError, match="reads texts, the data are images"):
        build(folder, Shape(3, 3, (8, 8)))
    pictures = Preprocessing(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    net = build(ModelSpec("conv-student"), Shape(3, 1, (8, 8)))
    save(net, tmp_path / "images", spec=ModelSpec("conv-student"), classes="abc", preprocessing=pictures)
    with pytest.raises(LimbeckError, match="reads images, the data are texts"):
        build(ModelSpec(str(tmp_path / "images")), shape)
    save(model, tmp_path / "bare", spec=None, classes=(), preprocessing=None)
    with pytest.raises(LimbeckError, match="saved without the shape of its texts"):
        build(ModelSpec(str(tmp_path / "bare")), shape)
    with pytest.raises(LimbeckError, match=r"a tokenizer comes without the shape of its texts, .*TextShape"):
        save(model, tmp_path / "x", spec=spec, classes=(), preprocessing=TOKENIZING)
    assert not (tmp_path / "x").exists()


@dataclass
class Breaks:
    """A tokenizer whose files cannot be written."""

    max_length: int = 4
    written: list[str] = field(default_factory=list)

    def identity(self) -> str:
        return "x"

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{")
        raise OSError("no space left")


def test_saving_replaces_a_model_with_its_tokenizer_and_nothing_else(tmp_path: Path) -> None:
    """A tokenizer of the model before beside the new one; checkpoints that are gone; half a model after a full disk."""
    model, spec, shape = made("gpt2")
    folder = tmp_path / "m"
    for other in (False, True):
        if other:
            (folder / "checkpoint-3").mkdir()
        save(model, folder, spec=spec, shape=shape, classes=(), preprocessing=TOKENIZING)
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(OSError, match="no space"):
            save(model, folder, spec=spec, shape=shape, classes=(), preprocessing=Breaks())
        assert sorted(path.name for path in folder.iterdir()) == before
        assert read_card(folder).tokenizing == SavedTokenizing(TOKENIZING.identity(), 12)
        Tokenizing.read(folder)
    small = build(ModelSpec("text-static", {"width": 4}), SHAPE)
    save(small, folder, spec=ModelSpec("text-static", {"width": 4}), shape=SHAPE, classes="abc", preprocessing=None)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["checkpoint-3", "limbeck.json", "model.safetensors"]
    assert read_card(folder).tokenizing is None
    load(folder)


def test_files_of_others_stay(tmp_path: Path) -> None:
    """A folder with a user's own config.json that is no model of limbeck's."""
    (tmp_path / "config.json").write_text("mine")
    net = build(ModelSpec("text-static", {"width": 4}), SHAPE)
    save(net, tmp_path, spec=ModelSpec("text-static", {"width": 4}), shape=SHAPE, classes="abc", preprocessing=None)
    assert (tmp_path / "config.json").read_text() == "mine"


def test_older_cards_are_read(tmp_path: Path) -> None:
    """A model saved before there were texts."""
    pictures = Preprocessing(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    net = build(ModelSpec("conv-student"), Shape(3, 1, (8, 8)))
    save(net, tmp_path / "m", spec=ModelSpec("conv-student"), classes="abc", preprocessing=pictures)
    path = tmp_path / "m" / "limbeck.json"
    data = json.loads(path.read_text())
    for key in ("text", "tokenizing", "renumbered"):
        del data[key]
    path.write_text(json.dumps(data))
    card: SavedCard = read_card(tmp_path / "m")
    assert card.shape == Shape(3, 1, (8, 8))
    load(tmp_path / "m")
    data["text"] = {"num_classes": 3}
    path.write_text(json.dumps(data))
    with pytest.raises(LimbeckError, match="not a whole model card"):
        read_card(tmp_path / "m")
