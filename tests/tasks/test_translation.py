"""Translation as a task: from pairs to results, report and artifact, token by token and by whole sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from limbeck.errors import LimbeckError
from limbeck.models import load
from limbeck.recipe import Recipe, read_recipe
from limbeck.run import run
from limbeck.session import open_data, training_split
from limbeck.stores import label_recipe

pytest.importorskip("sacrebleu")

WORDS = {
    "one": "eins",
    "two": "zwei",
    "three": "drei",
    "dogs": "Hunde",
    "cats": "Katzen",
    "run": "laufen",
    "sit": "sitzen",
}


def pairs(folder: Path) -> Path:
    """Sentences of five words, each with its translation word by word."""
    generator = torch.Generator().manual_seed(0)
    names = list(WORDS)
    drawn = torch.randint(len(names), (300, 5), generator=generator).tolist()
    found = {tuple(names[each] for each in row) for row in drawn}
    rows = [f"{' '.join(row)}\t{' '.join(WORDS[each] for each in row)}" for row in sorted(found)]
    path = folder / "pairs.tsv"
    path.write_text("source\ttarget\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def marian(width: int) -> dict[str, Any]:
    stacks = {f"{side}_{what}": value for side in ("encoder", "decoder")
              for what, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 2 * width))}  # fmt: skip
    return {
        "model": "hf:marian",
        "options": {"pretrained": False, "config": {"d_model": width, "dropout": 0.0, **stacks}},
    }


def recipe(folder: Path, **changes: Any) -> Recipe:
    train = {"steps": 150, "batch_size": 32, "learning_rate": 0.005, "evaluations": 2, "clip": 1.0}
    data = {"source": str(pairs(folder)), "vocabulary": 300, "max_length": 24, "max_new_tokens": 20}
    plain = {
        "name": "tiny-mt", "task": "translation", "data": data, "teacher": {**marian(64), "train": train},
        "student": marian(16), "train": {**train, "steps": 20}, "seeds": 1, **changes,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return read_recipe(str(path))


def test_token_and_sequence_level_share_the_student_alone(tmp_path: Path) -> None:
    """Settings that differ only in how a teacher teaches, each with a student alone of its own; a sequence-level
    setting that learns the references."""
    folder = tmp_path / "run"
    sequences = {"sequence_level": {"beams": 2, "max_new_tokens": 20}, "terms": [{"loss": "supervised"}]}
    said: list[str] = []
    results = run(recipe(tmp_path, settings={"sequences": sequences}), folder, say=said.append)
    assert {row.name for row in results.rows} == {"teacher", "alone", "distilled", "distilled@sequences"}
    (teacher,) = results.named("teacher", "last")
    assert teacher.metrics["chrf"] > results.named("alone", "last")[0].metrics["chrf"]
    for row in results.rows:
        assert {"bleu", "chrf", "length_ratio"} <= row.metrics.keys()
        assert row.latency["p50"] > 0
    assert {(claim.a, claim.b) for claim in results.claims} == {
        ("distilled", "alone"),
        ("distilled@sequences", "alone"),
    }
    assert len(list(folder.glob("sequences-*"))) == 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "BLEU" in page
    assert "In the setting “sequences”" in page
    saved = load(folder / "student")
    assert saved.generate(torch.tensor([[5, 6, 2]]), max_new_tokens=3).shape[0] == 1


def test_sequences_beside_stored_labels(tmp_path: Path) -> None:
    """What was stored of the references, asked for the teacher's own translations; a run that ends with that after the
    teacher has written for minutes."""
    sequences = {"sequence_level": {"beams": 2, "max_new_tokens": 20}, "terms": [{"loss": "supervised"}]}
    both = {"terms": [{"loss": "supervised", "weight": 0.5}, {"loss": "kd", "weight": 0.5, "temperature": 1}]}
    token_level = {**both, "sequence_level": None}
    wanted = recipe(tmp_path, **sequences, settings={"token-level": token_level, "both": both}, seeds=1)
    teacher = wanted.teacher[0].model_copy(update={"store": str(tmp_path / "labels")})
    wanted = wanted.model_copy(update={"teacher": [teacher]})
    label_recipe(wanted, tmp_path / "run", say=str)
    results = run(wanted, tmp_path / "run", say=str)
    assert {row.name for row in results.rows} == {
        "teacher",
        "alone",
        "distilled",
        "distilled@token-level",
        "distilled@both",
    }
    assert results.named("teacher")[0].latency["p50"] > 0


def test_some_translations_are_hidden(tmp_path: Path) -> None:
    """`labelled` that is read and not used, or that hides the texts too."""
    wanted = recipe(tmp_path, data={"source": str(pairs(tmp_path)), "vocabulary": 300, "labelled": 20})
    data = open_data(wanted, lambda _line: None)
    split = training_split(wanted, data, 0)
    assert len(split) == len(data.train)
    assert int(split.labelled.sum()) == 20
    assert wanted.kind.describe(split, data) == f"{len(split)} texts, 20 of them with a translation"


def test_sequence_level_is_of_translations(tmp_path: Path) -> None:
    """A key that does nothing in another task."""
    with pytest.raises(LimbeckError, match="sequence_level: is of translations"):
        read_recipe("digits", ["sequence_level={beams: 4}"])
