"""Models that write, exported: the same texts as transformers' greedy search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.export.students import opened, trained
from tests.tasks.test_language_modelling import documents
from tests.tasks.test_translation import pairs

from limbeck.artifact import open_artifact
from limbeck.errors import LimbeckError
from limbeck.export import export
from limbeck.models import load, save

pytest.importorskip("sacrebleu")

STACKS = {f"{side}_{what}": value for side in ("encoder", "decoder")
          for what, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 64))}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "config"),
    [("hf:marian", {"d_model": 32, "dropout": 0.0, **STACKS}), ("hf:t5", {**T5, "dropout_rate": 0.0})],
)
def test_translations_are_transformers(tmp_path: Path, name: str, config: Any) -> None:
    """A padding token that is written, a source whose padding is read, a translation that never ends."""
    settings = {"source": str(pairs(tmp_path)), "vocabulary": 300, "max_length": 24, "max_new_tokens": 20}
    known = opened("translation", settings)
    options = {"pretrained": False, "config": config}
    model = trained(tmp_path / "student", known, name, options, steps=200, batch=32)
    card = export(tmp_path / "student", tmp_path / "artifact", samples=40)
    assert card.batch is None
    test = known.data.test.subset(list(range(12)))
    expected = known.task.predict(model, test, label="test", settings=known.settings)
    answers = open_artifact(tmp_path / "artifact", threads=1).predict(list(test.sources), batch_size=5)
    assert [each["text"] for each in answers] == expected.texts
    assert len({*expected.texts}) > 4


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("hf:gpt2", {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 64}),
        ("hf:llama", {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
                      "intermediate_size": 64, "max_position_embeddings": 64}),
    ],
)  # fmt: skip
def test_texts_go_on_as_transformers_lets_them(tmp_path: Path, name: str, config: Any) -> None:
    """Prompts of other lengths in one batch whose padding is read, and positions that count it."""
    settings = {"source": f"text:{documents(tmp_path)}", "apart": "blank-line", "vocabulary": 300, "max_length": 32}
    known = opened("language-modelling", settings)
    model: Any = trained(tmp_path / "student", known, name, {"pretrained": False, "config": config}, steps=40)
    card = export(tmp_path / "student", tmp_path / "artifact", samples=20)
    assert (card.reading["max_new_tokens"], card.reading["positions"]) == (16, 32)
    tokenizer = known.data.train.tokenizing.tokenizer
    prompts = ["the still", "copper keeps the heat. spirit", "water"]
    answers = open_artifact(tmp_path / "artifact", threads=1).predict(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
        written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        assert answer["text"] == tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer["text"].strip()


def test_what_greedy_writing_does_not_know_is_refused(tmp_path: Path) -> None:
    """An artifact that leaves out a setting of the model's generation, and writes other texts."""
    settings = {"source": f"text:{documents(tmp_path)}", "apart": "blank-line", "vocabulary": 300, "max_length": 32}
    known = opened("language-modelling", settings)
    config = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 64}
    trained(tmp_path / "student", known, "hf:gpt2", {"pretrained": False, "config": config}, steps=1)
    model: Any = load(tmp_path / "student")
    model.generation_config.no_repeat_ngram_size = 2
    data = known.data
    save(
        model, tmp_path / "student", spec=None, classes=(), preprocessing=data.train.tokenizing, task=known.task.name,
        shape=known.task.shape(data), data=known.settings.model_dump(mode="json"),
    )  # fmt: skip
    with pytest.raises(LimbeckError, match="writes with no_repeat_ngram_size=2"):
        export(tmp_path / "student", tmp_path / "artifact")
