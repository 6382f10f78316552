"""Rows in int8 that learn as such: quantization-aware distillation of what a run trained before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from limbeck.compress.artifacts import BATCH, rewrite_artifact
from limbeck.compress.aware import Aware, quantization_aware
from limbeck.deployed import Shipped, int8_settings, known_of
from limbeck.files import read_json, write_json
from limbeck.models import load
from limbeck.models.forward import stack_of
from limbeck.recipe import build_terms
from limbeck.session import RECORD, Session, training_split
from limbeck.students import distiller_of
from limbeck.taps import LOGITS
from limbeck.teachers import Teacher
from limbeck.training import steps_of
from limbeck.types import Batch

SLOWER, SHORTER = 10, 4
"""By which the learning rate and the steps of the recipe are divided where it says none for learning as int8."""


def rehearse_int8(session: Session, student: nn.Module) -> None:
    """Makes an untrained student one that learns as int8.

    Raises:
        LimbeckError: it cannot be.
    """
    example = session.samples([0, 1])
    quantization_aware(student, example, calibration=[example], signals=_taps(session, student))


def learn_int8(session: Session, teacher: Teacher, shipped: Shipped) -> None:
    """Trains a saved student on as the int8 file that it will be, taught as it was, and writes its artifact; what it
    cost is kept as of any training of the run."""
    recipe, wanted = session.recipe, session.recipe.quantize
    unit = f"{shipped.name}-{shipped.seed}"
    student = load(shipped.saved, trust_code=session.trust_code)
    aware = quantization_aware(
        student, session.samples([0, 1]), calibration=_calibration(session), signals=_taps(session, student)
    )
    split = training_split(recipe, session.data, shipped.seed)
    steps = wanted.steps or max(1, steps_of(recipe.train, len(split)) // SHORTER)
    rate = wanted.learning_rate or recipe.train.learning_rate / SLOWER
    torch.manual_seed(shipped.seed)
    trained = session.train(
        unit, distiller_of(aware, teacher, recipe, split), split,
        replace(recipe.train, steps=steps, learning_rate=rate), shipped.seed, f"{shipped.name}, seed {shipped.seed}",
    )  # fmt: skip
    module = trained.module
    assert isinstance(module, Aware)

    def write(_name: str, outputs: tuple[str, ...], path: Path) -> None:
        module.write(path, outputs)

    before = read_json(shipped.saved.parent / RECORD)["cost"]
    cost = {"train_seconds": before.get("train_seconds", 0.0) + trained.seconds}
    cost["peak_memory_bytes"] = max(before.get("peak_memory_bytes", 0.0), trained.peak_memory)
    write_json(session.folder / "models" / unit / RECORD, {"cost": cost, "history": trained.history})
    assert shipped.chain is not None
    row = f"{shipped.name}, seed {shipped.seed}"
    about = {"int8": int8_settings(session, shipped.chain), "model": row}
    rewrite_artifact(shipped.fp32, shipped.artifact, shipped.saved, student, known_of(session), write, about)
    shutil.rmtree(session.folder / "work" / unit, ignore_errors=True)


def _taps(session: Session, student: nn.Module) -> list[str]:
    """The modules that the recipe's terms look at."""
    named: list[str] = []
    for term in build_terms(session.recipe.terms):
        named += [term.student] if isinstance(term.student, str) else list(term.student or ())
    return [name for name in dict.fromkeys(named) if name not in ("", LOGITS) and stack_of(name, student) is None]


def _calibration(session: Session) -> Iterator[Batch]:
    count, total = len(session.data.train), session.recipe.quantize.calibration
    places = torch.linspace(0, count - 1, min(total, count)).long().tolist()
    for start in range(0, len(places), BATCH):
        yield session.samples(places[start : start + BATCH])
