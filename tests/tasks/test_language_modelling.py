"""Language modelling as a task: from documents to results, report and artifact."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from limbeck.doctor import examine
from limbeck.errors import LimbeckError
from limbeck.files import read_json
from limbeck.models import load
from limbeck.recipe import Recipe, read_recipe
from limbeck.run import run
from limbeck.stores import compare_with_teacher, label_recipe

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
    history = read_json(folder / "models" / "alone-0" / "record.json")["history"]
    reached = [entry["eval_nll"] for entry in history if "eval_nll" in entry]
    last, selected = (load(folder / "models" / "alone-0" / each) for each in ("last", "selected"))
    same = all(torch.equal(a, b) for a, b in zip(last.parameters(), selected.parameters(), strict=True))
    assert same == (reached[-1] == min(reached))
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


def test_from_stored_labels_of_tokens(tmp_path: Path) -> None:
    """Labels of tokens that belong to the tokens beside them, or that the check cannot find."""
    teacher = {**gpt2(2), "train": {"steps": 10, "batch_size": 8, "learning_rate": 0.01}}
    stored = {**teacher, "store": str(tmp_path / "labels")}
    wanted = recipe(tmp_path, teacher=stored, label={"signals": {"logits": {"codec": "hidden"}}})
    (store,) = label_recipe(wanted, tmp_path / "run", say=lambda _line: None)
    found = compare_with_teacher(wanted, tmp_path / "run", store)
    assert found
    assert all(each.ok for each in found), found
    folders = {"run": wanted, "live": recipe(tmp_path, teacher=teacher)}
    mine, theirs = (
        run(each, tmp_path / name, say=lambda _line: None).named("distilled", "last")[0].metrics["nll"]
        for name, each in folders.items()
    )
    assert mine == pytest.approx(theirs, abs=2e-3)


def test_a_teacher_with_other_tokens(tmp_path: Path) -> None:
    """A teacher whose token ids are taken for the student's, or whose text is not aligned by bytes."""
    run(recipe(tmp_path), tmp_path / "first", say=lambda _line: None)
    saved = str(tmp_path / "first" / "teacher" / "last")
    wanted = recipe(tmp_path, teacher={"model": saved}, terms=[{"loss": "kd", "temperature": 1}])
    other = wanted.model_copy(update={"data": wanted.data.model_copy(update={"tokenizer": "bytes", "max_length": 48})})
    findings = {each.topic: each for each in examine(other, tmp_path / "nowhere")}
    assert "reads other tokens" in findings["teacher"].text
    for alignment, taught in (("shared", {"loss": "kd", "temperature": 1}), ("own", {"loss": "uld"})):
        terms = [{"loss": "supervised", "weight": 0.5}, {**taught, "weight": 0.5}]
        wanted = recipe(tmp_path, teacher={"model": saved, "alignment": alignment}, terms=terms)
        data = wanted.data.model_copy(update={"tokenizer": "bytes", "max_length": 48})
        found = run(wanted.model_copy(update={"data": data}), tmp_path / alignment, say=lambda _line: None)
        mine, alone = (found.named(name, "last")[0].metrics["nll"] for name in ("distilled", "alone"))
        assert math.isfinite(mine)
        assert mine != alone
