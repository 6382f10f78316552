"""A search's trials: what one is, how it trains and is stopped, the time for all, and optuna, which judges them."""

from __future__ import annotations

import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

from limbeck.errors import LimbeckError
from limbeck.measures import Measure
from limbeck.recipe import Recipe
from limbeck.session import Say, Session
from limbeck.students import Entry, prepared

if TYPE_CHECKING:
    import optuna

TRIALS = "trials.log"
SEED = 10_000
"""Of every trial's weights and order, away from those of runs, so that these are not what was tuned on."""
REDUCTION = 4
"""Of the trials that reach the first or the fourth of ten evaluations, the best quarter goes on."""
KEEP_SECONDS = 5.0
"""The most of the spent time that a kill can make a search forget."""

Stops = Callable[[], bool]
"""Whether what is under way has to stop: the time is over, or the user interrupts."""


@dataclass(frozen=True, slots=True)
class Job:
    """A trial to train: its study, optuna's id of it, the names of its folder and in messages, its recipe."""

    study: str
    trial: int
    unit: str
    title: str
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a trial, and that in words; one that waits is for another worker or the next session."""

    state: Literal["trained", "failed", "waits"]
    line: str = ""


class Workers(Protocol):
    """Those who train a search's trials."""

    @property
    def under_way(self) -> Collection[int]:
        """The trials that they have now, by optuna's id."""

    def free(self, stops: Stops) -> bool:
        """Waits until one of them can take a trial; False if everything has to stop first."""

    def start(self, job: Job, stops: Stops) -> None:
        """Hands a trial to one that is free."""

    def one_ends(self, stops: Stops) -> bool:
        """Waits until a trial ends; False if none is under way. Where `stops`, they are told to save and stop."""


class Worker:
    """Trains trials in this process."""

    def __init__(self, session: Session, entry: Entry) -> None:
        self._session, self._entry = session, entry
        self._studies = open_studies(session.folder)

    def train(self, job: Job, stops: Stops) -> Ended:
        """A trial, to its end, until it is pruned, or until `stops`: then it waits for the next session."""
        library = optuna_package()
        study = self._studies[job.study]
        trial = library.Trial(study, job.trial)
        measure = self._session.selected
        watch = Watch(trial, stops, measure)
        entry = replace(self._entry, name=job.unit, recipe=job.recipe)
        try:
            distiller, split = prepared(self._session, entry, 0, SEED)
            self._session.train(job.unit, distiller, split, job.recipe.train, SEED, job.title, callbacks=[watch])
        except Exception as error:  # such as a weight with which the training diverges, or no memory left
            ended = give_up(trial, job, words_of(error))
        else:
            if watch.waits:
                return Ended("waits")
            reached = f"{job.title}: validation {measure.title} {measure.text(watch.reached, 2)}"
            if watch.pruned:
                study.tell(trial, state=library.trial.TrialState.PRUNED)
                ended = Ended("trained", f"{reached} after {100 * watch.share:.0f} % of it; not among the best")
            else:
                trial.set_user_attr("nll", watch.nll)
                study.tell(trial, watch.rank)
                ended = Ended("trained", reached)
        shutil.rmtree(self._session.folder / "work" / job.unit, ignore_errors=True)
        return ended


class Here:
    """One worker, in this process: a trial is over when its start returns."""

    under_way: Collection[int] = ()

    def __init__(self, worker: Worker, ended: Callable[[Ended], None]) -> None:
        self._worker, self._ended = worker, ended

    def free(self, stops: Stops) -> bool:
        return not stops()

    def start(self, job: Job, stops: Stops) -> None:
        self._ended(self._worker.train(job, stops))

    def one_ends(self, stops: Stops) -> bool:
        return False


class Watch(TrainerCallback):
    """Tells a trial how good it is on validation, and stops it where it is not among the best or everything stops."""

    def __init__(self, trial: optuna.Trial, stops: Stops, measure: Measure) -> None:
        self._trial, self._stops = trial, stops
        self._measure, self._key = measure, f"eval_{measure.key}"
        known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        self._reported = max(known, default=0)
        self.reached, self.rank, self.nll, self.share = 0.0, 0.0, math.inf, 0.0
        self.pruned = self.waits = False

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        entries = [entry for entry in state.log_history if self._key in entry]
        self.reached, self.nll = entries[-1][self._key], entries[-1].get("eval_nll", math.inf)
        self.rank = self._measure.rank(self.reached)
        if len(entries) <= self._reported:
            return
        self._reported = len(entries)
        self._trial.report(self.rank, self._reported)
        if state.global_step < state.max_steps and self._trial.should_prune():
            self.pruned = control.should_training_stop = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.share = state.global_step / max(state.max_steps, 1)
        if self._stops() and state.global_step < state.max_steps:
            self.waits = control.should_save = control.should_training_stop = True


class Clock:
    """How much of the budget is spent, over all sessions, kept beside the trials; and the bar that shows it. It runs
    from its first `start`."""

    def __init__(self, study: optuna.Study, budget: float) -> None:
        self._study, self._budget = study, budget
        self._before = float(study.user_attrs.get("seconds", 0.0))
        self._start: float | None = None
        self._kept = 0.0
        self._bar: tqdm[Any] | None = None

    def start(self) -> None:
        self._start = time.monotonic() if self._start is None else self._start

    def left(self) -> float:
        return self._budget - self._spent()

    def over(self) -> bool:
        """Whether the time is over; shows and keeps what is left of it."""
        if self._spent() - self._kept > KEEP_SECONDS:
            self._keep()
        left = max(0.0, self.left())
        if self._bar is not None and not self._bar.disable:
            self._bar.n = self._budget - left
            self._bar.set_description_str(f"{tqdm.format_interval(round(left))} left", refresh=False)
            self._bar.update(0)
        return left <= 0

    @contextmanager
    def bar(self) -> Iterator[None]:
        style = "search: {percentage:3.0f} % |{bar}| {desc}"
        with tqdm(total=self._budget, bar_format=style, leave=False, disable=None) as self._bar:
            try:
                yield
            finally:
                self._keep()

    def say(self, say: Say, line: str) -> None:
        """Says a line without tearing the bar."""
        with tqdm.external_write_mode():
            say(line)

    def _spent(self) -> float:
        return self._before + (time.monotonic() - self._start if self._start is not None else 0.0)

    def _keep(self) -> None:
        self._kept = self._spent()
        self._study.set_user_attr("seconds", self._kept)


def open_studies(folder: Path) -> dict[str, optuna.Study]:
    """The two studies of a search, which lie in one file: of plain KD, and of all other methods."""
    library = optuna_package()
    backend = library.storages.journal.JournalFileBackend(str(folder / TRIALS))
    storage = library.storages.JournalStorage(backend)
    pruner = library.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
    return {
        name: library.create_study(
            storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
        )
        for name in ("kd", "others")
    }


def give_up(trial: optuna.Trial, job: Job, why: str) -> Ended:
    """Ends a trial that failed."""
    trial.set_user_attr("error", why)
    trial.study.tell(trial, state=optuna_package().trial.TrialState.PRUNED)
    return Ended("failed", f"{job.title}: given up: {why}")


def words_of(error: Exception) -> str:
    """An error in a line."""
    return str(error) if isinstance(error, LimbeckError) else repr(error)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that a training can be saved before it stops; the second stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(_number: int, _frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def optuna_package() -> Any:
    """The optuna package, quiet.

    Raises:
        LimbeckError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise LimbeckError("limbeck search needs optuna; install it with: pip install 'limbeck[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
