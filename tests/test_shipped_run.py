"""Runs that compare models for shipping: which rows there are, what they are made of, and what is said of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from limbeck.artifact import open_artifact, read_artifact_card
from limbeck.errors import LimbeckError
from limbeck.metrics import size_of
from limbeck.models import forward_of, load
from limbeck.recipe import read_chain, read_recipe
from limbeck.report.shipping import recommended, sentences
from limbeck.results import Results
from limbeck.run import run
from limbeck.sources import load as load_data

TINY = ("train.epochs=2", "teacher.train.epochs=2", "settings={}", "quantize.calibration=64")
ROWS = "compare=[pruned, pruned+distilled, int8, distilled+int8-dynamic]"


def go(folder: Path, *changes: str, seeds: int = 1) -> tuple[Results, list[str]]:
    said: list[str] = []
    return run(read_recipe("digits", [*TINY, f"seeds={seeds}", *changes]), folder, say=said.append), said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("shipped") / "digits"
    go(folder, ROWS, "steps=[distill, quantize]")
    return folder


@pytest.fixture(scope="module")
def results(finished: Path) -> Results:
    return Results.read(finished / "results.json")


def one(results: Results, name: str) -> dict[str, float]:
    (row,) = results.named(name)
    return row.metrics


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prund", "did you mean 'pruned'"),
        ("int8+distilled", "the last step"),
        ("distilled+alone", "the first step"),
        ("pruned+pruned", "twice in a row"),
        ("", "unknown step"),
        ("int8-aware", "distilled\\+int8-aware"),
    ],
)
def test_a_chain_that_cannot_be_is_an_error_that_says_why(name: str, message: str) -> None:
    with pytest.raises(LimbeckError, match=message):
        read_chain(name)


def test_steps_are_a_row_and_alone_and_distilled_are_always_there() -> None:
    recipe = read_recipe("digits", ["steps=[prune, distill, quantize]", "compare=[int8, distilled]"])
    assert [chain.name for chain in recipe.chains] == ["alone", "distilled", "int8", "pruned+distilled+int8"]
    assert read_recipe("digits").chains == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("steps=[prune, distil]", "did you mean 'distill'"),
        ("on=onnxruntime:gpu", "unknown device"),
        ("on=eager", "a file"),
        ("prune={ratio: 0.5, flops: 0.5}", "different targets"),
        ("prune={rounds: 2, latency: 3}", "cannot be planned"),
        ("prune.ratio=1.5", "prune.ratio"),
        ("quantize.knd=static", "did you mean 'kind'"),
        ("compare=[int9]", "did you mean 'int8'"),
    ],
)
def test_a_mistake_in_what_is_compared_is_named(change: str, message: str) -> None:
    with pytest.raises(LimbeckError, match=message):
        read_recipe("digits", [change, "settings={}"])


def test_there_is_a_row_for_each_chain_and_the_teacher(results: Results) -> None:
    names = {row.name for row in results.rows}
    assert names == {
        "teacher", "alone", "distilled", "pruned", "pruned+distilled", "int8", "distilled+int8-dynamic",
        "distilled+int8",
    }  # fmt: skip


def test_the_pruned_teacher_costs_what_the_student_costs(finished: Path, results: Results) -> None:
    (student,), (pruned,), (teacher,) = (results.named(name) for name in ("distilled", "pruned", "teacher"))
    assert teacher.size["flops"] > 2 * student.size["flops"]
    assert abs(pruned.size["flops"] / student.size["flops"] - 1) < 0.25
    inputs = {"inputs": torch.zeros(2, 1, 8, 8)}
    model = load(finished / "models" / "pruned-0" / "last")
    assert size_of(model, inputs, forward_of(model))["flops"] == pruned.size["flops"]


def test_pruned_rows_begin_with_the_teachers_weights_and_differ_in_who_teaches(finished: Path) -> None:
    """One epoch moves weights a little: pruned rows are nearer to the teacher's filters than a student drawn anew."""
    first = {
        name: next(iter(load(finished / place / "last").state_dict().values()))
        for name, place in (("teacher", "teacher"), ("a", "models/pruned-0"), ("b", "models/pruned+distilled-0"))
    }
    for name in ("a", "b"):
        apart = [(first["teacher"] - kept).flatten(1).norm(dim=1).min() for kept in first[name][:, None]]
        assert max(apart) < 0.5 * first["teacher"].flatten(1).norm(dim=1).mean()
    assert not torch.equal(first["a"], first["b"])


@pytest.mark.parametrize("name", ["int8", "distilled+int8", "distilled+int8-dynamic"])
def test_a_rows_accuracy_is_its_files_in_plain_onnxruntime(finished: Path, results: Results, name: str) -> None:
    folder = finished / "artifacts" / f"{name}-0"
    assert read_artifact_card(folder).precision == "int8"
    test = load_data("digits").test
    batch = test.__getitems__(list(range(len(test))))
    (logits,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"inputs": batch["inputs"].numpy()})
    right = float(np.mean(logits.argmax(1) == batch["labels"].numpy()))
    assert one(results, name)["accuracy"] == pytest.approx(right, abs=1e-9)
    before = "teacher" if name == "int8" else "distilled"
    assert one(results, before) != one(results, name)  # other weights, other probabilities


def test_every_row_says_what_ran_it_and_how_large_its_file_is(finished: Path, results: Results) -> None:
    for row in results.rows:
        assert row.latency["runtime"].startswith("onnxruntime")
        assert row.latency["precision"] == ("int8" if "int8" in row.name else "fp32")
        assert row.latency["target"] == "onnxruntime:cpu:1"
        assert ("p50" in row.latency) != ("refused" in row.latency)
        assert row.cost["run_memory_bytes"] > 0
    (student,) = results.named("distilled")
    assert student.size["bytes"] == (finished / "artifacts" / "distilled-0" / "model.onnx").stat().st_size


def test_an_artifact_answers_as_its_row_and_its_card_has_the_rows_numbers(finished: Path, results: Results) -> None:
    folder = finished / "artifacts" / "distilled+int8-0"
    assert open_artifact(folder).card.about["model"] == "distilled+int8, seed 0"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "run by ONNX Runtime" in text
    assert f"{100 * one(results, 'distilled+int8')['accuracy']:.2f}" in text


def test_what_int8_costs_is_noted(results: Results) -> None:
    assert any(note.startswith(("int8: accuracy", "warning: int8")) for note in results.notes)


def test_the_report_says_which_to_ship(finished: Path, results: Results) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert 'id="shipping"' in page
    assert "pruned+distilled" in page
    chosen = recommended(results)
    assert sentences(results)[0].startswith("Which to ship is not said" if chosen is None else f"Ship {chosen.label}: ")
    assert sentences(results)[0].partition(":")[0] in page


def test_more_rows_add_to_a_run_and_nothing_is_trained_again(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "digits"))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    later, said = go(folder, "compare=[pruned, pruned+distilled, int8, pruned+int8]", "steps=[distill, quantize]")
    assert {row.name for row in later.rows} >= {"pruned+int8"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sum(line.startswith("exporting") for line in said) == 0
    again, said = go(folder, "compare=[pruned, pruned+distilled, int8, pruned+int8]", "steps=[distill, quantize]")
    assert again == later
    assert any("already complete" in line for line in said)


def test_int8_that_loses_more_than_allowed_is_flagged_with_its_layers(finished: Path, tmp_path: Path) -> None:
    """Whatever it loses is more than allowed where it has to gain: layers are named, and are layers of the model."""
    from limbeck.compress import findings, layers_of
    from limbeck.deployed import Shipped, notes_on_int8
    from limbeck.results import Row
    from limbeck.session import Session, open_data

    recipe = read_recipe("digits", [*TINY, ROWS])
    session = Session(recipe, open_data(recipe, lambda _line: None), finished, say=lambda _line: None)
    place = finished / "artifacts"
    saved, chain = finished / "teacher" / "last", read_chain("int8")
    shipped = Shipped("int8", 0, "teacher+int8", saved, place / "int8-0", place / "teacher", chain)
    rows = [Row("teacher", 0, "last", {"accuracy": 0.9}), Row("int8", 0, "last", {"accuracy": 0.5})]
    (note,) = notes_on_int8(session, [shipped], rows)
    assert "worse by 0.4" in note
    assert any(name in note for name in layers_of(place / "teacher" / "model.onnx"))
    assert findings({"accuracy": 0.9}, {"accuracy": 0.5})[0].flagged


def test_pruning_in_rounds_leaves_about_the_same_and_shows_the_last_round_alone(tmp_path: Path) -> None:
    results, _ = go(tmp_path / "run", "compare=[pruned+distilled]", "prune={ratio: 0.5, rounds: 2}", "train.epochs=1")
    assert {row.name for row in results.rows} == {"teacher", "alone", "distilled", "pruned+distilled"}
    models = tmp_path / "run" / "models"
    widths = [
        next(iter(load(models / name / "last").state_dict().values())).shape[0]
        for name in ("pruned+distilled-round1-0", "pruned+distilled-0")
    ]
    full = next(iter(load(tmp_path / "run" / "teacher" / "last").state_dict().values())).shape[0]
    assert full > widths[0] > widths[1]
    assert abs(widths[1] - full // 2) <= 1  # each round rounds


def test_a_chain_of_a_teacher_with_other_pixels_is_refused_before_anything_is_trained(
    finished: Path, tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(finished / "teacher" / "last", tmp_path / "teacher"))
    card = json.loads((teacher / "limbeck.json").read_text(encoding="utf-8"))
    card["preprocessing"]["mean"] = [0.3]
    (teacher / "limbeck.json").write_text(json.dumps(card), encoding="utf-8")
    changes = [f"teacher={{model: {teacher}}}", "compare=[pruned+distilled]"]
    with pytest.raises(LimbeckError, match="sees its samples otherwise"):
        go(tmp_path / "run", *changes)
    assert not (tmp_path / "run" / "models").exists()


def test_a_model_that_cannot_be_exported_is_measured_in_pytorch_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limbeck import deployed

    real = deployed.export

    def refusing(saved: Path, to: Path, **options: object) -> object:
        if to.name == "pruned-0":
            raise LimbeckError("the export differs")
        return real(saved, to, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(deployed, "export", refusing)
    changes = ("compare=[pruned, pruned+int8, distilled+int8]", "train.epochs=1", "teacher.train.epochs=1")
    results, _ = go(tmp_path / "run", *changes)
    assert {row.name for row in results.rows} == {"teacher", "alone", "distilled", "pruned", "distilled+int8"}
    (row,) = results.named("pruned")
    assert "eager" in row.latency["runtime"]
    assert any("the export differs" in note for note in results.notes)


def test_a_row_that_learns_as_int8_is_its_file_and_is_not_trained_twice(tmp_path: Path) -> None:
    changes = ("compare=[distilled+int8, distilled+int8-aware]", "train.epochs=2", "quantize.steps=30")
    results, _ = go(tmp_path / "run", *changes)
    folder = tmp_path / "run" / "artifacts" / "distilled+int8-aware-0"
    test = load_data("digits").test
    batch = test.__getitems__(list(range(len(test))))
    (logits,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"inputs": batch["inputs"].numpy()})
    right = float(np.mean(logits.argmax(1) == batch["labels"].numpy()))
    assert one(results, "distilled+int8-aware")["accuracy"] == pytest.approx(right, abs=1e-9)
    (aware,), (student,) = results.named("distilled+int8-aware"), results.named("distilled")
    assert aware.cost["train_seconds"] > student.cost["train_seconds"]
    assert aware.metrics["nll"] != one(results, "distilled+int8")["nll"]  # it learned
    before = (folder / "model.onnx").stat().st_mtime_ns
    go(tmp_path / "run", *changes, "on=openvino-fp32:cpu:1")
    assert (folder / "model.onnx").stat().st_mtime_ns == before


def test_all_rows_means_those_that_can_be_made(finished: Path, tmp_path: Path) -> None:
    teacher = Path(shutil.copytree(finished / "teacher" / "last", tmp_path / "teacher"))
    card = json.loads((teacher / "limbeck.json").read_text(encoding="utf-8"))
    card["preprocessing"]["mean"] = [0.3]
    (teacher / "limbeck.json").write_text(json.dumps(card), encoding="utf-8")
    changes = (f"teacher={{model: {teacher}}}", "compare=all", "train.epochs=1")
    results, said = go(tmp_path / "run", *changes)
    names = {row.name for row in results.rows}
    assert names == {"teacher", "alone", "distilled", "alone+int8", "distilled+int8"}
    assert any(line.startswith("left out: pruned, ") and "sees its samples" in line for line in results.notes)
    _, said = go(tmp_path / "run", *changes)
    assert any("already complete" in line for line in said)


def test_a_layer_that_stays_fp32_is_that_of_one_model_and_nothing_else_is_made_again(
    finished: Path, tmp_path: Path
) -> None:
    """What the report advises where int8 cost too much can be followed in the run that advised it."""
    from limbeck.compress import layers_of

    folder = Path(shutil.copytree(finished, tmp_path / "digits"))
    names = {
        place: list(layers_of(folder / "artifacts" / place / "model.onnx")) for place in ("teacher", "distilled-0")
    }
    (own,) = set(names["teacher"]) - set(names["distilled-0"]) or {names["teacher"][-1]}
    sizes = {path: path.stat().st_size for path in (folder / "artifacts").glob("*int8*/model.onnx")}
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}
    results, _ = go(folder, ROWS, "steps=[distill, quantize]", f"quantize.exclude=[{own}]")
    assert (folder / "artifacts" / "int8-0" / "model.onnx").stat().st_size > sizes[
        folder / "artifacts" / "int8-0" / "model.onnx"
    ]
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert {row.name for row in results.rows} >= {"int8", "distilled+int8"}


def test_a_teacher_that_comes_ready_is_compared_too(tmp_path: Path) -> None:
    changes = ("teacher={model: conv-teacher}", "compare=[pruned, int8]", "train.epochs=1")
    results, _ = go(tmp_path / "run", *changes)
    assert {row.name for row in results.rows} == {"teacher", "alone", "distilled", "pruned", "int8"}
    (teacher,), (int8,) = results.named("teacher"), results.named("int8")
    assert teacher.size["bytes"] > 2 * int8.size["bytes"]
    assert int8.metrics["agreement"] > 0.9
