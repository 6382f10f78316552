"""A recipe whose teacher is behind an endpoint: labelled once, then learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from tests.teachers.endpoint_server import Served, serving

from limbeck import LabelStore
from limbeck.errors import LimbeckError
from limbeck.recipe import Recipe, read_recipe
from limbeck.run import run
from limbeck.sources.texts import train_tokenizer
from limbeck.stores import label_recipe

SENTENCES = [f"{who} {does} {what} ." for who in ("the cat", "a dog", "my bird") for does in ("eats", "sees", "likes")
             for what in ("the fish", "a mouse", "my bread")]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path / "none"))
    (tmp_path / "texts").mkdir()
    for name, rows in (("train", SENTENCES[:18]), ("validation", SENTENCES[18:22]), ("test", SENTENCES[22:])):
        (tmp_path / "texts" / f"{name}.txt").write_text("\n\n".join(rows), encoding="utf-8")
    train_tokenizer(SENTENCES * 3, kind="bpe", vocabulary=300).save_pretrained(str(tmp_path / "tokenizer"))
    return tmp_path


def _recipe(place: Path, url: str, **changes: Any) -> Recipe:
    student = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32}
    plain: dict[str, Any] = {
        "name": "asked",
        "task": "language-modelling",
        "data": {"source": f"text:{place / 'texts'}", "apart": "blank-line", "tokenizer": str(place / "tokenizer"),
                 "max_length": 32, "packed": False},
        "teacher": {"model": f"endpoint:{url}", "options": {"model": "tiny"}, "store": str(place / "labels")},
        "student": {"model": "hf:gpt2", "options": {"pretrained": False, "config": student}},
        "terms": [{"loss": "supervised", "weight": 0.5}, {"loss": "kd", "weight": 0.5, "temperature": 1}],
        "label": {"signals": {"logits": {"codec": "top-k", "k": 5}}},
        "train": {"steps": 4, "batch_size": 4, "evaluations": 1},
        "seeds": 2,
    }  # fmt: skip
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return read_recipe(str(path), [f"{key}={value}" for key, value in changes.items()])


def _served(place: Path) -> Served:
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(str(place / "tokenizer"))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return Served(transformers.LlamaForCausalLM(config).eval(), tokenizer, "vllm")


def test_a_recipe_learns_from_an_endpoint(place: Path) -> None:
    """An endpoint that is asked again where students learn, or whose answers never reach them."""
    served = _served(place)
    with serving(served) as url:
        recipe = _recipe(place, url)
        with pytest.raises(LimbeckError, match="run `limbeck label` with this recipe first"):
            run(recipe, place / "run", say=str)
        (store,) = label_recipe(recipe, place / "run", say=str)
    assert isinstance(store, LabelStore)
    assert store.manifest.records == 18
    results = run(recipe, place / "run", say=str)  # nobody listens at the url any more
    assert {row.name for row in results.rows} == {"teacher", "alone", "distilled"}
    assert results.named("teacher")[0].metrics == {}
    alone, distilled = results.named("alone")[0], results.named("distilled")[0]
    assert alone.metrics["perplexity"] != distilled.metrics["perplexity"]


def test_a_budget_ends_labelling_and_the_same_command_goes_on(place: Path) -> None:
    """Answers that were paid for and are lost, or a store that is taken for whole."""
    with serving(_served(place)) as url:
        few = _recipe(place, url, **{"teacher.options": "{model: tiny, requests: 6}"})
        assert label_recipe(few, place / "run", say=str) == []
        with pytest.raises(LimbeckError):
            run(few, place / "run", say=str)
        (store,) = label_recipe(_recipe(place, url), place / "run", say=str)
    assert store.manifest.records == 18


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.packed": "true"}, "data.packed=false"),
        ({"label.signals": "{logits: {codec: dense}}"}, "codec: top-k"),
        ({"teacher.options": "{}"}, "options.model"),
        ({"teacher.options": "{model: tiny, timout: 3}"}, "timeout"),
        ({"terms": "[{loss: kd, temperature: 2}]"}, "temperature"),
    ],
)
def test_what_an_endpoint_cannot_do_is_said_before_it_is_asked(
    place: Path, changes: dict[str, str], message: str
) -> None:
    """An hour of questions whose answers no student could use."""
    served = _served(place)
    with serving(served) as url, pytest.raises(LimbeckError, match=message):
        label_recipe(_recipe(place, url, **changes), place / "run", say=str)
    assert not (place / "labels" / "manifest.json").exists()
