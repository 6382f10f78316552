"""Question answering as a task: from files in SQuAD's form to results, report and artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from limbeck.errors import LimbeckError
from limbeck.models import load
from limbeck.recipe import Recipe, read_recipe
from limbeck.run import run

NAMES = ("anna", "bert", "carl", "dora", "emil", "frida", "gustav", "hilde")
PLACES = ("paris", "rome", "oslo", "bern", "prague", "vienna", "lisbon", "dublin")


def questions(folder: Path) -> Path:
    """Articles that say who lives where, and questions about it."""
    generator = torch.Generator().manual_seed(0)
    articles = []
    for number in range(24):
        who, where = torch.randperm(8, generator=generator), torch.randperm(8, generator=generator)
        facts = [(NAMES[who[at]], PLACES[where[at]]) for at in range(3)]
        context = " ".join(f"{name} lives in {place} ." for name, place in facts)
        asked = [
            {"id": f"{number}-{at}", "question": f"where does {name} live ?",
             "answers": [{"text": place, "answer_start": context.index(place)}]}
            for at, (name, place) in enumerate(facts)
        ]  # fmt: skip
        articles.append({"title": f"article {number}", "paragraphs": [{"context": context, "qas": asked}]})
    path = folder / "questions.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    return path


def bert(layers: int) -> dict[str, Any]:
    config = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 64}
    return {"model": "hf:bert", "options": {"pretrained": False, "config": config}}


def recipe(folder: Path, **changes: Any) -> Recipe:
    train = {"steps": 20, "batch_size": 16, "learning_rate": 0.003, "evaluations": 2}
    data = {"source": str(questions(folder)), "vocabulary": 200, "max_length": 48, "validation": 0.2}
    plain = {
        "name": "tiny-qa", "task": "question-answering", "data": data, "teacher": {**bert(2), "train": train},
        "student": bert(1), "train": train, "seeds": 1, **changes,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return read_recipe(str(path))


def test_from_files_to_report_and_artifact(tmp_path: Path) -> None:
    """Answers scored by windows instead of questions, or a report without them."""
    folder = tmp_path / "run"
    results = run(recipe(tmp_path), folder, say=lambda _line: None)
    for row in results.rows:
        assert 0 <= row.metrics["exact_match"] <= row.metrics["f1"] <= 1
        if row.name != "teacher":
            assert {"agreement", "teacher_kl"} <= row.metrics.keys()
    assert {claim.metric for claim in results.claims} == {"f1", "exact_match"}
    assert "F1" in (folder / "report.html").read_text(encoding="utf-8")
    assert type(load(folder / "student")).__name__ == "BertForQuestionAnswering"


def test_a_teacher_of_other_tokens_is_refused(tmp_path: Path) -> None:
    """A place among other tokens, taken for one among the student's."""
    run(recipe(tmp_path), tmp_path / "first", say=lambda _line: None)
    teacher = {"model": str(tmp_path / "first" / "teacher" / "last")}
    wanted = recipe(tmp_path, teacher=teacher)
    data = wanted.data.model_copy(update={"tokenizer": "characters", "max_length": 128})
    with pytest.raises(LimbeckError, match="tokenizer of its own"):
        run(wanted.model_copy(update={"data": data}), tmp_path / "second", say=lambda _line: None)
