"""Language modelling as a task: from documents to results, report and artifact."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from limbeck.checks import LimbeckError
from limbeck.models import load
from limbeck.recipe import Recipe, read_recipe
from limbeck.run import run

WORDS = ("the still drips slowly", "copper keeps the heat", "spirit rises first", "water stays behind")


def documents(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(WORDS), (60, 12), generator=generator)
    path = folder / "texts.txt"
    path.write_text("\n\n".join(". ".join(WORDS[each] for each in row) for row in picks.tolist()), encoding="utf-8")
    return path


def gpt2(layers: int) -> dict[str, Any]:
    config = {"n_layer": layers, "n_embd": 32, "n_head": 2, "n_positions": 64}
    return {"model": "hf:gpt2", "options": {"pretrained": False, "config": config}}


def recipe(folder: Path, **changes: Any) -> Recipe:
    train = {"steps": 20, "batch_size": 8, "learning_rate": 0.01, "evaluations": 2}
    data = {"source": f"text:{documents(folder)}", "apart": "blank-line", "vocabulary": 300, "max_length": 32}
    plain = {
        "name": "tiny-lm", "task": "language-modelling", "data": data, "teacher": {**gpt2(2), "train": train},
        "student": gpt2(1),
        "terms": [{"loss": "supervised", "weight": 0.5}, {"loss": "kd", "weight": 0.5, "temperature": 1}],
        "train": train, "seeds": 1, **changes,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return read_recipe(str(path))


def test_from_documents_to_report_and_artifact(tmp_path: Path) -> None:
    """A perplexity of padding, a best checkpoint that is the worst, a report without what was written."""
    folder = tmp_path / "run"
    results = run(recipe(tmp_path), folder, say=lambda _line: None)
    for row in results.rows:
        assert row.metrics["perplexity"] == pytest.approx(math.exp(row.metrics["nll"]))
        assert row.metrics["nll"] < 4
        assert {"bits_per_byte", "word_perplexity"} <= row.metrics.keys()
        if row.name != "teacher":
            assert 0 <= row.metrics["teacher_kl"] < 3
    last, selected = (results.named("alone", each)[0].metrics["nll"] for each in ("last", "selected"))
    assert selected <= last + 0.5
    assert {claim.metric for claim in results.claims} == {"perplexity", "bits_per_byte", "nll"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Where they differ most" in page
    assert "perplexity" in page
    # transformers opens what was saved.
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder / "student"),
        AutoTokenizer.from_pretrained(folder / "student"),
    )
    ids = tokenizer("the still drips", return_tensors="pt")["input_ids"]
    assert torch.allclose(plain.eval()(ids).logits, load(folder / "student")(ids).logits, atol=1e-5)


def test_on_policy_in_a_recipe(tmp_path: Path) -> None:
    """A recipe's on_policy that is read and not used, or used by the student alone."""
    terms = [{"loss": "generalized-jsd"}]
    wanted = recipe(tmp_path, on_policy={"prompt": 4, "new_tokens": 8, "share": 1.0}, terms=terms)
    found = run(wanted, tmp_path / "run", say=lambda _line: None)
    off = run(recipe(tmp_path, terms=terms), tmp_path / "off", say=lambda _line: None)
    mine, plain = (each.named("distilled", "last")[0].metrics["nll"] for each in (found, off))
    alone = [each.named("alone", "last")[0].metrics["nll"] for each in (found, off)]
    assert mine != plain
    assert alone[0] == pytest.approx(alone[1])


def test_on_policy_is_of_language_models(tmp_path: Path) -> None:
    """A key that does nothing in another task."""
    with pytest.raises(LimbeckError, match="on_policy: is of language models"):
        read_recipe("digits", ["on_policy={prompt: 4}"])
