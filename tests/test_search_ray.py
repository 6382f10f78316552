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

from limbeck.checks import LimbeckError
from limbeck.cli import app
from limbeck.clusters import Cluster, connected
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
    """A search with what it said, and its trials as they were after Ctrl-C and lie on disk in the end."""

    folder: Path
    recipe: Recipe
    found: Found
    said: list[str]
    interrupted: list[Any]
    steps: list[int]

    def trials(self) -> dict[str, list[Any]]:
        return {name: study.get_trials(deepcopy=False) for name, study in open_studies(self.folder).items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of two processors."""
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def searched(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A search that Ctrl-C stops in its first trial; the next session meets a trial that raises and a worker that
    dies."""
    folder, faults = tmp_path_factory.mktemp("search") / "digits", tmp_path_factory.mktemp("faults")
    student = f"student={{model: 'python:search_ray_student:student', options: {{faults: '{faults}'}}}}"
    recipe = read_recipe("digits", ["train.epochs=5", "teacher.train.epochs=1", "settings={}", "seeds=1", student])
    said: list[str] = []
    interrupts = [signal.SIGINT]
    over = Clock.over

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("kd-0"):
            (faults / "raise").touch()
            (faults / "die").touch()

    def interrupted(self: Clock) -> bool:
        if interrupts and list((folder / "logs" / "kd-0").glob("events*")):
            signal.raise_signal(interrupts.pop())
        return over(self)

    def go(cluster: Cluster) -> Found:
        return search_methods(
            recipe, folder, HOURS, ("dist",), trials=TRIALS, cluster=cluster, trust_code=True, say=say
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clock, "over", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(Cluster("local", cpus=2))
    left = open_studies(folder)["kd"].get_trials(deepcopy=False)
    steps = [int(place.name.partition("-")[2]) for place in (folder / "work" / "kd-0").glob("checkpoint-*")]
    found = go(Cluster("local"))
    return Searched(folder, recipe, found, said, left, steps)


def test_a_stopped_search_goes_on(searched: Searched) -> None:
    """Ctrl-C that ends workers before they have saved, or a trial that is begun again, or twice."""
    [left] = searched.interrupted
    assert left.state.name == "RUNNING"
    assert len(searched.steps) == 1
    assert 1 <= searched.steps[0] < 110
    first = searched.trials()["kd"][0]
    assert first.params == left.params == {"kd.weight": 0.9, "kd.temperature": 4.0}
    assert first.state.name == "COMPLETE"
    assert first.intermediate_values.keys() == set(range(1, 11))
    assert not list((searched.folder / "work").glob("*"))


def test_the_result_is_that_of_a_search_here(searched: Searched) -> None:
    """Another form of result, other places for it, or methods that are not tried as often as plain KD."""
    assert {line.method: line.trials for line in searched.found.lines} == {"kd": TRIALS, "dist": TRIALS}
    again = search_methods(
        searched.recipe, searched.folder, HOURS, ("dist",), trials=TRIALS, trust_code=True, say=lambda _line: None
    )
    assert again == searched.found
    assert read_recipe(str(searched.folder / BEST)).terms == searched.found.recipe.terms
    assert any("up to 2 trials at a time, each with 1 CPU and 0 GPU" in line for line in searched.said)


def test_the_worse_stop_early(searched: Searched) -> None:
    """Workers that do not see each other's trials, so that all train to the end."""
    trials = [trial for each in searched.trials().values() for trial in each if "error" not in trial.user_attrs]
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    assert all(len(trial.intermediate_values) in (1, 4) for trial in pruned)
    assert all(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)
    assert sum("not among the best" in line for line in searched.said) == len(pruned)


def test_what_raises_is_reported(searched: Searched) -> None:
    """A trial that raises and takes the search with it, or is lost without a word."""
    failed = [each for trials in searched.trials().values() for each in trials if "error" in each.user_attrs]
    [why] = [trial.user_attrs["error"] for trial in failed]
    assert "told to fail" in why
    [line] = [line for line in searched.said if "given up" in line]
    assert line.endswith(why)


def test_a_lost_worker_is_replaced(searched: Searched) -> None:
    """A trial that is forgotten, or trained for ever, because the machine under it went away."""
    lost = [each for trials in searched.trials().values() for each in trials if "lost" in each.user_attrs]
    [trial] = lost
    assert trial.state.name in ("COMPLETE", "PRUNED")
    assert "error" not in trial.user_attrs
    [line] = [line for line in searched.said if "its worker was lost" in line]
    assert "\n" not in line


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
