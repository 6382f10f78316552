"""The files of those that were distilled to the end: exported, validated, and measured again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.artifact import is_artifact
from limbeck.bench import Target
from limbeck.compress.artifacts import int8_said, is_written, quantize_artifact
from limbeck.deployed import known_of, teachers_folder
from limbeck.errors import LimbeckError
from limbeck.export import export
from limbeck.export.backed import backed
from limbeck.fit.budget import Budget
from limbeck.fit.ladder import Rung
from limbeck.fit.learning import learned
from limbeck.fit.measuring import FP32, INT8, Measured, time_files
from limbeck.models import load
from limbeck.session import Session, training_split
from limbeck.students import place_of
from limbeck.teachers import Teacher
from limbeck.training import steps_of

AGAIN = 3
"""How many candidates are tried to the end where the file of the one before did not keep the budget."""


@dataclass(frozen=True, slots=True)
class Final:
    """A fully trained candidate in a precision: its artifact, what it reached on validation, and what its file was
    measured to cost."""

    measured: Measured
    artifact: Path
    saved: Path
    value: float
    cost: dict[str, float]
    latency: dict[str, Any]


def finals(
    session: Session, teacher: Teacher, rungs: dict[str, Rung], within: dict[str, Measured], ranking: Sequence[str],
    values: dict[str, float], steps: dict[str, int], budget: Budget, place: Path,
) -> tuple[Final, list[Final]]:  # fmt: skip
    """The best file that keeps the budget when it is measured itself, and the others that were made."""
    whole = steps_of(session.recipe.train, len(training_split(session.recipe, session.data, 0)))
    made: list[Final] = []
    teachers = [name for name, rung in rungs.items() if rung.is_teacher]
    for name in (*teachers, *ranking[:AGAIN]):
        rung = rungs[name]
        variants = [each for each in within.values() if each.rung == name]
        if not variants:
            continue
        if rung.is_teacher:
            saved = teachers_folder(session)
            assert saved is not None  # see `keep_teacher`
        else:
            values[name], steps[name] = learned(session, teacher, rung, whole), whole
            saved = place_of(session.folder, f"{name}-{whole}", 0) / "last"
        try:
            files = exported(session, saved, variants, place)
        except LimbeckError as error:
            session.say(f"{name} is left out: {error}")
            continue
        if rung.is_teacher:
            values[name] = max((each.value for each in files), key=session.selected.rank)
        made += files
        kept = [each for each in files if budget.why_not(each.cost, headroom=0.0) == ""]
        if kept and not rung.is_teacher and not _lost_much(session, values[name], kept):
            break  # the next is only needed where this one's file is too slow, or int8 spoiled it
    keeping = [each for each in made if budget.why_not(each.cost, headroom=0.0) == ""]
    if not keeping:
        tried = "; ".join(f"{each.measured.name}: {budget.why_not(each.cost, headroom=0.0)}" for each in made)
        raise LimbeckError(
            f"no file kept {budget} when it was measured again ({tried or 'none could be measured'}); close other "
            "programs and run again, or raise the budget"
        )
    best = max(keeping, key=lambda each: (session.selected.rank(each.value), -each.cost.get("latency", 0.0)))
    return best, [each for each in made if each is not best]


def _lost_much(session: Session, value: float, kept: Sequence[Final]) -> bool:
    rank = session.selected.rank
    return rank(value) - max(rank(each.value) for each in kept) > session.recipe.quantize.tolerance


def exported(session: Session, saved: Path, variants: Sequence[Measured], place: Path) -> list[Final]:
    """The artifacts of a trained candidate in those precisions that fit, validated and measured in turns."""
    known, recipe = known_of(session), session.recipe
    rung = variants[0].rung
    fp32 = place / "artifacts" / rung
    if not is_artifact(fp32):
        session.say(f"exporting {rung}")
        export(saved, fp32, known=known, trust_code=session.trust_code)
    folders = {each.name: fp32 for each in variants if each.precision == FP32}
    for each in variants:
        if each.precision == INT8:
            folders[each.name] = place / "artifacts" / each.name
            wanted = recipe.quantize
            if not is_written(folders[each.name], int8_said(wanted.kind, wanted.calibration, wanted.exclude)):
                session.say(f"writing {each.name}")
                quantize_artifact(
                    fp32, folders[each.name], saved, known, kind=wanted.kind, row=f"{each.name}, seed 0",
                    calibration=wanted.calibration, exclude=wanted.exclude,
                    trust_code=session.trust_code,
                )  # fmt: skip
    timed = {name: path for name, path in folders.items() if len(list(path.glob("*.onnx"))) == 1}
    session.say(f"measuring {', '.join(folders)} again, as the files that are shipped")
    times = time_files(timed, Target.parse(recipe.on), session.say)
    finals = []
    for each in variants:
        path = folders[each.name]
        module = load(saved, trust_code=session.trust_code).eval()
        shown = backed(module, path) if each.precision == INT8 else module
        value = session.task.validate(shown, session.data.validation, recipe.data)[session.selected.key]
        cost = {**each.cost, "bytes": float(sum(file.stat().st_size for file in path.glob("*.onnx")))}
        cost.pop("latency", None)
        latency = times.get(each.name, {})
        if "p50" in latency:
            cost |= {"latency": float(latency["p50"]), "spread": float(latency["spread"])}
        finals.append(Final(each, path, saved, value, cost, latency))
    return finals
