"""From a recipe and a budget to an artifact that keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from limbeck.bench.machine import processor
from limbeck.chains import module_of
from limbeck.compare import Candidate, measure, versions
from limbeck.deployed import keep_teacher
from limbeck.errors import LimbeckError
from limbeck.export.backed import backed
from limbeck.export.graphs import need_libraries
from limbeck.export.readme import write_model_card
from limbeck.files import read_json, write_json
from limbeck.fit import telling
from limbeck.fit.budget import Budget
from limbeck.fit.finals import Final, finals
from limbeck.fit.halving import halving
from limbeck.fit.ladder import Rung, check_students, ladder, untrained
from limbeck.fit.learning import announce, halved
from limbeck.fit.measuring import FP32, INT8, Measured, as_json, measure_ladder
from limbeck.models import load
from limbeck.processes import processes
from limbeck.recipe import Recipe, build_terms
from limbeck.report.tried import FitPage, Tried, write_fit
from limbeck.results import Results, Row
from limbeck.session import (
    Say,
    Session,
    Taught,
    claim,
    open_data,
    open_teacher,
    preview_teacher,
    training_split,
)
from limbeck.stores import label_recipe
from limbeck.students import distiller_of
from limbeck.taps import LOGITS
from limbeck.teachers import Teacher
from limbeck.training import steps_of

MEASURED, FITS, REPORT, RESULTS = "measured.json", "fits", "fit.html", "results.json"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a fit ends with.

    Attributes:
        artifact: the folder to ship.
        name: the candidate's.
        cost: of the artifact itself, measured afresh.
        results: rows of the teacher and of the artifact on the test split.
        sentences: what to say of it.
        tried: everything that was looked at.
        report: the page.
    """

    artifact: Path
    name: str
    cost: dict[str, float]
    results: Results
    sentences: list[str]
    tried: list[Tried]
    report: Path


def fit(recipe: Recipe, folder: Path, budget: Budget, *, trust_code: bool = False, say: Say = print) -> Fitted:
    """The best model of a recipe's ladder that keeps a budget, as an artifact in `folder/fits/BUDGET`; goes on where an
    earlier fit of the same recipe in `folder` stopped, and takes over what one with another budget did there.

    Every candidate is measured first, as a file on the recipe's target; those that keep the budget are distilled by
    successive halving on validation, and the last to its end. It is exported, in int8 where that does better, measured
    again, and read against the test split, once.

    Raises:
        LimbeckError: nothing fits (with what comes nearest), or as `limbeck.run.run`.
    """
    if processes().num_processes > 1:
        raise LimbeckError("limbeck fit measures and trains in one process; start it without accelerate launch")
    need_libraries()
    check_students(recipe)
    if len(recipe.teacher) > 1:
        raise LimbeckError("fit: the recipe has several teachers; name one")
    changes: dict[str, Any] = {"settings": {}, "methods": {}, "compare": [], "steps": [], "assistants": []}
    plain = recipe.model_copy(update={**changes, "generations": 1, "seeds": 1})
    plain = _with_store(plain, folder)
    claim(folder, plain)
    place = folder / FITS / budget.slug
    data = open_data(plain, say)
    session = Session(plain, data, folder, trust_code, say)
    taught = preview_teacher(session)
    rungs = {rung.name: rung for rung in _possible(session, taught.teacher)}
    found = _measured(session, taught.teacher, list(rungs.values()))
    within = {each.name: each for each in found if each.why_not(budget) == ""}
    if not within:
        raise LimbeckError(_nothing_fits(found, budget, session.recipe.on))
    names = dict.fromkeys(each.rung for each in within.values() if not rungs[each.rung].is_teacher)
    chosen = _nearest(session, found, [rungs[name] for name in names])
    chosen = _that_learn(session, taught.teacher, chosen)
    plan = halving(len(chosen), steps_of(plain.train, len(training_split(plain, data, 0)))) if chosen else []
    announce(session, taught, chosen, plan, len(rungs), len(within), budget)
    if plain.teacher[0].store is not None and plain.teacher[0].model:
        label_recipe(plain, folder, trust_code=trust_code, say=say)
    taught = open_teacher(session)
    if any(rungs[each.rung].is_teacher for each in within.values()):
        keep_teacher(session, taught.teacher)
    values, steps = halved(session, taught.teacher, chosen, plan)
    ranking = sorted(values, key=lambda name: (steps[name], session.selected.rank(values[name])), reverse=True)
    best, others = finals(session, taught.teacher, rungs, within, ranking, values, steps, budget, place)
    results = _tested(session, taught, best, place)
    tried = [telling.tried(each, values, steps, rungs, budget, best) for each in found]
    sentences = telling.sentences(session, best, others, budget, results)
    page = FitPage(
        f"{recipe.name}: {budget}", sentences, session.selected, tried, telling.limits(budget),
        f"{session.recipe.on} on {processor()}", telling.tests(session, results),
        yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True), results.versions,
    )  # fmt: skip
    write_fit(page, place / REPORT)
    results.write(place / RESULTS)
    (row,) = results.named(best.measured.name)[-1:]
    write_model_card(best.saved, best.artifact, row)
    write_json(place / "fit.json", {"budget": asdict(budget), "on": session.recipe.on, "chosen": best.measured.name,
                                    "cost": best.cost, "tried": [asdict(each) for each in tried]})  # fmt: skip
    return Fitted(best.artifact, best.measured.name, best.cost, results, sentences, tried, place / REPORT)


def _with_store(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a label store where its terms can learn from one: every candidate asks the teacher the same."""
    (teacher,) = recipe.teacher
    asked = [term for term in build_terms(recipe.terms) if term.uses_teacher]
    plain = all(term.teacher in ("", LOGITS) for term in asked)
    if teacher.store is not None or not plain or recipe.task not in ("image-classification", "text-classification"):
        return recipe
    stored = teacher.model_copy(update={"store": str(folder / "labels")})
    return recipe.model_copy(update={"teacher": [stored]})


def _possible(session: Session, teacher: Teacher) -> list[Rung]:
    """The ladder, without what is made of the teacher where nothing can be."""
    rungs = ladder(session, teacher)
    try:
        module_of(session, teacher)
    except LimbeckError as error:
        session.say(f"nothing is made of the teacher itself: {error}")
        rungs = [rung for rung in rungs if rung.student is not None]
    return rungs


def _measured(session: Session, teacher: Teacher, rungs: Sequence[Rung]) -> list[Measured]:
    """What the rungs cost, measured once a folder, target and ladder."""
    path = session.folder / MEASURED
    asked = {"on": session.recipe.on, "rungs": [rung.name for rung in rungs], "int8": session.recipe.fit.int8,
             "kind": session.recipe.quantize.kind, "processor": processor()}  # fmt: skip
    kept = read_json(path) if path.exists() else {}
    known = [Measured(**each) for each in kept.get("measured", [])]
    if kept.get("asked") == asked and not any(each.unsteady for each in known):
        session.say(f"costs were measured before ({path}; delete it to measure again)")
        return known
    found = measure_ladder(session, teacher, rungs)
    write_json(path, {"asked": asked, "measured": as_json(found)})
    return found


def _nothing_fits(found: Sequence[Measured], budget: Budget, on: str) -> str:
    known = sorted((each for each in found if each.cost), key=lambda each: budget.over(each.cost))
    near = "; ".join(f"{each.name}: {each.why_not(budget)}" for each in known[:3] or found[:3])
    return (
        f"nothing fits {budget} on {on}. Of {len(found)} candidates these come nearest: {near}. "
        "Raise the budget, or name smaller models in fit.students"
    )


def _nearest(session: Session, found: Sequence[Measured], rungs: Sequence[Rung]) -> list[Rung]:
    """Of those that fit the ones that come nearest to the budget, as what computes more learns more."""
    flops = {each.rung: each.cost.get("flops", 0.0) for each in found if each.precision == FP32}
    return sorted(rungs, key=lambda rung: -flops[rung.name])[: session.recipe.fit.candidates]


def _that_learn(session: Session, teacher: Teacher, rungs: Sequence[Rung]) -> list[Rung]:
    """The rungs that the recipe's terms can teach."""
    split = training_split(session.recipe, session.data, 0)
    able = []
    for rung in rungs:
        try:
            distiller_of(untrained(session, teacher, rung), teacher, session.recipe, split)
            able.append(rung)
        except LimbeckError as error:
            session.say(f"left out: {rung.name}: {error}")
    return able


def _tested(session: Session, taught: Taught, best: Final, place: Path) -> Results:
    """The rows of the teacher and of what was chosen, on the test split."""
    session.say("reading the test split, once, with the model that was chosen and its teacher")
    trust, saved = session.trust_code, best.saved

    def loaded() -> nn.Module:
        module = load(saved, trust_code=trust).eval()
        return backed(module, best.artifact) if best.measured.precision == INT8 else module

    name = best.measured.name
    size = {key: best.cost[key] for key in ("bytes", "flops", "parameters")}
    costs = {name: Row(name, 0, "last", {}, size, best.latency)}
    rows = measure(
        session.task, [Candidate(name, 0, "last", loaded, family=name)], taught.teacher, session.data.test, place,
        predict=partial(session.task.predict, settings=session.recipe.data), teacher_cost=taught.cost, costs=costs,
        workers=session.recipe.train.workers,
    )  # fmt: skip
    return Results(session.recipe.resolved(), versions(), rows)
