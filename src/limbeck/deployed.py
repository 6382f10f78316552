"""What a run's models are where they are shipped: artifacts in fp32 and int8, measured on the runtime they are for."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from limbeck.artifact import is_artifact, read_artifact_card
from limbeck.bench import Subject, Target, bench, open_subject
from limbeck.bench.exported import to_onnx
from limbeck.bench.steadiness import WIDEST, withheld
from limbeck.chains import module_of
from limbeck.compare import Candidate
from limbeck.compress import findings, sensitivity
from limbeck.compress.artifacts import calibration_feeds, int8_said, is_written, quantize_artifact
from limbeck.compress.quantize import Kind
from limbeck.errors import LimbeckError
from limbeck.export import export
from limbeck.export.backed import backed
from limbeck.export.data import Known
from limbeck.export.readme import write_model_card
from limbeck.files import read_json
from limbeck.metrics import mean_std, size_of
from limbeck.models import forward_of, load
from limbeck.models.saved import is_saved
from limbeck.recipe import Chain
from limbeck.recipe.shipping import AWARE, INT8, KINDS
from limbeck.results import Measures, Row
from limbeck.session import RECORD, Session
from limbeck.students import Entry, place_of
from limbeck.teachers import Teacher

log = logging.getLogger(__name__)

ARTIFACTS, TEACHER = "artifacts", "teacher"
SECONDS, REPEATS, TRIES = 3.0, 3, 3
"""How long each model is measured, in how many measurements, and how often longer where a number is unsteady."""
SENSITIVE_SECONDS, SENSITIVE_SAMPLES = 60.0, 32


@dataclass(frozen=True, slots=True)
class Shipped:
    """A model of a run as it would be shipped: its row and seed, the saved model and the artifact made of it; `fp32` is
    the artifact before int8, or the same."""

    name: str
    seed: int
    family: str
    saved: Path
    artifact: Path
    fp32: Path
    chain: Chain | None = None

    @property
    def is_int8(self) -> bool:
        """Whether it is in int8."""
        return self.artifact != self.fp32


def rehearse_export(session: Session, models: Sequence[nn.Module]) -> None:
    """Exports models as they are before training, so that one that cannot be is known now.

    Raises:
        LimbeckError: one cannot.
    """
    example = session.samples([0, 1])
    with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        for index, model in enumerate(models):
            to_onnx(model.cpu().eval(), example, Path(folder) / f"{index}.onnx", type(model).__name__)


Learn = Callable[[Shipped], None]
"""Makes the artifact of a row that learns as int8."""


def ship(session: Session, entries: Sequence[Entry], learn: Learn) -> list[Shipped]:
    """Exports the teacher and what the recipe's chains name, and writes int8; what is there is not made again. What
    cannot be exported is warned of and has no artifact, and no int8."""
    families = {entry.name: entry.family for entry in entries}
    made, failed = [], set()
    for shipped in _planned(session, families):
        if shipped.fp32 not in failed and not _made(session, shipped, learn):
            failed.add(shipped.fp32)
        if shipped.fp32 not in failed or not shipped.is_int8:
            made.append(shipped)
    return made


def _made(session: Session, shipped: Shipped, learn: Learn) -> bool:
    """Makes a model's artifact, and the one before int8, where they are not there yet; whether they are now."""
    wanted, known = session.recipe.quantize, known_of(session)
    try:
        if not is_artifact(shipped.fp32):
            session.say(f"exporting {shipped.fp32.name}")
            export(shipped.saved, shipped.fp32, known=known, trust_code=session.trust_code)
    except LimbeckError as error:
        log.warning("%s is measured in PyTorch and has no int8: it was not exported: %s", shipped.fp32.name, error)
        return False
    if shipped.chain is None or not shipped.is_int8:
        return True
    if is_written(shipped.artifact, int8_settings(session, shipped.chain)):
        return True
    session.say(f"writing {shipped.name}, seed {shipped.seed}")
    try:
        if shipped.chain.int8 == AWARE:
            learn(shipped)
            return True
        quantize_artifact(
            shipped.fp32, shipped.artifact, shipped.saved, known, kind=_kind(session, shipped.chain),
            calibration=wanted.calibration, exclude=wanted.exclude,
            row=f"{shipped.name}, seed {shipped.seed}",
            trust_code=session.trust_code,
        )  # fmt: skip
    except LimbeckError as error:
        log.warning("%s is left out: %s", shipped.name, error)
        shutil.rmtree(shipped.artifact, ignore_errors=True)
    return True


def int8_settings(session: Session, chain: Chain) -> dict[str, Any]:
    """What an int8 artifact of a chain depends on, beside the model; its card says it."""
    wanted = session.recipe.quantize
    said = int8_said(_kind(session, chain), wanted.calibration, wanted.exclude)
    learned = {"kind": "aware", "steps": wanted.steps, "rate": wanted.learning_rate}
    return said | (learned if chain.int8 == AWARE else {})


def keep_teacher(session: Session, teacher: Teacher) -> None:
    """Saves a teacher that came ready in the run's folder, to be exported from there."""
    if teachers_folder(session) is None and session.recipe.teacher[0].train is None:
        module = module_of(session, teacher)
        session.write_model(session.folder / TEACHER / "last", session.recipe.teacher[0], module, TEACHER)


def int8_candidates(session: Session, shipped: Sequence[Shipped]) -> list[Candidate]:
    """The int8 models, to be measured as any other."""
    found = []
    for each in shipped:
        if each.is_int8 and is_artifact(each.artifact):
            own = session.folder / "models" / f"{each.name}-{each.seed}" / RECORD  # of one that learned as int8
            record = own if own.is_file() else each.saved.parent / RECORD
            cost = read_json(record)["cost"] if record.is_file() else {}
            load_it = partial(_loaded, each.saved, each.artifact, session.trust_code)
            found.append(Candidate(each.name, each.seed, "last", load_it, each.family, cost))
    return found


def costs_of(session: Session, shipped: Sequence[Shipped]) -> dict[str, Row]:
    """By family a row with the `size`, `latency` and `cost` of one of its models on the recipe's target, which take
    turns; where a number is unsteady all are measured again, for longer."""
    there = [each for each in shipped if not each.is_int8 or is_artifact(each.artifact)]
    firsts = {each.family: each for each in reversed(there) if each.seed == 0}
    target, subjects, sizes = Target.parse(session.recipe.on), [], {}
    for family, each in firsts.items():
        module = load(each.saved, trust_code=session.trust_code).eval()
        sizes[family] = _sizes(session, module, each.artifact)
        if is_artifact(each.artifact) and len(read_artifact_card(each.artifact).graphs) == 1:
            subjects.append(replace(open_subject(str(each.artifact)), name=family))
        else:
            subjects.append(Subject(family, lambda batch: session.samples(range(batch)), module=module))
    rows: list[Row] = []
    for longer in range(TRIES):
        session.say(f"measuring {len(subjects)} models on {target}")
        rows = _repeated(subjects, target, SECONDS * 2**longer)
        if not any("rounds" in row.latency and not row.latency["stable"] for row in rows):
            break  # what was refused for another reason stays so
    return {row.name: replace(row, size=sizes[row.name]) for row in rows}


def notes_on_int8(session: Session, shipped: Sequence[Shipped], rows: Sequence[Row]) -> list[str]:
    """A sentence for each int8 row, with the layers that cost it most where it lost more than the recipe allows."""
    measure, wanted = session.task.main, session.recipe.quantize
    notes = []
    for each in shipped:
        if not each.is_int8 or each.seed or each.chain is None or not is_artifact(each.artifact):
            continue
        before = _mean(rows, each.chain.trained.name or TEACHER, measure.key)
        after = _mean(rows, each.name, measure.key)
        if before is None or after is None:
            continue
        numbers = ({measure.key: before}, {measure.key: after})
        (found,) = findings(*numbers, tolerance=wanted.tolerance)
        if not found.flagged:
            notes.append(f"{each.name}: {found.sentence()}")
            continue
        session.say(f"{each.name}: looking for the layers that int8 costs most")
        feeds = calibration_feeds(each.saved, each.fp32, known_of(session), SENSITIVE_SAMPLES, session.trust_code)
        layers = sensitivity(
            each.fp32 / "model.onnx", feeds, kind=_kind(session, each.chain), seconds=SENSITIVE_SECONDS
        )
        (found,) = findings(*numbers, tolerance=wanted.tolerance, layers=layers)
        notes.append(f"warning: {each.name}: {found.sentence()} quantize.exclude keeps layers in fp32.")
    return notes


def write_cards(shipped: Sequence[Shipped]) -> None:
    """Writes the artifacts' model cards again, when the results are known."""
    for each in shipped:
        if is_artifact(each.artifact):
            write_model_card(each.saved, each.artifact)


def _planned(session: Session, families: dict[str, str]) -> Iterator[Shipped]:
    """What is to be made, each after what it is made of."""
    place = session.folder / ARTIFACTS
    chains = _with_fp32(session.chains)
    teacher = teachers_folder(session)
    if teacher is not None:
        yield Shipped(TEACHER, 0, TEACHER, teacher, place / TEACHER, place / TEACHER)
    for chain in chains:
        trained = chain.trained.name
        if not trained and teacher is None:
            raise LimbeckError(
                f"compare: {chain.name} is written of a teacher that limbeck saved; save it with limbeck.save and name "
                "its folder in teacher.model, or leave the row out"
            )
        for seed in range(session.recipe.seeds if trained else 1):
            fp32 = place / (f"{trained}-{seed}" if trained else TEACHER)
            artifact = fp32 if chain.int8 is None else place / f"{chain.name}-{seed}"
            saved = place_of(session.folder, trained, seed) / "last" if trained else teacher
            assert saved is not None
            family = families[trained] if trained else TEACHER
            family += f"+{chain.int8}" if chain.int8 else ""
            yield Shipped(chain.name, seed, family, saved, artifact, fp32, chain)


def _with_fp32(chains: Sequence[Chain]) -> list[Chain]:
    """The chains, and what those in int8 were before."""
    found: dict[str, Chain] = {}
    for chain in chains:
        if chain.trained.name:
            found.setdefault(chain.trained.name, chain.trained)
        found.setdefault(chain.name, chain)
    return list(found.values())


def teachers_folder(session: Session) -> Path | None:
    """Where the teacher is saved, if it is."""
    named = session.recipe.teacher[0].model
    places = (session.folder / TEACHER / "last", *([Path(named)] if named else []))
    return next((place for place in places if is_saved(place)), None)


def known_of(session: Session) -> Known:
    """The session's data, as an export asks for them."""
    return Known(session.task, session.recipe.data, session.data, session.recipe.data.source)


def _kind(session: Session, chain: Chain) -> Kind:
    return cast(Kind, KINDS[chain.int8 or INT8] or session.recipe.quantize.kind)


def _loaded(saved: Path, artifact: Path, trust_code: bool) -> nn.Module:
    return backed(load(saved, trust_code=trust_code).eval(), artifact)


def _sizes(session: Session, module: nn.Module, artifact: Path) -> Measures:
    size = size_of(module, session.samples([0]), forward_of(module))
    files = sum(path.stat().st_size for path in artifact.glob("*.onnx*"))
    return {**size, "bytes": float(files)} if files else size


def _repeated(subjects: Sequence[Subject], target: Target, seconds: float) -> list[Row]:
    """The rows of several measurements, each with the files opened anew: of each model that of the median time. Its
    spread is at least how far the measurements are apart, as where its memory lies makes a model faster or slower for
    good, which no bootstrap of one measurement sees."""
    measured = [_on(subjects, target, seconds / REPEATS, memory=number == 0) for number in range(REPEATS)]
    rows = []
    for one, *others in zip(*measured, strict=True):
        known = [row.latency for row in (one, *others) if "p50" in row.latency]
        if len(known) < REPEATS:
            rows.append(one if "p50" not in one.latency else replace(one, latency=_unsteady([one, *others])))
            continue
        middle = sorted(known, key=lambda each: float(each["p50"]))[REPEATS // 2]
        apart = (max(each["p50"] for each in known) - min(each["p50"] for each in known)) / middle["p50"]
        found = {**middle, "spread": max(apart, *(each["spread"] for each in known))}
        if found["spread"] > WIDEST:
            why = f"{REPEATS} measurements of it are {apart:.1%} apart; measure on a machine with nothing else to do"
            found = withheld({**found, "stable": False, "unsteady": why})
        rows.append(replace(one, latency=found))
    return rows


def _unsteady(rows: Sequence[Row]) -> dict[str, Any]:
    """The latency of the first that was refused."""
    return next(row.latency for row in rows if "p50" not in row.latency)


def _on(subjects: Sequence[Subject], target: Target, seconds: float, *, memory: bool) -> list[Row]:
    """Files on the target, modules that are no single file in eager PyTorch."""
    files = [each for each in subjects if each.file is not None]
    modules = [each for each in subjects if each.file is None]
    weighed = memory and target.device == "cpu"
    rows = bench(files, [target], seconds=seconds, memory=weighed, energy=True) if files else []
    plain = [Target("eager", target.device, target.threads)]
    return rows + (bench(modules, plain, seconds=seconds, energy=True) if modules else [])


def _mean(rows: Sequence[Row], name: str, key: str) -> float | None:
    values = [row.metrics[key] for row in rows if (row.name, row.checkpoint) == (name, "last") and key in row.metrics]
    return mean_std(values)[0] if values else None
