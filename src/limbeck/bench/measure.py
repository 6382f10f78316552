"""Models on runtimes, by batch size and threads: a row each, in which a number is steady and its answers are right."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.bench.energy import joules_a_pass, meter_of
from limbeck.bench.exported import to_onnx
from limbeck.bench.machine import flags, processor
from limbeck.bench.memory import memory_of
from limbeck.bench.parity import difference, why_other
from limbeck.bench.prepared import INSTALL, answers_of, runner_of
from limbeck.bench.runners import Answers, Runner, latency, torch_threads
from limbeck.bench.steadiness import FEWEST, withheld
from limbeck.bench.subjects import Subject
from limbeck.bench.targets import PYTORCH, Target
from limbeck.errors import LimbeckError
from limbeck.results import Measures, Row

ROUNDS = 2000

Watch = Callable[[str], None]


@dataclass(eq=False)
class _Try:
    """A subject on a target while it is measured: its runner, or why there is none."""

    subject: Subject
    target: Target
    runner: Runner | None = None
    refused: str = ""
    apart: float | None = None
    found: dict[str, Any] = field(default_factory=dict)
    cost: Measures = field(default_factory=dict)


def bench(
    subjects: Sequence[Subject],
    targets: Sequence[Target] = (),
    *,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    seconds: float = 2.0,
    memory: bool = False,
    energy: bool = False,
    watch: Watch = lambda _line: None,
) -> list[Row]:
    """Measures each of `subjects` on each of `targets` that can run it; those of one batch size and number of threads
    take turns.

    Args:
        targets: without any a module runs in eager PyTorch, a file in ONNX Runtime. One that names its threads is
            measured with these, the others with each of `threads`.
        seconds: about how long each model is measured, each time; a slow one for as long as a spread takes.
        memory: also in a fresh process, for its memory (`cost`: see `limbeck.bench.memory`).
        energy: also for the energy of a pass, where the machine counts it.
        watch: is told what happens.

    Returns:
        Rows whose `latency` has the keys of `limbeck.bench.steadiness.summary` and of `Runner.where`, and `difference`:
        how far its answers are from the reference's (eager PyTorch's of a module, ONNX Runtime's of a file), as a share
        of the largest. A row with `refused` has no numbers: the sentence says why.

    Raises:
        LimbeckError: a runtime is missing, or no target can run a subject.
    """
    for target in targets:
        _require(target)
    pairs = [(subject, target) for subject in subjects for target in _fitting(subject, targets)]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        files = _Files(Path(folder))
        for batch in batches:
            references = _References(files, batch)
            for count in _threads(pairs, threads):
                here = [
                    (subject, each)
                    for subject, each in pairs
                    if count == each.threads or (each.threads is None and count in threads)
                ]
                chosen = [_Try(*pair) for pair in here]
                _measure(chosen, batch, count, seconds, files, references, watch, energy)
                if memory:
                    _weigh(chosen, batch, count, files, watch)
                rows += [_row(each, batch, count) for each in chosen]
    return rows


def _threads(pairs: Sequence[tuple[Subject, Target]], threads: Sequence[int]) -> list[int]:
    return sorted({*threads, *(target.threads for _, target in pairs if target.threads is not None)})


def _fitting(subject: Subject, targets: Sequence[Target]) -> list[Target]:
    """The targets that can run a subject."""
    if not targets:
        return [Target("eager" if subject.module is not None else "onnxruntime")]
    found = [each for each in targets if subject.module is not None or each.runtime not in PYTORCH]
    if not found:
        raise LimbeckError(f"{subject.name}: an .onnx file runs on onnxruntime or openvino, not on {targets[0]}")
    return found


def _require(target: Target) -> None:
    package = target.runtime.partition("-")[0]
    if package in INSTALL and importlib.util.find_spec(package) is None:
        raise LimbeckError(f'{target}: needs {package}: pip install "limbeck[{INSTALL[package]}]"')


class _Files:
    """The .onnx files of modules, written when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[int, int], Path | LimbeckError] = {}

    def of(self, subject: Subject, batch: int) -> Path:
        """A subject's file, for batches of that size where it is exported here."""
        if subject.file is not None:
            return subject.file
        key = (id(subject), batch)
        if key not in self._made:
            assert subject.module is not None
            path = self._folder / f"{len(self._made)}.onnx"
            try:
                self._made[key] = to_onnx(subject.module, subject.inputs(batch), path, subject.name)
            except LimbeckError as error:
                self._made[key] = error
        made = self._made[key]
        if isinstance(made, LimbeckError):
            raise made
        return made


class _References:
    """What subjects answer to the inputs of a batch size, by the runtime that is right by definition."""

    def __init__(self, files: _Files, batch: int) -> None:
        self._files, self._batch = files, batch
        self._known: dict[int, Answers] = {}

    def of(self, subject: Subject) -> tuple[Answers, str]:
        """The answers, and whose they are."""
        target = Target("eager" if subject.module is not None else "onnxruntime")
        if id(subject) not in self._known:
            runner = runner_of(subject, target, self._batch, 1, lambda: self._files.of(subject, self._batch))
            self._known[id(subject)] = answers_of(runner, subject.name)
        return self._known[id(subject)], "PyTorch" if target.runtime == "eager" else "ONNX Runtime"


def _measure(
    tries: Sequence[_Try], batch: int, threads: int, seconds: float, files: _Files, references: _References,
    watch: Watch, energy: bool,
) -> None:  # fmt: skip
    for each in tries:
        watch(f"{each.subject.name} on {each.target}: preparing, batch {batch}, {_counted(threads)}")
        try:
            _prepare(each, batch, threads, files, references)
        except LimbeckError as error:
            each.refused = str(error).removeprefix(f"{each.subject.name}: ")
    ready = {str(index): each for index, each in enumerate(tries) if each.runner is not None and not each.refused}
    runners = {name: each.runner for name, each in ready.items() if each.runner is not None}
    if not runners:
        return
    watch(f"{len(runners)} in turns, batch {batch}, {_counted(threads)}: about {seconds * len(runners):.0f} s")
    for name, found in latency(runners, seconds=seconds, rounds=ROUNDS, least=FEWEST).items():
        ready[name].found = withheld(found)
    if energy:
        watch(f"energy, batch {batch}, {_counted(threads)}")
        with torch_threads(threads):
            for name, runner in runners.items():
                ready[name].found |= joules_a_pass(runner.run, meter_of(ready[name].target.device))


def _prepare(each: _Try, batch: int, threads: int, files: _Files, references: _References) -> None:
    """Makes the runner, and refuses it where its answers are not the reference's."""
    answers, whose = references.of(each.subject)
    runner = runner_of(each.subject, each.target, batch, threads, lambda: files.of(each.subject, batch))
    each.runner = runner
    each.apart = difference(answers_of(runner, each.subject.name), answers)
    each.refused = why_other(each.apart, runner.precision, whose)


def _weigh(tries: Sequence[_Try], batch: int, threads: int, files: _Files, watch: Watch) -> None:
    for each in tries:
        if each.refused:
            continue
        watch(f"{each.subject.name} on {each.target}: memory, batch {batch}, {_counted(threads)}")
        file = None if each.target.runtime in PYTORCH else files.of(each.subject, batch)
        try:
            each.cost = memory_of(each.subject, each.target, batch, threads, file)
        except LimbeckError as error:
            each.found["memory_refused"] = str(error)


def _row(each: _Try, batch: int, threads: int) -> Row:
    if each.runner is not None:
        told = each.runner.where()
    else:
        told = {"runtime": each.target.runtime, "device": processor(), "flags": flags()}
        told |= {"precision": each.subject.precision, "threads": threads, "batch": batch}
    told |= {"target": str(Target(each.target.runtime, each.target.device, threads))}
    apart = {} if each.apart is None or each.apart == float("inf") else {"difference": each.apart}
    found = each.found or {"stable": False, "refused": each.refused}
    return Row(each.subject.name, 0, "last", {}, each.subject.size, {**told, **apart, **found}, each.cost)


def refusals(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence for each row that lacks a number that was asked for."""
    for row in rows:
        where = f"{row.latency['target']}, {row.latency['precision']}, batch {row.latency['batch']}"
        for key in ("refused", "memory_refused"):
            if key in row.latency:
                yield f"{row.name} on {where}: {row.latency[key]}"


def disturbed(rows: Sequence[Row]) -> str:
    """A sentence where other programs left too few processors for the threads that were measured; empty otherwise."""
    processors = os.cpu_count() or 1
    busy = [row.latency["others"] for row in rows if row.latency["threads"] + row.latency.get("others", 0) > processors]
    if not busy:
        return ""
    return (
        f"other programs used up to {max(busy):.1f} of {processors} processors meanwhile: a steady time is that of a "
        "busy machine, and shorter on a quiet one"
    )


def _counted(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
