"""A search over methods, their weights and temperatures within a time, on the validation split alone."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from limbeck.clusters import Cluster, connected
from limbeck.contest import BASELINE, Terms, asked, epochs_of, fitting, method_terms, with_terms
from limbeck.errors import LimbeckError
from limbeck.files import write_text
from limbeck.losses import METHODS, Method
from limbeck.measures import Measure
from limbeck.processes import processes
from limbeck.recipe import Recipe
from limbeck.recipe_stores import note_origins
from limbeck.session import Say, Session, claim, kept_recipe, open_data, open_teacher, preview_teacher
from limbeck.students import assistants, lineup, train_all
from limbeck.trials import (
    TRIALS,
    Clock,
    Ended,
    Here,
    Job,
    Stops,
    Worker,
    Workers,
    interruptible,
    open_studies,
    optuna_package,
)

if TYPE_CHECKING:
    import optuna

BEST = "best.yaml"
FACTORS = (0.1, 10.0)
"""How far a weight may be from the table's."""
TEMPERATURES = (1.0, 8.0)
FAILURES = 10
"""So many failed trials in a row end a search: then it is not the weights that are wrong."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the search knows of a method: its trials, those that got to the end, and the best of these in words."""

    method: str
    trials: int
    complete: int
    value: float | None
    settings: str


@dataclass(frozen=True, slots=True)
class Found:
    """A search's outcome: a line a method, the best first, by which measure, what may be said, and the best as a
    recipe."""

    lines: list[Line]
    measure: Measure
    sentences: list[str]
    recipe: Recipe


def search_methods(
    recipe: Recipe,
    folder: Path,
    budget: float,
    methods: Sequence[str] | None = None,
    *,
    trials: int | None = None,
    cluster: Cluster | None = None,
    trust_code: bool = False,
    say: Say = print,
) -> Found:
    """Spends `budget` seconds of training on finding the best method, its weight and its temperature for a recipe, and
    writes the best as a recipe to `folder`; goes on where an earlier search there stopped.

    Methods take turns, so that each, plain KD too, has as many trials as any other; its first is with the table's
    settings. Plain KD's trials compete with each other and all others with each other: of those that get to the first
    and the fourth of ten evaluations, the best quarter goes on (Li et al. 2020, arXiv:1810.05934). The test split is
    not read.

    Args:
        methods: names; None or empty for all of the table that fit.
        trials: the most trials a method.
        cluster: where trials run, many at a time; None: one after another in this process.

    Raises:
        LimbeckError: optuna is not installed, or Ray for a cluster; the cluster is not there, or has no place for a
            trial; an unknown method, or one asked for by name that does not fit; the budget is too short for one
            training; ten trials in a row failed; and as `limbeck.run.run`.
    """
    optuna_package()
    if processes().num_processes > 1:
        raise LimbeckError("limbeck search runs its trials in one process; start it without accelerate launch")
    plain = recipe.model_copy(update={"settings": {}, "generations": 1, "methods": {}})
    names = asked(plain, methods)
    with connected(cluster) if cluster is not None else nullcontext() as machines:
        data = open_data(plain, say)
        session = Session(plain, data, folder, trust_code, say)
        if kept_recipe(folder) is not None and not (folder / TRIALS).exists():
            raise LimbeckError(f"{folder} holds a run, not a search; choose another folder with --folder")
        taught = preview_teacher(session)
        chosen = list(fitting(session, taught, plain, names, explicit=bool(methods), note=say))
        claim(folder, plain)
        note_origins(folder, plain)
        found = _Search(session, chosen, trials)
        taught = taught if taught.ready else open_teacher(session)
        mentors = assistants(session, taught.teacher, plain)
        if mentors:
            train_all(session, mentors)
        with interruptible() as interrupted:
            workers: Workers
            if machines is None:
                *_, entry = lineup(session, taught.teacher, plain)
                found.spend(budget, interrupted.is_set, Here(Worker(session, entry), found.ended))
            else:
                with machines.workers(session, trials and trials * len(chosen), found.ended) as workers:
                    found.spend(budget, interrupted.is_set, workers)
    if interrupted.is_set():
        raise KeyboardInterrupt
    outcome = found.outcome(recipe)
    write_text(folder / BEST, yaml.safe_dump(outcome.recipe.resolved(), sort_keys=False, allow_unicode=True))
    return outcome


def seconds_of(text: str) -> float:
    """Seconds from text such as 90s, 30m, 2h or 1h30m.

    Raises:
        LimbeckError: the text is something else.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    seconds = sum(float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not seconds > 0:
        raise LimbeckError(f"budget {text!r}: expected a time such as 90s, 30m or 2h")
    return seconds


class _Search:
    """The trials of a search: which comes next, and what they found."""

    def __init__(self, session: Session, methods: Sequence[str], most: int | None) -> None:
        self._session, self._methods, self._most = session, methods, most
        self._epochs = epochs_of(session)
        self._table = {method.name: method for method in METHODS}
        self._studies = open_studies(session.folder)
        self._clock: Clock
        self._failures = 0

    def spend(self, budget: float, interrupted: Stops, workers: Workers) -> None:
        """Has trials trained until the time is over, every method has had its most, or the user interrupts."""
        clock = self._clock = Clock(self._studies["kd"], budget)

        def stops() -> bool:
            return clock.over() or interrupted()

        with clock.bar():
            while workers.free(stops):
                job = self._next(workers.under_way)
                if job is not None:
                    clock.start()
                    workers.start(job, stops)
                elif not workers.one_ends(stops):
                    break
            while workers.one_ends(stops):
                pass

    def ended(self, ended: Ended) -> None:
        """Says what became of a trial."""
        if ended.line:
            self._clock.say(self._session.say, ended.line)
        if ended.state != "waits":
            self._failures = self._failures + 1 if ended.state == "failed" else 0
        if self._failures >= FAILURES:
            raise LimbeckError(f"{FAILURES} trials in a row failed; the last: {ended.line}")

    def outcome(self, recipe: Recipe) -> Found:
        """What was found, over all sessions."""
        best = {name: self._best(name) for name in self._methods}
        kd, (leader, top) = best[BASELINE], max(best.items(), key=lambda each: _rank(each[1]))
        if kd is None or top is None:
            raise LimbeckError(self._too_short())
        lines = [self._line(name, trial) for name, trial in best.items()]
        measure = self._session.selected
        lines.sort(key=lambda line: -measure.rank(line.value))
        terms = {name: self._terms(name, trial.params) for name, trial in ((BASELINE, kd), (leader, top))}
        samples = len(self._session.data.validation)
        gain = f"{measure.factor * (_value(top) - _value(kd)):+.2f}{' points' if measure.share else ''}"
        said = "plain KD is the best" if leader == BASELINE else f"{leader} is better than plain KD by {gain}"
        one = f", of which one is {100 / samples:.2g} points" if measure.share else ""
        sentences = [
            f"On {samples:,} validation samples{one}, {said} ({measure.title}). That is one seed, chosen as the best: "
            "nothing is claimed before limbeck compare has measured it over several."
        ]
        changes = {"name": f"{recipe.name}-best", "about": f"{recipe.name} with what limbeck search found: {leader}"}
        changes_of_terms = {"settings": {}, "generations": 1, "terms": terms[leader], "methods": terms}
        return Found(lines, measure, sentences, recipe.model_copy(update={**changes, **changes_of_terms}))

    def _next(self, under_way: Collection[int]) -> Job | None:
        """A trial that waits, or the next of the method that has had the fewest; None for no more."""
        trial = self._waiting(under_way) or self._asked()
        if trial is None:
            return None
        name, study = trial.user_attrs["method"], trial.study.study_name
        params = self._suggest(trial, self._table[name])
        unit = f"{study}-{trial.number}"
        recipe = with_terms(self._session.recipe, self._terms(name, params))
        return Job(study, trial._trial_id, unit, f"{unit}, {name} ({_words(params)})", recipe)

    def _waiting(self, under_way: Collection[int]) -> optuna.Trial | None:
        """A trial that was begun, by an earlier session or a worker that was lost, and that nobody trains now."""
        library = optuna_package()
        for study in self._studies.values():
            for left in study.get_trials(deepcopy=False, states=(library.trial.TrialState.RUNNING,)):
                if left.user_attrs.get("method") in self._methods and left._trial_id not in under_way:
                    waiting: optuna.Trial = library.Trial(study, left._trial_id)
                    return waiting
        return None

    def _asked(self) -> optuna.Trial | None:
        """A new trial, of the method that has had the fewest; None where all have had their most."""
        counts = {name: len(self._trials(name)) for name in self._methods}
        name = min(self._methods, key=lambda each: counts[each])
        if self._most is not None and counts[name] >= self._most:
            return None
        study = self._study(name)
        if counts[name] == 0:
            study.enqueue_trial(self._defaults(self._table[name]), user_attrs={"method": name})
        # A sampler that begins from one seed in each session would try the same settings again.
        study.sampler = optuna_package().samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)))
        trial = study.ask()
        if "method" not in trial.user_attrs:
            trial.set_user_attr("method", name)
        return trial

    def _study(self, name: str) -> optuna.Study:
        return self._studies["kd" if name == BASELINE else "others"]

    def _trials(self, name: str) -> list[optuna.trial.FrozenTrial]:
        trials = self._study(name).get_trials(deepcopy=False)
        return [trial for trial in trials if trial.user_attrs.get("method") == name]

    def _best(self, name: str) -> optuna.trial.FrozenTrial | None:
        return max((trial for trial in self._trials(name) if _complete(trial)), key=_rank, default=None)

    def _line(self, name: str, best: optuna.trial.FrozenTrial | None) -> Line:
        trials = self._trials(name)
        complete = sum(_complete(trial) for trial in trials)
        settings = "none got to the end" if best is None else _words(_plain_names(best.params))
        # Trials keep what is larger for the better, which undoes itself.
        value = None if best is None else self._session.selected.rank(_value(best))
        return Line(name, len(trials), complete, value, settings)

    def _defaults(self, method: Method) -> dict[str, float]:
        found = {f"{method.name}.weight": method.weight}
        temperature = _temperature(method)
        return found if temperature is None else found | {f"{method.name}.temperature": temperature}

    def _suggest(self, trial: optuna.Trial, method: Method) -> dict[str, float]:
        """A trial's settings; of one that an earlier session left, those that it has."""
        low, high = (factor * method.weight for factor in FACTORS)
        found = {f"{method.name}.weight": trial.suggest_float(f"{method.name}.weight", low, high, log=True)}
        if _temperature(method) is not None:
            key = f"{method.name}.temperature"
            found[key] = trial.suggest_float(key, *TEMPERATURES)
        return _plain_names(found)

    def _terms(self, name: str, params: dict[str, Any]) -> Terms:
        *labels, taught = method_terms(self._table[name], self._session.recipe, self._epochs)
        return [*labels, taught | _plain_names(params)]

    def _too_short(self) -> str:
        trials = [trial for name in self._methods for trial in self._trials(name)]
        errors = [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs]
        why = f"; the first that was given up: {errors[0]}" if errors else ""
        return (
            f"the budget was too short: no training of plain KD got to its end{why}; the same command with a larger "
            "--budget goes on"
        )


def _temperature(method: Method) -> float | None:
    """A method's default temperature, where it has one of the kind that softens logits."""
    parameter = inspect.signature(method.module).parameters.get("temperature")
    default: Any = parameter.default if parameter is not None else None
    soft = isinstance(default, int | float) and TEMPERATURES[0] <= default <= TEMPERATURES[1]
    return float(default) if soft else None


def _plain_names(params: dict[str, Any]) -> dict[str, float]:
    """Settings by the names of a term's keys, in three figures, which is all that a search can tell."""
    return {name.rpartition(".")[2]: float(f"{value:.3g}") for name, value in params.items()}


def _words(params: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in params.items())


def _complete(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial got to its end: one that was pruned has a value too, its last."""
    return trial.state.name == "COMPLETE"


def _value(trial: optuna.trial.FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _rank(trial: optuna.trial.FrozenTrial | None) -> tuple[float, float]:
    """By what is selected on; of equal ones, the more likely answers."""
    return (-math.inf, 0.0) if trial is None else (_value(trial), -trial.user_attrs.get("nll", math.inf))
