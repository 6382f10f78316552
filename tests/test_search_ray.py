"""Searches on a Ray cluster: the same trials, folder and result, many at a time, and no trial ends the search."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.clusters import Cluster, connected
from limbeck.errors import LimbeckError
from limbeck.ray_workers import Order, RayWorker
from limbeck.recipe import Recipe, read_recipe
from limbeck.search import BEST, Found, search_methods
from limbeck.trials import Clock, open_studies

optuna = pytest.importorskip("optuna")
ray = pytest.importorskip("ray", reason="needs Ray: pip install 'limbeck[ray]'")

HOURS = 3600.0
TRIALS = 4


@dataclass(frozen=True)
class Searched:
    """A search with what it said; the trial that Ctrl-C stopped, and the step that it had got to."""

    folder: Path
    recipe: Recipe
    found: Found
    said: list[str]
    stopped: Any
    step: int

    def trials(self) -> list[Any]:
        """All trials, as they lie on disk."""
        return [trial for study in open_studies(self.folder).values() for trial in study.get_trials(deepcopy=False)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two processors."""
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def searched(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A search with two workers, in which one trial raises, the next ends its worker, and Ctrl-C comes when that trial
    is under way again; what is left goes on in this process."""
    folder, faults = tmp_path_factory.mktemp("search") / "digits", tmp_path_factory.mktemp("faults")
    student = f"student={{model: 'python:search_ray_student:student', options: {{faults: '{faults}'}}}}"
    recipe = read_recipe("digits", ["train.epochs=5", "teacher.train.epochs=1", "settings={}", "seeds=1", student])
    said: list[str] = []
    lost: list[str] = []
    interrupts = [signal.SIGINT]
    over = Clock.over

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("kd-1"):
            (faults / "raise").touch()
            (faults / "die").touch()
        if "its worker was lost" in line:
            (faults / "slow").touch()
            lost.append(line.partition(",")[0])

    def interrupted(self: Clock) -> bool:
        if interrupts and lost and (folder / "logs" / lost[0]).exists():
            signal.raise_signal(interrupts.pop())
        return over(self)

    def go(cluster: Cluster | None) -> Found:
        return search_methods(
            recipe, folder, HOURS, ("dist",), trials=TRIALS, cluster=cluster, trust_code=True, say=say
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "over", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(Cluster("local"))
    study, _, number = lost[0].partition("-")
    stopped = open_studies(folder)[study].get_trials(deepcopy=False)[int(number)]
    [checkpoint] = (folder / "work" / lost[0]).glob("checkpoint-*")
    found = go(None)
    return Searched(folder, recipe, found, said, stopped, int(checkpoint.name.partition("-")[2]))


def test_a_stopped_search_goes_on(searched: Searched) -> None:
    """Ctrl-C that ends workers before they have saved, or a trial that is forgotten or begun as another."""
    assert searched.stopped.state.name == "RUNNING"
    assert 1 <= searched.step < 110
    [after] = [trial for trial in searched.trials() if trial._trial_id == searched.stopped._trial_id]
    assert after.state.name in ("COMPLETE", "PRUNED")
    assert after.params == searched.stopped.params
    assert not list((searched.folder / "work").glob("*"))


def test_the_result_is_that_of_a_search_here(searched: Searched, tmp_path: Path) -> None:
    """A worker that trains something else; another form of result; methods not tried as often as plain KD."""
    assert {line.method: line.trials for line in searched.found.lines} == {"kd": TRIALS, "dist": TRIALS}
    assert read_recipe(str(searched.folder / BEST)).terms == searched.found.recipe.terms
    assert any("up to 2 trials at a time, each with 1 CPU and 0 GPU" in line for line in searched.said)
    search_methods(searched.recipe, tmp_path, HOURS, ("dist",), trials=1, trust_code=True, say=lambda _line: None)
    there, here = open_studies(searched.folder), open_studies(tmp_path)
    for name in ("kd", "others"):
        one, other = (studies[name].get_trials(deepcopy=False)[0] for studies in (there, here))
        assert one.params == other.params
        assert one.intermediate_values == other.intermediate_values
        assert one.value == other.value
        assert one.user_attrs == other.user_attrs


def test_the_worse_stop_early(searched: Searched) -> None:
    """Workers that do not see each other's trials, so that all train to the end."""
    trials = [trial for trial in searched.trials() if "error" not in trial.user_attrs]
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert all(len(trial.intermediate_values) in (1, 4) for trial in pruned)
    assert all(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)
    assert sum("not among the best" in line for line in searched.said) == len(pruned)
    [second] = [line for line in searched.said if line.startswith("kd-1")]
    assert "after 10 % of it; not among the best" in second


def test_what_raises_is_reported(searched: Searched) -> None:
    """A trial that raises and takes the search with it, or is lost without a word."""
    [why] = [trial.user_attrs["error"] for trial in searched.trials() if "error" in trial.user_attrs]
    assert "told to fail" in why
    [line] = [line for line in searched.said if "given up" in line]
    assert line.endswith(why)


def test_a_lost_worker_is_replaced(searched: Searched) -> None:
    """A trial that is forgotten, or trained for ever, because the machine under it went away."""
    [trial] = [trial for trial in searched.trials() if "lost" in trial.user_attrs]
    assert trial._trial_id == searched.stopped._trial_id
    assert "error" not in trial.user_attrs
    [line] = [line for line in searched.said if "its worker was lost" in line]
    assert "\n" not in line
    assert line.endswith("it goes on with another")


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags that do not arrive, or processors that no trial can have as a traceback."""
    given: list[Any] = []

    def search(*_args: Any, **options: Any) -> Found:
        given.append(options["cluster"])
        raise LimbeckError("seen")

    monkeypatch.setattr("limbeck.search.search_methods", search)
    for options, expected in (
        ([], None),
        (["--ray", "auto"], Cluster("auto")),
        (["--ray", "head:6379", "--cpus", "4", "--gpus", "0.5"], Cluster("head:6379", 4, 0.5)),
    ):
        CliRunner().invoke(app, ["search", "digits", *options])
        assert given[-1] == expected
    for options, message in (
        (["--ray", "local", "--cpus", "0"], "expected cpus above 0"),
        (["--ray", "local", "--gpus", "2"], "expected gpus 0 to 1, got 2"),
        (["--cpus", "2"], "add --ray"),
    ):
        result = CliRunner().invoke(app, ["search", "digits", *options])
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())


def test_no_place(cluster: None) -> None:
    """A search that waits for ever for a machine that is not there."""
    with (
        pytest.raises(LimbeckError, match="no machine of the cluster has the 3 CPU and 0 GPU of a trial; there are: 2"),
        connected(Cluster("local", cpus=3)),
    ):
        pass


def test_a_folder_that_is_not_shared(searched: Searched, tmp_path: Path) -> None:
    """Each machine with trials of its own in a folder of its own."""
    order = Order(
        recipe=searched.recipe, folder=tmp_path, trust_code=True, threads=1, directory=tmp_path, path=(), data=None
    )
    with pytest.raises(LimbeckError, match=r"does not see .*: a search on several machines needs its --folder on"):
        RayWorker().open(order)


def test_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of silence, or a traceback, where nothing answers."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"):
        with (
            pytest.raises(LimbeckError, match=r"no Ray cluster at .*; expected host:port"),
            connected(Cluster(address)),
        ):
            pass


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ModuleNotFoundError in place of the one line to install it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LimbeckError, match=r'pip install "limbeck\[ray\]"'):
        search_methods(read_recipe("digits"), tmp_path / "run", HOURS, cluster=Cluster("local"))
    assert not (tmp_path / "run").exists()
