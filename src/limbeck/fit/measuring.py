"""What the rungs of a ladder cost as files on the machine that is to run them, before anything is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from limbeck.bench import Target, bench, open_subject
from limbeck.bench.inputs import LENGTH
from limbeck.bench.subjects import Asked, revive
from limbeck.compress import quantize_onnx
from limbeck.compress.quantize import layers_among
from limbeck.deployed import known_of
from limbeck.errors import LimbeckError
from limbeck.export.exporting import plan_of, write_parts
from limbeck.export.plans import Plan
from limbeck.fit.budget import Budget
from limbeck.fit.ladder import Rung, untrained, wanted_of
from limbeck.metrics import size_of
from limbeck.models import forward_of, read_card
from limbeck.session import Session
from limbeck.teachers import Teacher

FP32, INT8 = "fp32", "int8"
SECONDS, TRIES = 1.0, 3
CALIBRATION = 16
"""Samples that tell ranges of a file that is only timed."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a rung costs in a precision: its `bytes`, `flops`, `parameters`, and the `latency`, which is the median in
    milliseconds of one sample, with its `spread`; without one `refused` says why, and `unsteady` whether the machine
    was too busy."""

    rung: str
    precision: str
    cost: dict[str, float] = field(default_factory=dict)
    refused: str = ""
    unsteady: bool = False

    @property
    def name(self) -> str:
        """The rung's name, and int8 where it is."""
        return self.rung if self.precision == FP32 else f"{self.rung}+{self.precision}"

    def why_not(self, budget: Budget) -> str:
        """Why it does not keep a budget; empty where it does."""
        if not self.cost:
            return self.refused or "not measured"
        if budget.latency is not None and "latency" not in self.cost:
            return self.refused or "its latency could not be measured"
        return budget.why_not(self.cost)


def measure_ladder(session: Session, teacher: Teacher, rungs: Sequence[Rung]) -> list[Measured]:
    """What each rung costs in fp32 and, where the recipe wants it, in int8, on the recipe's target; those that cannot
    be built, or not exported, say so. All that can be timed take turns."""
    target = Target.parse(session.recipe.on)
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="limbeck-") as name:
        folder, files = Path(name), {}
        for rung in tqdm(rungs, desc="exporting", leave=False, disable=None):
            for measured, file in _drafted(session, teacher, rung, folder / rung.name):
                found.append(measured)
                if file is not None:
                    files[measured.name] = file
        times = _timed(files, target, session)
    return [replace(each, **_with_time(each, times)) if each.name in files else each for each in found]


def as_json(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """The measures as JSON values."""
    return [asdict(each) for each in found]


def _with_time(measured: Measured, times: dict[str, dict[str, Any]]) -> dict[str, Any]:
    time = times[measured.name]
    if "p50" not in time:
        return {"refused": str(time.get("refused", "not measured")), "unsteady": "rounds" in time}
    return {"cost": {**measured.cost, "latency": float(time["p50"]), "spread": float(time["spread"])}}


def time_files(
    files: dict[str, Path], target: Target, say: Callable[[str], None], *, length: int | None = None
) -> dict[str, dict[str, Any]]:
    """The `latency` of a row (see `limbeck.bench.bench`) by name, of .onnx files or artifacts that take turns; where
    one is unsteady, all are measured again for longer."""
    subjects = [replace(open_subject(str(path), Asked(length=length)), name=name) for name, path in files.items()]
    rows = []
    for longer in range(TRIES):
        rows = bench(subjects, [target], seconds=SECONDS * 2**longer) if subjects else []
        if not any("rounds" in row.latency and not row.latency["stable"] for row in rows):
            break  # what was refused for another reason stays so
        say("some times were unsteady; measuring for longer")
    return {row.name: row.latency for row in rows}


def _timed(files: dict[str, Path], target: Target, session: Session) -> dict[str, dict[str, Any]]:
    session.say(f"measuring {len(files)} files on {target}: about {len(files) * SECONDS:.0f} s or more")
    longest = getattr(session.task.preparation(session.data), "max_length", LENGTH)
    return time_files(files, target, session.say, length=min(LENGTH, longest))


def _drafted(session: Session, teacher: Teacher, rung: Rung, place: Path) -> Iterator[tuple[Measured, Path | None]]:
    """A rung's costs but its time, in each precision, and the file to time."""
    try:
        module = untrained(session, teacher, rung)
        revive(module)
        size = size_of(module, session.samples([0]), forward_of(module))
        cost = {"flops": size["flops"], "parameters": size["parameters"]}
        plan = _plan(session, rung, module, place / "saved")
        files = _written(plan, place)
    except (LimbeckError, RuntimeError, ValueError, AssertionError, IndexError) as error:  # of sizes that do not fit
        lines = str(error).strip().splitlines() or [type(error).__name__]
        yield Measured(rung.name, FP32, refused=f"cannot be built or exported: {lines[0]}"), None
        return
    cost["bytes"] = float(sum(path.stat().st_size for path in files))
    single = files[0] if len(files) == 1 else None
    why = "" if single is not None else "is written in several graphs, token by token, which have no one latency"
    yield Measured(rung.name, FP32, cost, why), single
    if single is None or not session.recipe.fit.int8:
        return
    small, wanted = place / "int8.onnx", session.recipe.quantize
    try:
        quantize_onnx(
            single, small, kind=wanted.kind, exclude=layers_among(single, wanted.exclude),
            calibration=list(_feeds(plan)),
        )  # fmt: skip
    except LimbeckError as error:
        yield Measured(rung.name, INT8, refused=str(error)), None
        return
    yield Measured(rung.name, INT8, {**cost, "bytes": float(small.stat().st_size)}), small


def _plan(session: Session, rung: Rung, module: nn.Module, place: Path) -> Plan:
    session.write_model(place, wanted_of(session, rung), module, rung.name)
    return plan_of(module.eval(), read_card(place), known_of(session), session.data.train)


def _written(plan: Plan, place: Path) -> list[Path]:
    """The plan's graphs as files, for batches of any size where that goes."""
    try:
        cards = write_parts(plan, place, static=False)
    except LimbeckError:
        cards = write_parts(plan, place, static=True)
    return [place / card.file for card in cards.values()]


def _feeds(plan: Plan) -> Iterator[dict[str, Any]]:
    (part,) = plan.parts
    for place in range(min(CALIBRATION, plan.count)):
        given = plan.take([place])
        yield {name: given[name].numpy() for name in part.inputs}
