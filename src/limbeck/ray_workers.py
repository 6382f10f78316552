"""Workers of a search that are processes of a Ray cluster: those who hand out trials, and the process that has one."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck.errors import LimbeckError
from limbeck.recipe import Recipe
from limbeck.run import silent
from limbeck.session import Session, open_data, open_teacher
from limbeck.sources.places import VARIABLE
from limbeck.students import lineup, rehearse
from limbeck.trials import TRIALS, Ended, Job, Stops, Worker, give_up, open_studies, optuna_package, words_of

POLL_SECONDS = 0.2
"""How often the time and Ctrl-C are looked at while trials run elsewhere."""


class RayWorkers:
    """Workers on other machines or processes. Optuna's file in the search's folder, which all of them see, is where
    they report and learn whether their trial is among the best; Ray brings them trials, and the word to stop."""

    def __init__(
        self, ray: Any, each: dict[str, float], count: int, session: Session, ended: Callable[[Ended], None]
    ) -> None:
        self._ray, self._session, self._ended = ray, session, ended
        # Two threads: one that trains, one that hears that it has to stop.
        self._actor = ray.remote(**each, max_concurrency=2)(RayWorker)
        self._order = Order(
            recipe=session.recipe,
            folder=session.folder.resolve(),
            trust_code=session.trust_code,
            threads=max(1, int(each["num_cpus"])),
            directory=Path.cwd(),
            path=tuple(sys.path),
            data=os.environ.get(VARIABLE),
        )
        self._opening: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._training: dict[Any, tuple[Any, Job]] = {}
        self._told = False
        for _ in range(count):
            self._hire()

    @property
    def under_way(self) -> Collection[int]:
        return {job.trial for _, job in self._training.values()}

    def free(self, stops: Stops) -> bool:
        while not self._idle and not stops():
            self._wait()
        return not stops()

    def start(self, job: Job, stops: Stops) -> None:
        actor = self._idle.pop()
        self._training[actor.train.remote(job)] = actor, job

    def one_ends(self, stops: Stops) -> bool:
        before = len(self._training)
        while len(self._training) == before > 0:
            if stops() and not self._told:
                self._told = True
                for actor, _ in self._training.values():
                    actor.stop.remote()
            self._wait()
        return before > 0

    def dismiss(self) -> None:
        """Ends the workers, whatever they do."""
        for actor in (*self._opening.values(), *self._idle, *(actor for actor, _ in self._training.values())):
            self._ray.kill(actor)

    def _hire(self) -> None:
        actor = self._actor.remote()
        self._opening[actor.open.remote(self._order)] = actor

    def _wait(self) -> None:
        done, _ = self._ray.wait([*self._opening, *self._training], timeout=POLL_SECONDS)
        for ref in done:
            if ref in self._opening:
                self._opened(ref, self._opening.pop(ref))
            else:
                self._trained(ref, *self._training.pop(ref))

    def _opened(self, ref: Any, actor: Any) -> None:
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)
            why = f"a Ray worker could not begin: {_words(error)}"
            if not (self._opening or self._idle or self._training):
                raise LimbeckError(why) from None
            self._session.say(why)
        else:
            self._idle.append(actor)

    def _trained(self, ref: Any, actor: Any, job: Job) -> None:
        try:
            ended = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)  # one that is only out of reach would go on with a trial that another has
            self._hire()
            self._ended(self._lost(job, _words(error)))
        else:
            self._idle.append(actor)
            self._ended(ended)

    def _lost(self, job: Job, why: str) -> Ended:
        """Has a trial whose worker was lost wait for another, from its last checkpoint; the second time it is given
        up, as it may be what brings them down."""
        optuna = optuna_package()
        trial = optuna.Trial(open_studies(self._session.folder)[job.study], job.trial)
        known = trial.study.get_trials(deepcopy=False)[trial.number]
        if known.state.is_finished():
            return Ended("waits")
        if "lost" in known.user_attrs:
            return give_up(trial, job, why)
        trial.set_user_attr("lost", why)
        return Ended("waits", f"{job.title}: its worker was lost ({why}); it goes on with another")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker has to know of a search.

    `directory` is where the command was given, for relative paths in the recipe, `path` where it finds modules, and
    `data` its LIMBECK_DATA, for a machine that has none of its own.
    """

    recipe: Recipe
    folder: Path
    trust_code: bool
    threads: int
    directory: Path
    path: tuple[str, ...]
    data: str | None


class RayWorker:
    """A worker's process: opens the data and the teacher once, then trains trial after trial."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._worker: Worker

    def open(self, order: Order) -> None:
        """Prepares for a search's trials.

        Raises:
            LimbeckError: this machine does not see the search's folder, or lacks what the recipe names.
        """
        if not (order.folder / TRIALS).exists():
            raise LimbeckError(
                f"{platform.node()} does not see {order.folder}: a search on several machines needs its --folder on a "
                "file system that all of them share, under one path"
            )
        if order.directory.is_dir():
            os.chdir(order.directory)
        sys.path.extend(each for each in order.path if each not in sys.path)
        if order.data is not None:
            os.environ.setdefault(VARIABLE, order.data)
        torch.set_num_threads(order.threads)
        recipe = order.recipe
        session = Session(recipe, open_data(recipe, silent), order.folder, order.trust_code, silent)
        teacher = open_teacher(session).teacher
        rehearse(session, recipe, teacher)
        *_, entry = lineup(session, teacher, recipe)
        self._worker = Worker(session, entry)

    def train(self, job: Job) -> Ended:
        """A trial, to its end or until `stop`."""
        return self._worker.train(job, self._stop.is_set)

    def stop(self) -> None:
        """Has the trial under way saved and ended."""
        self._stop.set()


def _words(error: Any) -> str:
    """What a worker raised, or how it was lost, in a line; of the latter Ray writes pages."""
    cause = getattr(error, "cause", None)
    if cause is None:
        return str(error).splitlines()[0].rstrip(".")
    return words_of(cause)
