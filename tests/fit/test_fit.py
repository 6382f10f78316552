"""Fits: which candidates there are, who goes on, what is handed over, and what is said where nothing fits."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.artifact import open_artifact, read_artifact_card
from limbeck.errors import LimbeckError
from limbeck.fit import Budget, Fitted, fit
from limbeck.fit.halving import halving
from limbeck.fit.ladder import ladder, name_of
from limbeck.models import load
from limbeck.recipe import StudentRecipe, read_recipe
from limbeck.session import Session, open_data, preview_teacher
from limbeck.sources import load as load_data
from limbeck.store import LabelStore

SMALL = (
    "train.epochs=4",
    "teacher.train.epochs=3",
    "quantize.calibration=64",
    "label.views=1",
    "fit={students: [{model: conv-student}, {model: conv-student, options: {widths: [4, 8]}}], prune: [0.2]}",
)


def go(folder: Path, budget: Budget, *changes: str) -> tuple[Fitted, list[str]]:
    said: list[str] = []
    return fit(read_recipe("digits", [*SMALL, *changes]), folder, budget, say=said.append), said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("fit") / "digits"


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Fitted:
    """What fits 40 kB: not the teacher."""
    return go(folder, Budget(bytes=40e3))[0]


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        (("5ms", None, None), Budget(latency=5.0)),
        (("0.5s", "4MB", None), Budget(latency=500.0, bytes=4e6)),
        ((None, "30 kB", "1.5G"), Budget(bytes=3e4, flops=1.5e9)),
        (("250us", None, "10M"), Budget(latency=0.25, flops=1e7)),
    ],
)
def test_budgets_are_read_with_their_units(given_text: tuple[str | None, ...], expected: Budget) -> None:
    assert Budget.parse(*given_text) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("latency", "size", "message"),
    [
        ("5", None, "5ms"),
        ("-5ms", None, "5ms"),
        (None, "4ms", "4MB"),
        (None, None, "every model fits"),
        ("0ms", None, "above 0"),
    ],
)
def test_a_text_that_is_no_budget_is_an_error_with_an_example(
    latency: str | None, size: str | None, message: str
) -> None:
    with pytest.raises(LimbeckError, match=message):
        Budget.parse(latency, size, None)


def test_a_latency_keeps_a_tenth_free_and_an_unknown_one_does_not_fit() -> None:
    budget = Budget(latency=10.0)
    cost = {"bytes": 1.0, "flops": 1.0}
    assert budget.why_not({**cost, "latency": 8.9}) == ""
    assert "kept free" in budget.why_not({**cost, "latency": 9.5})
    assert budget.why_not({**cost, "latency": 9.5}, headroom=0.0) == ""
    assert "could not be measured" in budget.why_not(cost)


@given(st.integers(1, 40), st.integers(1, 10_000))
def test_halving_ends_with_one_that_has_all_steps(candidates: int, steps: int) -> None:
    rounds = halving(candidates, steps)
    assert rounds[0].entering == candidates
    assert (rounds[-1].entering, rounds[-1].steps) == (1, steps)
    for one, following in itertools.pairwise(rounds):
        assert one.leaving == following.entering <= one.entering
        assert one.steps <= following.steps
    # Never dearer than five whole trainings for eight candidates.
    if candidates <= 8:
        assert sum(each.entering * each.steps for each in rounds) <= 5 * max(steps, 8)


def test_the_ladder_of_a_recipe_has_widths_kin_pruned_teachers_and_the_teacher(tmp_path: Path) -> None:
    recipe = read_recipe("mnist-conv", ["data.source=digits", "data.size=16", "data.labelled=all"])
    session = Session(recipe, open_data(recipe, lambda _line: None), tmp_path, say=lambda _line: None)
    names = [rung.name for rung in ladder(session, preview_teacher(session).teacher)]
    assert len(set(names)) == len(names)
    assert names[0] == "conv-student"
    assert {"conv-student-widths8x16", "conv-student-widths32x64", "conv-student-resolution8"} <= set(names)
    assert {"teacher-pruned-0.5", "teacher-pruned-0.12", "teacher"} <= set(names)


def test_students_of_a_family_are_its_members_with_the_same_prefix(tmp_path: Path) -> None:
    from limbeck.fit.ladder import _relatives

    assert list(_relatives("fcos:timm:resnet10t"))[:2] == ["fcos:timm:resnet14t", "fcos:timm:resnet18"]
    assert "resnet20" in list(_relatives("resnet8x4"))
    assert list(_relatives("conv-student")) == []
    assert (
        name_of(StudentRecipe(model="fcos:timm:resnet18", options={"channels": 32})) == "fcos-timm-resnet18-channels32"
    )


def test_what_is_handed_over_keeps_the_budget_and_is_what_was_tested(fitted: Fitted) -> None:
    files = list(fitted.artifact.glob("*.onnx"))
    assert sum(path.stat().st_size for path in files) <= 40e3
    test = load_data("digits").test
    batch = test.__getitems__(list(range(len(test))))
    (logits,) = onnxruntime.InferenceSession(files[0]).run(None, {"inputs": batch["inputs"].numpy()})
    right = float(np.mean(logits.argmax(1) == batch["labels"].numpy()))
    (row,) = fitted.results.named(fitted.name)
    assert row.metrics["accuracy"] == pytest.approx(right, abs=1e-9)
    assert open_artifact(fitted.artifact).card.task == "image-classification"
    assert f"{100 * right:.2f}" in fitted.sentences[0]


def test_candidates_learn_from_one_label_store(folder: Path, fitted: Fitted) -> None:
    assert fitted.artifact.is_dir()
    assert LabelStore.open(folder / "labels").manifest.records >= len(load_data("digits").train)


def test_the_artifacts_card_has_what_was_tested(fitted: Fitted) -> None:
    (row,) = fitted.results.named(fitted.name)
    text = (fitted.artifact / "README.md").read_text(encoding="utf-8")
    assert f"{100 * row.metrics['accuracy']:.2f}" in text


def test_everything_tried_is_told_with_its_fate(fitted: Fitted) -> None:
    fates = {each.name: each.fate for each in fitted.tried}
    assert len(fates) == 8  # two students, one pruned, the teacher; each in fp32 and int8
    assert fates["teacher"].startswith("over the budget")
    assert [each.role for each in fitted.tried].count("chosen") == 1
    page = fitted.report.read_text(encoding="utf-8")
    assert all(name in page for name in fates)
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_winner_was_the_best_on_validation_of_the_last_round(folder: Path, fitted: Fitted) -> None:
    """Who has the most steps won every round: nobody who left in the same round did better."""
    by_steps: dict[int, dict[str, float]] = {}
    for path in (folder / "models").glob("*/record.json"):
        name, _, steps = path.parent.name.rpartition("-")[0].rpartition("-")
        history = json.loads(path.read_text(encoding="utf-8"))["history"]
        by_steps.setdefault(int(steps), {})[name] = [e["eval_accuracy"] for e in history if "eval_accuracy" in e][-1]
    (winner,) = by_steps[max(by_steps)]
    assert fitted.name in (winner, f"{winner}+int8")
    for steps in sorted(by_steps)[:-1]:
        going_on = by_steps[min(each for each in by_steps if each > steps)]
        left = {name: value for name, value in by_steps[steps].items() if name not in going_on}
        assert max(left.values(), default=0.0) <= min(by_steps[steps][name] for name in going_on)


def test_another_budget_takes_over_what_was_done(folder: Path, fitted: Fitted, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "digits"))
    before = {path: path.stat().st_mtime_ns for path in (place / "models").rglob("model.safetensors")}
    start = time.time_ns()
    other, said = go(place, Budget(bytes=39.9e3))
    assert any("measured before" in line for line in said)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(path.stat().st_mtime_ns < start for path in before)
    assert other.name == fitted.name
    assert other.artifact != fitted.artifact


def test_where_nothing_fits_it_says_what_comes_nearest_and_trains_nothing(tmp_path: Path) -> None:
    with pytest.raises(LimbeckError, match=r"nothing fits 0\.001 MFLOPs.*come nearest: .*widths4x8") as error:
        go(tmp_path / "run", Budget(flops=1e3), "fit.int8=false")
    assert "fit.students" in str(error.value)
    assert not (tmp_path / "run" / "models").exists()
    assert not (tmp_path / "run" / "teacher").exists()


def test_where_nothing_can_be_measured_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise LimbeckError("the exporter is out of order")

    monkeypatch.setattr("limbeck.fit.measuring.write_parts", refuses)
    with pytest.raises(LimbeckError, match="conv-student: cannot be built or exported: the exporter is out of order"):
        go(tmp_path / "run", Budget(bytes=1e6))


def test_without_what_writes_files_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(LimbeckError, match=r"limbeck\[onnx\]"):
        go(tmp_path / "run", Budget(bytes=1e6))
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_fits_is_a_candidate_without_training(folder: Path, fitted: Fitted, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "digits"))
    found, _ = go(place, Budget(bytes=10e6))
    (teacher,) = (each for each in found.tried if each.name == "teacher")
    assert teacher.role in ("teacher", "chosen")
    assert teacher.value is not None
    assert teacher.steps == 0


def test_a_teacher_that_comes_ready_can_be_what_fits(folder: Path, fitted: Fitted, tmp_path: Path) -> None:
    """It is saved nowhere by limbeck, and an export begins with a saved model."""
    assert fitted.artifact.is_dir()
    weights = tmp_path / "weights.pt"
    torch.save(load(folder / "teacher" / "last").state_dict(), weights)
    teacher = f"teacher={{model: conv-teacher, options: {{weights: {weights}}}}}"
    changes = (teacher, "fit={students: [{model: conv-student}], prune: [], int8: false}")
    found, _ = go(tmp_path / "run", Budget(bytes=10e6), *changes)
    assert {each.name for each in found.tried} == {"conv-student", "teacher"}
    assert all(each.value is not None for each in found.tried)


def test_int8_is_written_again_where_it_is_wanted_otherwise(folder: Path, fitted: Fitted, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "digits"))
    assert fitted.name.endswith("+int8")
    found, said = go(place, Budget(bytes=40e3), "quantize.kind=dynamic")
    int8 = next(each for each in (place / "fits" / "40-kB" / "artifacts").iterdir() if each.name.endswith("+int8"))
    assert read_artifact_card(int8).about["int8"]["kind"] == "dynamic"
    assert not any(line.startswith("costs were measured before") for line in said)
    assert found.artifact.is_dir()
