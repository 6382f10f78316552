"""The trainings that rows for shipping need: models that are pruned, and learn again what that cost them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress import prune, rounds
from limbeck.errors import LimbeckError
from limbeck.metrics import size_of
from limbeck.models import forward_of, load
from limbeck.models.saved import is_saved
from limbeck.recipe import Chain, ModelRecipe, Recipe
from limbeck.recipe.shipping import ALONE, DISTILLED, PRUNED
from limbeck.session import Session, training_split
from limbeck.students import Entry, build_student, distiller_of, place_of, same_teacher
from limbeck.teachers import Live, Stored, Teacher
from limbeck.training import steps_of
from limbeck.types import Batch

STARTS = "pruned"
"""The folder of what is left of models before they learn again."""

MOST = 0.9
"""The share of channels that goes where a model cannot be made as small as the student."""

TAYLOR_BATCHES = 8
"""Batches of real samples from which Taylor's criterion is told."""

log = logging.getLogger(__name__)


def chain_entries(session: Session, teacher: Teacher) -> list[Entry]:
    """The entries of the recipe's chains beside those of the student alone and distilled, each after what it begins
    with."""
    entries: dict[str, Entry] = {}
    for chain in session.chains:
        for entry in _trainings(session, teacher, chain.trained):
            entries.setdefault(entry.name, entry)
    return list(entries.values())


def rehearse_chain(session: Session, teacher: Teacher, chain: Chain, starts: dict[str, nn.Module]) -> None:
    """Builds what a chain's trainings will begin with, from untrained models where need be. `starts` has what was built
    for other chains, by what it begins with, and gets what is new.

    Raises:
        LimbeckError: one of them cannot be made, or cannot learn by the recipe's terms.
    """
    recipe = session.recipe
    split = training_split(recipe, session.data, 0)
    for entry in _trainings(session, teacher, chain.trained):
        origin, cut = entry.after or "teacher", PRUNED in entry.name
        key = f"{origin}{', pruned' if cut else ''}"
        if key not in starts:
            of_teacher = entry.name.startswith(PRUNED)
            model = copy_of_teacher(session, teacher) if of_teacher else untrained_student(session, teacher)
            if cut:
                timed = 0.5 if recipe.prune.latency is not None else None  # an untrained model says it as well
                model = pruned(session, teacher, model, of_teacher, share=timed)
            starts[key] = model
        distiller_of(copy.deepcopy(starts[key]), teacher if entry.teacher is not None else None, recipe, split)


def module_of(session: Session, teacher: Teacher) -> nn.Module:
    """The teacher's own module, to make a student of.

    Raises:
        LimbeckError: it does not run here, or sees samples otherwise than the student.
    """
    live = teacher.fallback if isinstance(teacher, Stored) else teacher
    if not isinstance(live, Live):
        raise LimbeckError(
            "compare: a row that begins with the teacher needs one that runs here as one model; leave the row out, or "
            "name the teacher's model"
        )
    example = session.samples([0, 1])
    if not _same(live.prepare(example), example):
        raise LimbeckError(
            "compare: the teacher sees its samples otherwise than the student does (size, normalisation or tokens), so "
            "that nothing made of it can take the student's place; leave rows out that begin with pruned or int8"
        )
    return live.model


def copy_of_teacher(session: Session, teacher: Teacher) -> nn.Module:
    """The teacher's own module again, on the processor, wherever the teacher runs."""
    return copy.deepcopy(module_of(session, teacher)).cpu()


def pruned(
    session: Session, teacher: Teacher, model: nn.Module, of_teacher: bool, *, share: float | None = None
) -> nn.Module:
    """What the recipe's `prune` leaves of `model`; `share` is of the channels to remove, in the place of a target."""
    wanted, example = session.recipe.prune, session.samples([0, 1])
    target: dict[str, Any] = {name: getattr(wanted, name) for name in ("ratio", "flops", "latency")}
    if share is not None:
        target = {"ratio": share}
    options: dict[str, Any] = {
        "by": wanted.by, "scope": wanted.scope, "keep": wanted.keep, "round_to": wanted.round_to,
    }  # fmt: skip
    if wanted.by == "taylor":
        split = session.task.alone(training_split(session.recipe, session.data, 0))
        size = session.recipe.train.batch_size
        starts = range(0, min(len(split), TAYLOR_BATCHES * size), size)
        batches = [split.__getitems__(list(range(start, min(start + size, len(split))))) for start in starts]
        options |= {"loss": _loss_on_labels(session.recipe, split), "batches": batches}
    if any(value is not None for value in target.values()):
        return prune(model, example, **target, **options).module
    flops = _students_share(session, teacher, example) if of_teacher else 0.5
    try:
        return prune(model, example, flops=flops, **options).module
    except LimbeckError as error:  # of a detector, say, the backbone alone is pruned
        found = prune(model, example, ratio=MOST, **options)
        log.warning(
            "pruned as far as it goes, to %.0f %% of the FLOPs and not to the student's %.0f %% (%s)",
            100 * found.flops_share, 100 * flops, error,
        )  # fmt: skip
        return found.module


def _trainings(session: Session, teacher: Teacher, chain: Chain) -> list[Entry]:
    """A chain's own trainings, in order."""
    found: list[Entry] = []
    before: str | None = None
    waiting = False
    for index, step in enumerate(chain.steps):
        name = "+".join(chain.steps[: index + 1])
        following = chain.steps[index + 1] if index + 1 < len(chain.steps) else ""
        if step == PRUNED:
            waiting = True
            if following == DISTILLED:
                continue
        if name not in (ALONE, DISTILLED):
            found += _rounds(session, teacher, name, before, waiting, taught=step == DISTILLED)
        before, waiting = name, False
    return found


def _rounds(
    session: Session, teacher: Teacher, name: str, before: str | None, cut: bool, *, taught: bool
) -> list[Entry]:
    """The trainings of one step: several where the recipe prunes in rounds."""
    recipe, count = session.recipe, session.recipe.prune.rounds if cut else 1
    total = steps_of(recipe.train, len(training_split(recipe, session.data, 0)))
    if count > 1:
        recipe = recipe.model_copy(update={"train": replace(recipe.train, steps=max(1, total // count))})
    of_teacher = before is None
    wanted = session.recipe.teacher[0] if name.startswith(PRUNED) else session.recipe.student
    entries = []
    for number in range(1, count + 1):
        last = number == count
        own = name if last else f"{name}-round{number}"
        start = partial(_start, session, teacher, before, cut, number if count > 1 else 0, of_teacher, wanted)
        entries.append(
            Entry(
                own, recipe, partial(same_teacher, teacher) if taught else None, partial(same_teacher, teacher, 0),
                family=_family(name), about=_about(before, cut, taught) if last else "",
                start=start, wanted=wanted, shown=last, after=before,
            )
        )  # fmt: skip
        before = own
    return entries


def _family(name: str) -> str:
    """Models that were pruned from the same are of one architecture, whoever taught them."""
    if not name.startswith(PRUNED):
        return name
    return name.removesuffix(f"+{DISTILLED}")


def _about(before: str | None, cut: bool, taught: bool) -> str:
    origin = before or "the teacher"
    return f"{origin}{', pruned,' if cut else ''} learned on {'from the teacher' if taught else 'labels alone'}"


def _start(
    session: Session, teacher: Teacher, before: str | None, cut: bool, number: int, of_teacher: bool,
    wanted: ModelRecipe, seed: int,
) -> nn.Module:  # fmt: skip
    """What a training begins with: a model of this run, and what is left of it where it is pruned; `number` is the
    round's, 0 where there are no rounds."""
    if before is None:
        model = copy_of_teacher(session, teacher)
    else:
        model = load(place_of(session.folder, before, seed) / "last", trust_code=session.trust_code)
    if not cut:
        return model
    # Kept: a target of milliseconds is met by another network each time, and a training goes on with its own.
    place = session.folder / STARTS / f"{before or 'teacher'}-{seed if before else 0}"
    if not is_saved(place):
        share = _share_of_round(session, teacher, of_teacher, number)
        made = pruned(session, teacher, model, of_teacher, share=share)
        session.write_model(place, wanted, made, f"{before or 'teacher'}, pruned")
    return load(place, trust_code=session.trust_code).train()


def _share_of_round(session: Session, teacher: Teacher, of_teacher: bool, number: int) -> float | None:
    """What a round removes of the channels that are left; None where there are no rounds."""
    if not number:
        return None
    wanted = session.recipe.prune
    ratio = wanted.ratio
    if ratio is None:
        flops = wanted.flops or (_students_share(session, teacher, session.samples([0, 1])) if of_teacher else 0.5)
        ratio = 1 - flops**0.5  # channels count where they are made and where they are read
    return rounds(ratio, wanted.rounds)[number - 1]


def _students_share(session: Session, teacher: Teacher, example: Batch) -> float:
    """The student's FLOPs as a share of the teacher's."""
    models = (untrained_student(session, teacher), copy_of_teacher(session, teacher))
    small, large = (size_of(model, example, forward_of(model))["flops"] for model in models)
    if small >= large:
        raise LimbeckError(
            f"prune: the student has {small:,.0f} FLOPs and the teacher {large:,.0f}, so there is nothing to cut away; "
            "say how much to prune (prune.ratio or prune.flops)"
        )
    return small / large


def untrained_student(session: Session, teacher: Teacher) -> nn.Module:
    """The recipe's student before training, whatever was drawn elsewhere."""
    with torch.random.fork_rng():
        return build_student(session, session.recipe.student, partial(same_teacher, teacher, 0))


def _loss_on_labels(recipe: Recipe, split: Any) -> Callable[[nn.Module, Batch], Tensor]:
    known: dict[int, Any] = {}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        if id(model) not in known:
            known[id(model)] = distiller_of(model, None, recipe, split)
        found: Tensor = known[id(model)](batch).loss
        return found

    return loss


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
