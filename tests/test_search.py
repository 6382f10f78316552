"""Searches: on validation alone, as fair to plain KD as to others, within their time, and resumable."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.contest import BASELINE
from limbeck.errors import LimbeckError
from limbeck.recipe import Recipe, read_recipe
from limbeck.run import run
from limbeck.search import BEST, Found, search_methods, seconds_of
from limbeck.session import Session
from limbeck.sources import Data
from limbeck.trials import Watch

optuna = pytest.importorskip("optuna")

TINY = ("train.epochs=1", "teacher.train.epochs=1", "settings={}", "seeds=1")
HOURS = 3600.0


def recipe(*changes: str) -> Recipe:
    return read_recipe("digits", [*TINY, *changes])


def go(folder: Path, budget: float = HOURS, trials: int = 3, *methods: str) -> Found:
    return search_methods(recipe(), folder, budget, methods or ("dist",), trials=trials, say=lambda _line: None)


def trials_of(folder: Path) -> dict[str, list[Any]]:
    """A search's trials by method, as they lie on disk."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "trials.log"))
    found: dict[str, list[Any]] = {}
    for name in ("kd", "others"):
        study = optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))
        for trial in study.get_trials(deepcopy=False):
            found.setdefault(trial.user_attrs["method"], []).append(trial)
    return found


class Unread:
    """A test split that nobody may look into."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the test split was read: {name}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Found]:
    """A search of three trials of kd and dist, in which the test split must not be read."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("search") / "digits"
    from limbeck import search

    with pytest.MonkeyPatch.context() as patch:
        original = search.open_data

        def blind(recipe: Recipe, say: Any) -> Data:
            return replace(original(recipe, say), test=Unread())  # type: ignore[arg-type]

        patch.setattr(search, "open_data", blind)
        return folder, go(folder)


def test_every_method_is_tried_as_often(finished: tuple[Path, Found]) -> None:
    """Plain KD with one trial against the tuned others; a first trial that is not the table's."""
    folder, found = finished
    trials = trials_of(folder)
    assert {name: len(each) for name, each in trials.items()} == {"kd": 3, "dist": 3}
    assert {line.method: line.trials for line in found.lines} == {"kd": 3, "dist": 3}
    assert trials["kd"][0].params == {"kd.weight": 0.9, "kd.temperature": 4.0}
    assert trials["dist"][0].params == {"dist.weight": 2.0, "dist.temperature": 1.0}
    assert trials["kd"][0].state.name == trials["dist"][0].state.name == "COMPLETE"
    for name, weight in (("kd", 0.9), ("dist", 2.0)):
        for trial in trials[name]:
            assert 0.1 * weight <= trial.params[f"{name}.weight"] <= 10 * weight
            assert 1 <= trial.params[f"{name}.temperature"] <= 8
            assert trial.state.name in ("COMPLETE", "PRUNED")
        assert len({trial.params[f"{name}.weight"] for trial in trials[name]}) == 3
    assert not list((folder / "work").glob("*"))


def test_the_best_is_a_recipe(finished: tuple[Path, Found], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terms in best.yaml that are not those of the best trial; a file that `limbeck run` refuses."""
    folder, found = finished
    complete = {
        name: [trial for trial in each if trial.state.name == "COMPLETE"] for name, each in trials_of(folder).items()
    }
    leader = max(complete, key=lambda name: max(trial.value for trial in complete[name]))
    best = read_recipe(str(folder / BEST))
    assert best.name == "digits-best"
    assert best.terms == best.methods[leader]
    assert set(best.methods) == {BASELINE, leader}
    top = max(complete[leader], key=lambda trial: trial.value)
    assert best.terms[-1]["weight"] == pytest.approx(top.params[f"{leader}.weight"], rel=1e-2)
    accuracies = {line.method: line.value for line in found.lines}
    assert accuracies[leader] == top.value == max(value for value in accuracies.values() if value is not None)
    assert "nothing is claimed" in found.sentences[0]
    monkeypatch.setattr("limbeck.report.write", lambda _results, _folder, path: path.write_text("page"))
    results = run(best, tmp_path / "run", say=lambda _line: None)
    assert [row.name for row in results.rows if row.checkpoint == "last"] == ["teacher", "alone", "distilled"]
    assert results.recipe["methods"] == {}


def test_a_finished_search_is_not_repeated(finished: tuple[Path, Found]) -> None:
    """Trials done again; another search's folder taken for this one's."""
    folder, found = finished
    before = (folder / "trials.log").read_text(encoding="utf-8").count('"op_code":4')
    assert go(folder) == found
    assert (folder / "trials.log").read_text(encoding="utf-8").count('"op_code":4') == before
    with pytest.raises(LimbeckError, match=r"another recipe \(train\.epochs"):
        search_methods(recipe("train.epochs=2"), folder, HOURS, ("dist",), say=lambda _line: None)
    result = CliRunner().invoke(
        app, ["search", "digits", *TINY, "--methods", "dist", "--trials", "3", "--folder", str(folder)]
    )
    assert result.exit_code == 0, result.exception
    for words in ("validation accuracy", "kd", "dist", "best.yaml"):
        assert words in result.stdout


def test_ctrl_c_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted trial that is forgotten, counted twice, or begun again."""
    steps: list[int] = []
    watched = Watch.on_step_end

    def interrupt(self: Watch, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append(state.global_step)
        if len(steps) == 7:
            signal.raise_signal(signal.SIGINT)
        watched(self, args, state, control, **kwargs)

    monkeypatch.setattr(Watch, "on_step_end", interrupt)
    folder, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        go(folder, HOURS, 1)
    assert signal.getsignal(signal.SIGINT) is before
    [left] = trials_of(folder)["kd"]
    assert left.state.name == "RUNNING"
    assert list((folder / "work" / "kd-0").glob("checkpoint-7"))
    found = go(folder, HOURS, 1)
    assert {line.method: (line.trials, line.complete) for line in found.lines} == {"kd": (1, 1), "dist": (1, 1)}
    assert steps[7] == 8, "it goes on from the step at which it was stopped"
    [trial] = trials_of(folder)["kd"]
    assert trial.intermediate_values.keys() == trials_of(folder)["dist"][0].intermediate_values.keys()


def test_the_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that goes on for an hour after its minute, or forgets in the next session what it has spent."""
    trained: list[str] = []
    train = Session.train

    def counted(self: Session, unit: str, *args: Any, **kwargs: Any) -> Any:
        trained.append(unit)
        return train(self, unit, *args, **kwargs)

    monkeypatch.setattr(Session, "train", counted)
    for _ in range(2):
        with pytest.raises(LimbeckError, match="budget was too short: no training of plain KD"):
            go(tmp_path / "run", 0.01, 1)
    assert trained == ["teacher", "kd-0"], "there was time for one step, and none for the second session"


def test_what_diverges_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight that is too large ends the whole search."""
    train = Session.train

    def broken(self: Session, unit: str, *args: Any, **kwargs: Any) -> Any:
        if unit.startswith("others"):
            raise LimbeckError("term 'dist' became nan at batch 3")
        return train(self, unit, *args, **kwargs)

    monkeypatch.setattr(Session, "train", broken)
    found = go(tmp_path / "run", HOURS, 1)
    assert [(line.method, line.complete) for line in found.lines] == [("kd", 1), ("dist", 0)]
    assert found.lines[1].settings == "none got to the end"
    assert found.recipe.methods.keys() == {"kd"}
    assert "plain KD is the best" in found.sentences[0]


def test_when_all_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an hour of trials that fail at once, because something else than their weights is wrong."""
    train = Session.train

    def broken(self: Session, unit: str, *args: Any, **kwargs: Any) -> Any:
        if unit == "teacher":
            return train(self, unit, *args, **kwargs)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Session, "train", broken)
    with pytest.raises(LimbeckError, match=r"10 trials in a row failed; the last: others-4, .*out of memory"):
        go(tmp_path / "run", HOURS, 30)
    assert {name: len(each) for name, each in trials_of(tmp_path / "run").items()} == {"kd": 5, "dist": 5}


def test_budgets() -> None:
    """Minutes read as seconds, or nonsense as no time at all."""
    assert [seconds_of(text) for text in ("90s", "30m", "2h", "1h30m", "0.5m")] == [90, 1800, 7200, 5400, 30]
    for text in ("30", "m", "0s", "30m!", "", "-5s"):
        with pytest.raises(LimbeckError, match="expected a time such as 90s"):
            seconds_of(text)


def test_without_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ModuleNotFoundError in place of the one line to install it."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(LimbeckError, match=r"pip install 'limbeck\[tune\]'"):
        go(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_folders_are_refused(tmp_path: Path) -> None:
    """Trials among the models of a run."""
    (tmp_path / "models").mkdir()
    import yaml

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe().resolved()), encoding="utf-8")
    with pytest.raises(LimbeckError, match="holds a run, not a search"):
        go(tmp_path)
