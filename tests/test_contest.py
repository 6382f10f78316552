"""Comparisons of methods: fair, resumable, honest about what was left out, and shown."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.compare import method_claims
from limbeck.contest import compare_methods, epochs_of, fitting, method_terms, names_of_methods
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.losses import METHODS
from limbeck.recipe import Recipe, build_terms, read_recipe
from limbeck.results import Results, Row
from limbeck.run import run
from limbeck.session import Session, open_data, preview_teacher

TINY = ("train.epochs=1", "teacher.train.epochs=1", "settings={}")


def recipe(*changes: str, seeds: int = 2) -> Recipe:
    return read_recipe("digits", [*TINY, f"seeds={seeds}", *changes])


def go(folder: Path, *methods: str, seeds: int = 2) -> Results:
    return compare_methods(recipe(seeds=seeds), folder, methods, say=lambda _line: None)


def stamps(folder: Path) -> dict[str, int]:
    """The modification times of all models in a folder."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("model.safetensors")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("contest") / "digits"
    go(folder, "dkd")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures where nobody looks at them."""
    monkeypatch.setattr("limbeck.report.write", lambda _results, _folder, path: path.write_text("page"))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "digits"))


def test_rows_claims_and_one_alone(finished: Path) -> None:
    """KD missing from its own comparison; an `alone` for each method; claims against one baseline only."""
    results = Results.read(finished / "results.json")
    last = {(row.name, row.seed) for row in results.rows if row.checkpoint == "last"}
    assert last == {("teacher", 0)} | {(name, seed) for name in ("alone", "kd", "dkd") for seed in (0, 1)}
    assert {path.name for path in (finished / "models").iterdir()} == {
        f"{name}-{seed}" for name in ("alone", "kd", "dkd") for seed in (0, 1)
    }
    pairs = {(claim.a, claim.b) for claim in results.claims if claim.metric == "accuracy"}
    assert pairs == {("kd", "alone"), ("dkd", "alone"), ("dkd", "kd")}
    assert results.recipe["methods"]["kd"] == [{"loss": "supervised", "weight": 0.1}, {"loss": "kd", "weight": 0.9}]
    assert list(results.recipe["methods"]) == ["kd", "dkd"]
    assert all(row.cost["train_seconds"] > 0 for row in results.rows)
    assert all("agreement" in row.metrics for row in results.rows if row.name != "teacher")


@pytest.mark.usefixtures("quick")
def test_the_same_start_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that wins by its initial weights or by the order of its data."""
    seen: list[tuple[int, list[int]]] = []
    forward = Distiller.forward

    def watched(self: Distiller, batch: Any, denominators: Any = None) -> Any:
        if self.training:
            weights = torch.cat([parameter.detach().flatten() for parameter in self.student.parameters()])
            seen.append((hash(weights.numpy().tobytes()), batch["ids"].tolist()))
        return forward(self, batch, denominators)

    monkeypatch.setattr(Distiller, "forward", watched)
    short = recipe("train={steps: 2, batch_size: 64, evaluations: 1}", "teacher.train={steps: 2, evaluations: 1}")
    compare_methods(short.model_copy(update={"seeds": 1}), tmp_path / "run", ("ctkd",), say=lambda _line: None)
    alone, kd, ctkd = (seen[first : first + 2] for first in (2, 4, 6))
    assert alone[0] == kd[0] == ctkd[0]
    assert alone[1][1] == kd[1][1] == ctkd[1][1]
    assert len({steps[1][0] for steps in (alone, kd, ctkd)}) == 3, "after a step they differ"


@pytest.mark.usefixtures("quick")
def test_what_is_finished_is_kept(copied: Path) -> None:
    """Methods or seeds that are added must not touch what was trained; a kill must not cost a finished training."""
    before, old = stamps(copied), Results.read(copied / "results.json")
    shutil.rmtree(copied / "models" / "dkd-1")
    (copied / "results.json").unlink()
    lines: list[str] = []
    again = compare_methods(recipe(), copied, ("dkd",), say=lines.append)
    after = stamps(copied)
    assert {path for path in after if after[path] != before[path]} == {
        f"models/dkd-1/{at}/model.safetensors" for at in ("last", "selected")
    }
    assert [row.metrics for row in again.rows] == [row.metrics for row in old.rows]
    more = compare_methods(recipe(seeds=1), copied, ("nkd",), say=lines.append)
    assert {path: stamp for path, stamp in stamps(copied).items() if path in after} == after
    assert list(more.recipe["methods"]) == ["kd", "nkd", "dkd"], "what the folder holds is shown as well"
    assert {path.name for path in (copied / "models").iterdir()} - {"nkd-0"} == {
        f"{name}-{seed}" for name in ("alone", "kd", "dkd") for seed in (0, 1)
    }
    done = compare_methods(recipe(seeds=1), copied, ("nkd", "dkd"), say=lines.append)
    assert "already complete" in lines[-1]
    assert done == Results.read(copied / "results.json")


def test_folders_of_others_are_refused(finished: Path, tmp_path: Path) -> None:
    """Trainings of other terms or of a run shown as this comparison's."""
    tuned = recipe("methods.dkd=[{loss: dkd, weight: 3}]")
    with pytest.raises(
        LimbeckError, match=r"holds dkd with other terms \(terms\.0\.loss: 'supervised' there, 'dkd' now"
    ):
        compare_methods(tuned, finished, ("dkd",), say=lambda _line: None)
    with pytest.raises(LimbeckError, match=r"another recipe \(train\.epochs"):
        compare_methods(recipe("train.epochs=2"), finished, ("dkd",), say=lambda _line: None)
    with pytest.raises(LimbeckError, match="another recipe"):
        run(recipe(), finished, say=lambda _line: None)
    (tmp_path / "models").mkdir()
    shutil.copy(finished / "recipe.yaml", tmp_path)
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(text[: text.index("methods:")], encoding="utf-8")
    with pytest.raises(LimbeckError, match="holds a run, not a comparison"):
        go(tmp_path, "dkd")


@pytest.fixture(scope="module")
def session() -> Session:
    plain = recipe()
    return Session(plain, open_data(plain, lambda _line: None), Path("nowhere"), say=lambda _line: None)


def test_what_does_not_fit_is_left_out_with_a_reason(session: Session) -> None:
    """A loss for many labels, or for taps that a model has not, trained on noise or failing after hours."""
    taught, lines = preview_teacher(session), []
    names = ["kd", "sigmoid-kd", "attention-mse"]
    chosen = fitting(session, taught, session.recipe, names, explicit=False, note=lines.append)
    assert list(chosen) == ["kd"]
    assert [line.split(":")[1].strip() for line in lines] == ["sigmoid-kd", "attention-mse"]
    assert "several labels a sample" in lines[0]
    with pytest.raises(LimbeckError, match="method sigmoid-kd: it is for data with several labels"):
        fitting(session, taught, session.recipe, names, explicit=True, note=lines.append)


def test_terms_come_from_the_table(session: Session) -> None:
    """Other weights than the papers'; a warm-up that outlasts the training; labels learned otherwise than by alone."""
    table = {method.name: method for method in METHODS}
    own = recipe("terms=[{loss: supervised, weight: 0.5, label_smoothing: 0.1, warmup: 1}, {loss: kd}]")
    terms = method_terms(table["dist"], own, 30)
    assert terms == [{"loss": "supervised", "label_smoothing": 0.1, "weight": 1.0}, {"loss": "dist", "weight": 2.0}]
    assert method_terms(table["logit-mse"], own, 30) == [{"loss": "logit-mse", "weight": 1.0}]
    slow = replace(table["dist"], warmup=20.0)
    for epochs, warmup in ((480, 20.0), (240, 20.0), (30, 2.5)):
        assert method_terms(slow, own, epochs)[-1]["warmup"] == warmup
    assert method_terms(table["ctkd"], own, 24)[-1]["epochs"] == 2.0
    assert "epochs" not in method_terms(table["ctkd"], own, 240)[-1]
    build_terms(method_terms(table["ctkd"], own, 24))
    stepped = replace(session, recipe=recipe("train.steps=100", "train.batch_size=64"))
    assert epochs_of(stepped) == pytest.approx(100 / (len(session.data.train) // 64))


def test_a_recipe_may_bring_tuned_terms(session: Session) -> None:
    """Terms that a search found, ignored; a name in them that no folder can have."""
    tuned = recipe("methods.mine=[{loss: kd, temperature: 7}]")
    chosen = fitting(session, preview_teacher(session), tuned, ["kd", "mine"], explicit=True, note=lambda _line: None)
    assert chosen["mine"] == [{"loss": "kd", "temperature": 7}]
    with pytest.raises(LimbeckError, match=r"methods\.a/b: expected a name"):
        recipe("methods.a/b=[{loss: kd}]")
    with pytest.raises(LimbeckError, match=r"methods\.mine: terms\.0\.loss: unknown loss 'kdd'"):
        recipe("methods.mine=[{loss: kdd}]")


def test_names() -> None:
    """`all` taken for a method, or a space for a part of a name."""
    assert names_of_methods("all") is None
    assert names_of_methods(" kd, dkd ") == ["kd", "dkd"]
    assert names_of_methods("") == []


def test_p_values_are_corrected_for_the_number_of_methods() -> None:
    """The best of twenty methods called better by chance alone."""
    values = {
        "alone": [0.80, 0.81, 0.79, 0.80], "kd": [0.84, 0.86, 0.83, 0.85],
        "a": [0.85, 0.88, 0.84, 0.87], "b": [0.84, 0.87, 0.83, 0.84],
    }  # fmt: skip
    rows = [Row(name, seed, "last", {"accuracy": a}) for name, each in values.items() for seed, a in enumerate(each)]
    claims = method_claims(rows, ["kd", "a", "b"], ["alone", "kd"], ["accuracy"])
    found = {(claim.a, claim.b): claim for claim in claims}
    against_kd = [found["a", "kd"], found["b", "kd"]]
    small, large = sorted(claim.p or 1.0 for claim in against_kd)
    assert sorted(claim.p_holm or 1.0 for claim in against_kd) == pytest.approx(
        [min(1, 2 * small), max(2 * small, large)]
    )
    assert all(claim.p is not None and claim.p_holm is not None for claim in found.values())
    assert len(found) == 5


def test_the_report_shows_the_methods(finished: Path) -> None:
    """A page that knows nothing of the methods, or says how to repeat another thing."""
    page = (finished / "report.html").read_text(encoding="utf-8")
    for words in ('id="methods"', "dkd", "Accuracy by method", "limbeck compare", "Of 2 methods", "time to train"):
        assert words in page


def test_on_the_command_line(finished: Path) -> None:
    """A table without the methods; a typo that is a traceback."""
    arguments = ["compare", "digits", *TINY, "--seeds", "2", "--folder", str(finished)]
    result = CliRunner().invoke(app, [*arguments, "--methods", "kd,dkd"])
    assert result.exit_code == 0, result.exception
    assert "already complete" in result.stdout
    order = [
        line.split()[0] for line in result.stdout.splitlines() if line.split() and line.split()[0] in ("kd", "dkd")
    ]
    means = {row["name"]: [] for row in json.loads((finished / "results.json").read_text(encoding="utf-8"))["rows"]}
    for row in Results.read(finished / "results.json").rows:
        if row.checkpoint == "last":
            means[row.name].append(row.metrics["accuracy"])
    assert sorted(order) == ["dkd", "kd"]
    assert order == sorted(order, key=lambda name: -sum(means[name])), "the most accurate comes first"
    result = CliRunner().invoke(app, [*arguments, "--methods", "dkdd"])
    assert result.exit_code == 2
    assert "unknown method 'dkdd'; did you mean 'dkd'?" in result.stderr
