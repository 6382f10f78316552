"""What a search's trials run under: a budget of time, a watch on each, Ctrl-C that loses nothing, and optuna."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState

from limbeck.checks import LimbeckError
from limbeck.session import Say
from limbeck.training import SELECTION_METRIC

if TYPE_CHECKING:
    import optuna


class Watch(TrainerCallback):
    """Tells a trial its validation accuracies, and stops it where it is not among the best or there is no time."""

    def __init__(self, trial: optuna.Trial, clock: Clock, interrupted: threading.Event) -> None:
        self._trial, self._clock, self._interrupted = trial, clock, interrupted
        known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        self._reported = max(known, default=0)
        self.accuracy, self.nll, self.share = 0.0, math.inf, 0.0
        self.pruned = self.waits = False

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        entries = [entry for entry in state.log_history if SELECTION_METRIC in entry]
        self.accuracy, self.nll = entries[-1][SELECTION_METRIC], entries[-1].get("eval_nll", math.inf)
        self._clock.keep()
        if len(entries) <= self._reported:
            return
        self._reported = len(entries)
        self._trial.report(self.accuracy, self._reported)
        if state.global_step < state.max_steps and self._trial.should_prune():
            self.pruned = control.should_training_stop = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.share = state.global_step / max(state.max_steps, 1)
        self._clock.show()
        if state.global_step < state.max_steps and (self._interrupted.is_set() or self._clock.left() <= 0):
            self.waits = control.should_save = control.should_training_stop = True


class Clock:
    """How much of the budget is spent, over all sessions, kept beside the trials; and the bar that shows it."""

    def __init__(self, study: optuna.Study, budget: float) -> None:
        self._study, self._budget = study, budget
        self._before = float(study.user_attrs.get("seconds", 0.0))
        self._start = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def spent(self) -> float:
        return self._before + time.monotonic() - self._start

    def left(self) -> float:
        return self._budget - self.spent()

    def keep(self) -> None:
        self._study.set_user_attr("seconds", self.spent())

    @contextmanager
    def bar(self) -> Iterator[None]:
        style = "search: {percentage:3.0f} % |{bar}| {desc}"
        with tqdm(total=self._budget, bar_format=style, leave=False, disable=None) as self._bar:
            yield

    def show(self) -> None:
        if self._bar is not None and not self._bar.disable:
            left = max(0.0, self.left())
            self._bar.n = self._budget - left
            self._bar.set_description_str(f"{tqdm.format_interval(round(left))} left", refresh=False)
            self._bar.update(0)

    def say(self, say: Say, line: str) -> None:
        """Says a line without tearing the bar."""
        with tqdm.external_write_mode():
            say(line)


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
