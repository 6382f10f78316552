"""The doctor: what it finds in recipes that are right and in recipes that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.doctor import Finding, examine
from limbeck.errors import LimbeckError
from limbeck.recipe import read_recipe
from limbeck.run import run

TINY = ("train.epochs=1", "teacher.train.epochs=2", "seeds=1", "settings={}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, whose teacher is right nearly nine times in ten."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("doctor") / "digits"
    run(read_recipe("digits", TINY), folder, say=lambda _line: None)
    return folder


def findings(folder: Path, *changes: str) -> dict[str, Finding]:
    """The findings on the digits recipe by topic."""
    return {each.topic: each for each in examine(read_recipe("digits", [*TINY, *changes]), folder)}


def test_without_a_teacher_yet(tmp_path: Path) -> None:
    """Before the run there is no teacher to judge; all else must be looked at, and nothing be written."""
    found = findings(tmp_path / "run")
    assert found["teacher"].level == "note"
    assert "not there yet" in found["teacher"].text
    assert "against an untrained teacher" in found["term kd"].text
    assert {topic: found[topic].level for topic in ("balance", "student's inputs", "capacity", "term supervised")} == {
        "balance": "ok", "student's inputs": "ok", "capacity": "ok", "term supervised": "ok",
    }  # fmt: skip
    assert "calibration" not in found
    assert "20 steps × 2 students" in found["time"].text  # 1,294 samples in full batches of 64
    assert not (tmp_path / "run").exists()


def test_with_the_trained_teacher(finished: Path) -> None:
    """The doctor must judge the run's own teacher, and leave the run as it is."""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    found = findings(finished)
    assert found["teacher"].level == "ok"
    assert "accuracy 8" in found["teacher"].text
    assert "class order" not in found
    assert "untrained" not in found["term kd"].text
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_wrong_normalisation_is_named(finished: Path, tmp_path: Path) -> None:
    """Statistics in 0…255 make a good teacher guess; the doctor must point there, and not at the class order."""
    teacher = finished / "teacher" / "last"
    right = findings(tmp_path / "run", f"teacher={{model: {teacher}}}")
    wrong = findings(tmp_path / "run", f"teacher={{model: {teacher}, normalize: {{mean: [77.0], std: [96.0]}}}}")
    assert right["teacher"].level == "ok"
    assert wrong["teacher"].level == "warning"
    assert "teacher.normalize" in wrong["teacher"].text
    assert "class order" not in wrong


def test_permuted_classes_are_named(finished: Path, tmp_path: Path) -> None:
    """A teacher that knows the classes in another order looks bad; the doctor must say why."""
    from safetensors.torch import load_file, save_file

    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "limbeck.json").write_bytes((finished / "teacher" / "last" / "limbeck.json").read_bytes())
    weights = load_file(finished / "teacher" / "last" / "model.safetensors")
    heads = [name for name, tensor in weights.items() if tensor.shape[:1] == (10,)]
    assert heads
    moved = {name: tensor.roll(1, 0).contiguous() if name in heads else tensor for name, tensor in weights.items()}
    save_file(moved, teacher / "model.safetensors")
    found = findings(tmp_path / "run", f"teacher={{model: {teacher}}}")
    assert found["teacher"].level == "warning"
    assert found["class order"].level == "warning"
    assert "0 → 1" in found["class order"].text


def test_swapped_models_are_named(tmp_path: Path) -> None:
    """Teacher and student the wrong way round is a slip of one line, worth a word before hours of training."""
    found = findings(tmp_path / "run", "teacher.model=conv-student", "student.model=conv-teacher")
    assert found["capacity"].level == "warning"
    assert "are they swapped" in found["capacity"].text


def test_imbalance_is_named(tmp_path: Path) -> None:
    """On 9 to 1 classes a student that always says the larger one has 90 % accuracy."""
    generator = np.random.default_rng(0)
    for name, count in (("cat", 36), ("dog", 6)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{index}.png")
    found = findings(tmp_path / "run", f"data.source=folder:{tmp_path / 'data'}", "data.labelled=all")
    assert found["balance"].level == "warning"
    assert "imbalanced" in found["balance"].text
    assert "cat" in found["data"].text


def test_too_few_labels_are_named(tmp_path: Path) -> None:
    """With ten labels in 1,294 samples most batches teach the student alone nothing."""
    found = findings(tmp_path / "run", "data.labelled=10")
    assert found["labels"].level == "warning"
    assert "train.batch_size" in found["labels"].text


def test_a_term_without_effect_is_named(tmp_path: Path) -> None:
    """A term of weight 0 is a distillation that does not take place."""
    found = findings(tmp_path / "run", "terms.1.weight=0")
    assert found["term kd"].level == "warning"
    assert "teaches nothing" in found["term kd"].text


def test_what_stops_the_run_stops_the_doctor(tmp_path: Path) -> None:
    """The doctor must not call healthy what cannot run."""
    with pytest.raises(LimbeckError, match="did you mean 'conv-student'"):
        findings(tmp_path / "run", "student.model=conv-studnt")
    with pytest.raises(LimbeckError, match="no such folder"):
        findings(tmp_path / "run", f"data.source=folder:{tmp_path / 'nowhere'}")
