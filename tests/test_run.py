"""Runs of a small recipe: what they leave, what they do not do twice, and what stops them."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import limbeck
from limbeck.errors import LimbeckError
from limbeck.models import read_card
from limbeck.recipe import read_recipe
from limbeck.results import Results
from limbeck.run import run
from limbeck.sources import load as load_data
from limbeck.tasks import IMAGE_CLASSIFICATION

TINY = ("train.epochs=1", "teacher.train.epochs=1", "settings={}")


def go(folder: Path, *changes: str, seeds: int = 2) -> Results:
    return run(read_recipe("digits", [*TINY, f"seeds={seeds}", *changes]), folder, say=lambda _line: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two seeds; tests that change it take a copy."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / "digits"
    go(folder)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "digits"))


def stamps(folder: Path) -> dict[str, int]:
    """The modification times of all models in a run folder."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}


def with_classes(teacher: Path, place: Path, classes: Sequence[str]) -> Path:
    """A copy of a saved teacher whose card says other classes."""
    shutil.copytree(teacher, place)
    card = json.loads((place / "limbeck.json").read_text(encoding="utf-8"))
    (place / "limbeck.json").write_text(json.dumps(card | {"classes": list(classes)}), encoding="utf-8")
    return place


def test_results_have_the_promised_schema(finished: Path) -> None:
    """Whoever reads results.json with a script relies on these keys, units and rows."""
    data = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert {"recipe", "versions", "rows", "claims"} <= data.keys()
    assert data["recipe"]["name"] == "digits"
    assert {"python", "torch", "limbeck", "processor", "threads"} <= data["versions"].keys()
    keys = {"name", "seed", "checkpoint", "metrics", "size", "latency", "cost"}
    assert all(keys <= row.keys() for row in data["rows"])
    named = {(row["name"], row["seed"], row["checkpoint"]) for row in data["rows"]}
    students = {(name, seed, at) for name in ("alone", "distilled") for seed in (0, 1) for at in ("last", "selected")}
    assert named == students | {("teacher", 0, "last")}
    assert all(0 <= row["metrics"]["accuracy"] <= 1 for row in data["rows"])
    assert all(row["cost"]["train_seconds"] > 0 for row in data["rows"])
    assert all((finished / row["details"]).is_file() for row in data["rows"])
    assert {(claim["metric"], claim["a"], claim["b"], claim["seeds"]) for claim in data["claims"]} == {
        (metric, "distilled", "alone", 2) for metric in ("accuracy", "macro_f1", "nll")
    }
    assert any("1,294 samples" in note and "1,244 unlabelled" in note for note in data["notes"])


def test_claims_are_the_rows_means(finished: Path) -> None:
    """A claim computed from other rows than the table's would say what nobody can check."""
    results = Results.read(finished / "results.json")
    claim = next(each for each in results.claims if each.metric == "accuracy")
    for name, mean in ((claim.a, claim.mean_a), (claim.b, claim.mean_b)):
        values = [row.metrics["accuracy"] for row in results.rows if row.name == name and row.checkpoint == "last"]
        assert mean == pytest.approx(sum(values) / 2)


def test_rows_measure_the_kept_models(finished: Path) -> None:
    """A row of another model than the folder's is a number for a model that nobody has."""
    results = Results.read(finished / "results.json")
    test = load_data("digits").test
    for row in (results.named("distilled")[1], results.named("alone", "selected")[0]):
        model = limbeck.load(finished / "models" / f"{row.name}-{row.seed}" / row.checkpoint)
        inputs = test.__getitems__(list(range(len(test))))["inputs"]
        with torch.no_grad():
            right = model(inputs).argmax(1) == test.labels
        assert row.metrics["accuracy"] == pytest.approx(right.double().mean().item())


def test_student_folder_loads_and_holds_no_teacher(finished: Path) -> None:
    """What is shipped must load by itself, be the best distilled student, and not drag the teacher along."""
    student = limbeck.load(finished / "student")
    with torch.no_grad():
        assert student(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    weights, teacher = (load_file(finished / at / "model.safetensors") for at in ("student", "teacher/last"))
    assert weights.keys() == student.state_dict().keys()
    shared = [
        name for name, ours in weights.items() for theirs in teacher.values()
        if ours.numel() > 1 and ours.shape == theirs.shape and torch.equal(ours, theirs)
        and ours.unique().numel() > 1
    ]  # fmt: skip
    assert shared == []
    assert sum(tensor.numel() for tensor in weights.values()) < sum(tensor.numel() for tensor in teacher.values()) / 4
    card = read_card(finished / "student")
    assert card.classes == tuple("0123456789")
    assert card.preprocessing is not None
    assert card.preprocessing.size == (8, 8)
    best = max((0, 1), key=lambda seed: validation(finished / "models" / f"distilled-{seed}" / "record.json"))
    assert card.about["model"] == f"distilled, seed {best}"


def validation(record: Path) -> float:
    history = json.loads(record.read_text(encoding="utf-8"))["history"]
    return float([entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry][-1])


def test_a_run_leaves_its_recipe_report_and_logs(finished: Path) -> None:
    """Without the resolved recipe nobody can repeat a run; a report that loads from the net does not open offline."""
    recipe = read_recipe("digits", [*TINY, "seeds=2"])
    assert yaml.safe_load((finished / "recipe.yaml").read_text(encoding="utf-8")) == recipe.resolved()
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "distilled" in page
    assert 'src="http' not in page
    assert '<link rel="stylesheet" href="http' not in page
    units = {path.parent.name for path in (finished / "logs").rglob("events.out.tfevents.*")}
    assert units == {"teacher", "alone-0", "alone-1", "distilled-0", "distilled-1"}
    assert not list(finished.rglob("*.partial"))
    assert not list((finished / "work").glob("*"))


def test_repeating_redoes_nothing(finished: Path) -> None:
    """Training again what is done wastes hours, and changes published numbers."""
    before, written = stamps(finished), (finished / "results.json").read_bytes()
    results = go(finished)
    assert stamps(finished) == before
    assert (finished / "results.json").read_bytes() == written
    assert results == Results.read(finished / "results.json")


def test_more_seeds_only_add(copied: Path) -> None:
    """More seeds must leave trained models and their accuracies as they are."""
    before, old = stamps(copied), Results.read(copied / "results.json")
    new = go(copied, seeds=3)
    after = stamps(copied)
    models = {path: stamp for path, stamp in before.items() if not path.startswith("student")}
    assert {path: after[path] for path in models} == models
    assert {Path(path).parts[1] for path in after.keys() - before.keys()} == {"alone-2", "distilled-2"}
    for row in old.rows:
        [again] = [each for each in new.named(row.name, row.checkpoint) if each.seed == row.seed]
        assert again.metrics == row.metrics
    assert {claim.seeds for claim in new.claims} == {3}


def test_an_interrupted_run_goes_on(copied: Path) -> None:
    """After a kill only what was not finished is trained, and it comes out as it would have."""
    old = Results.read(copied / "results.json")
    before = stamps(copied)
    shutil.rmtree(copied / "models" / "distilled-1")
    (copied / "results.json").unlink()
    new = go(copied)
    after = stamps(copied)
    changed = {Path(path).parts[1] for path in after if after[path] != before[path] and path.startswith("models")}
    assert changed == {"distilled-1"}
    assert [row.metrics for row in new.rows] == [row.metrics for row in old.rows]


def test_another_recipe_is_refused(finished: Path) -> None:
    """Mixing two recipes in a folder would report models of one as those of the other."""
    before = stamps(finished)
    with pytest.raises(LimbeckError, match=r"another recipe \(train\.learning_rate: 0\.003 there, 0\.001 now\)"):
        go(finished, "train.learning_rate=0.001")
    assert stamps(finished) == before


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    """A run must not spread over a folder with the user's own files."""
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(LimbeckError, match="not empty and holds no limbeck run"):
        go(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_mistake_can_be_corrected_in_place(tmp_path: Path) -> None:
    """A typo in a name must not claim the folder, nor show only after the teacher's hours of training."""
    for wrong in ("student.model=conv-studnt", "data.source=digit"):
        with pytest.raises(LimbeckError, match="did you mean"):
            go(tmp_path / "run", wrong)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("01234", "the teacher knows 5 classes, the data has 10"),
        ("0123456798", "class 8 is '9' for the teacher and '8' in the data"),
    ],
)
def test_a_teacher_of_other_classes_is_refused(finished: Path, tmp_path: Path, classes: str, message: str) -> None:
    """A teacher whose third logit is another class than the data's teaches the student wrong answers."""
    teacher = with_classes(finished / "teacher" / "last", tmp_path / "teacher", classes)
    with pytest.raises(LimbeckError, match=message):
        go(tmp_path / "run", f"teacher={{model: {teacher}}}")


def test_a_saved_teacher_gets_its_own_preprocessing(finished: Path, tmp_path: Path) -> None:
    """A ready-made teacher must answer as it did where it was trained, and stay as it is."""
    before = (finished / "teacher" / "last" / "model.safetensors").read_bytes()
    results = go(tmp_path / "run", f"teacher={{model: {finished / 'teacher' / 'last'}}}", seeds=1)
    [again], [there] = results.named("teacher"), Results.read(finished / "results.json").named("teacher")
    assert again.metrics == there.metrics
    assert (finished / "teacher" / "last" / "model.safetensors").read_bytes() == before
    assert IMAGE_CLASSIFICATION.name == results.recipe["task"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut file that looks finished would be loaded by the next run."""
    import limbeck.files

    def full(_source: Any, target: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    folder = tmp_path / "run"
    go_on = limbeck.files.os.replace
    monkeypatch.setattr(
        limbeck.files.os, "replace",
        lambda source, target: go_on(source, target) if Path(target).name == "recipe.yaml" else full(source, target),
    )  # fmt: skip
    with pytest.raises(OSError, match="No space left"):
        go(folder)
    assert not list(folder.rglob("*.partial"))
    assert not list(folder.rglob("model.safetensors"))
    assert not (folder / "results.json").exists()
    monkeypatch.undo()
    assert len(go(folder, seeds=1).rows) == 5


class _Pairs(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A data set that is read sample by sample, as a user's own."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.inputs[index], int(self.labels[index])


def _linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))


@pytest.mark.parametrize("lazy", [False, True])
def test_nan_in_data_is_named(lazy: bool) -> None:
    """NaN in one sample turns the whole student into NaN; it must stop the run, not show in the report."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 1, 4, 4), torch.arange(64) % 3
    broken = x.clone()
    broken[5, 0, 1, 2] = float("nan")
    data: Any = _Pairs(broken, y) if lazy else (broken, y)
    config = limbeck.TrainConfig(epochs=1, batch_size=16)
    with pytest.raises(LimbeckError, match="NaN" if lazy else "sample 5 has NaN"):
        limbeck.distill(_linear(), _linear(), data, (x, y), config=config)


def test_labels_beyond_the_classes_are_named() -> None:
    """A label that no logit belongs to is an index error deep in a loss, or worse, on a GPU, an abort."""
    x, y = np.zeros((8, 1, 4, 4), dtype=np.float32), np.array([0, 1, 2, 0, 1, 2, 0, 7])
    with pytest.raises(LimbeckError, match="label 7 is out of range for 3 classes"):
        limbeck.distill(_linear(), _linear(), (x, y), (x, y))


@pytest.mark.parametrize(
    ("recipe", "module", "extra"),
    [("multi30k-en-de", "sacrebleu", "text"), ("bccd", "faster_coco_eval", "detection")],
)
def test_what_measures_a_task_is_looked_for_first(
    recipe: str, module: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is missed when the teacher has been trained, or at the very end when the test split is read."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))  # nothing is even loaded
    with pytest.raises(LimbeckError, match=rf"is measured by {module}, .*limbeck\[{extra}\]"):
        run(read_recipe(recipe), tmp_path / "run", say=str)
