"""The doctor: what would go wrong in a recipe, found in seconds, each finding with what to do."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.measures import measure_of
from limbeck.metrics import size_of
from limbeck.models import forward_of, without_answers
from limbeck.recipe import Recipe, build_terms
from limbeck.session import Session, open_data, preview_teacher, training_split
from limbeck.sources import describe
from limbeck.students import build_student
from limbeck.tasks import Classified, TaskData
from limbeck.teachers import Live, Teacher
from limbeck.terms import peak_weight
from limbeck.types import UNLABELLED

SAMPLE = 512
"""Samples that the teacher is tried on."""
TIMED_STEPS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `ok`, a `warning` that says what to do, or a `note`."""

    level: Literal["ok", "warning", "note"]
    topic: str
    text: str


def examine(recipe: Recipe, folder: Path, *, trust_code: bool = False) -> list[Finding]:
    """Looks at a recipe without training anything or writing into its folder.

    Raises:
        LimbeckError: what would stop the run as well, such as missing data or other classes.
    """
    data = open_data(recipe, lambda _line: None)
    session = Session(recipe, data, folder, trust_code, lambda _line: None)
    findings = list(_data(recipe, data))
    taught = preview_teacher(session)
    teacher = taught.teacher
    if not taught.ready:
        text = "trained in the run and not there yet; its accuracy is checked after that"
        findings.append(Finding("note", "teacher", text))
    else:
        findings += _teaching(recipe, data, teacher)
    student = build_student(session, recipe.student, lambda: teacher)
    findings += _capacity(session, teacher, student)
    findings += _step(session, student, teacher, guessed=not taught.ready)
    return findings


def _data(recipe: Recipe, data: TaskData) -> Iterator[Finding]:
    split = training_split(recipe, data, 0)
    sizes = f"train {len(data.train):,}, validation {len(data.validation):,}, test {len(data.test):,}"
    if not data.classes or split.labels.is_floating_point() or recipe.kind.shape(data).head != "classification":
        yield Finding("note", "data", sizes)
        yield Finding("ok", "labels", recipe.kind.describe(split, data))
        return
    balance = describe(split.labels.numpy(), data.classes)
    known = len(split) - balance.unlabelled
    names = ", ".join(data.classes[:8]) + (" …" if len(data.classes) > 8 else "")
    yield Finding(
        "note", "data", f"{sizes}; {len(data.classes)} classes, in this order: {names}",
    )  # fmt: skip
    yield Finding("warning" if balance.imbalanced else "ok", "balance", balance.text)
    if known == 0:
        yield Finding("warning", "labels", "no labelled samples: terms on labels will be 0; train on the teacher alone")
    batch = min(recipe.train.batch_size, len(split))
    if known and known / len(split) * batch < 1:
        yield Finding(
            "warning", "labels", f"fewer than one labelled sample a batch of {batch}; enlarge train.batch_size, or "
            "expect the student alone to learn little",
        )  # fmt: skip
    inputs = data.train.__getitems__(list(range(min(SAMPLE, len(data.train))))).get("inputs")
    if inputs is None:
        return
    mean, std = inputs.mean().item(), inputs.std().item()
    centred = abs(mean) < 0.5 and 0.5 < std < 2
    yield Finding(
        "ok" if centred else "warning", "student's inputs",
        f"normalised to mean {mean:.2f}, deviation {std:.2f}" + ("" if centred else "; expected about 0 and 1: check "
        "that the pixels are 0…255 and that mean and std belong to this data"),
    )  # fmt: skip


def _teaching(recipe: Recipe, data: TaskData, teacher: Teacher) -> Iterator[Finding]:
    """The teacher on the loader that the run will use."""
    split = data.validation
    if len(split) > SAMPLE:
        split = split.subset(torch.linspace(0, len(split) - 1, SAMPLE).long())
    answers = recipe.kind.predict(teacher, split, label="teacher", settings=recipe.data)
    if not isinstance(answers, Classified):
        found = ((measure_of(key), value) for key, value in answers.metrics().items() if key in recipe.kind.claimed)
        said = next((f"{measure.title} {measure.text(value)} on validation samples" for measure, value in found), None)
        yield Finding("note", "teacher", said or answers.why)
        return
    logits, labels = answers.logits, answers.labels
    if logits is None:
        yield Finding("note", "teacher", answers.why)
        return
    if logits.shape[1] != len(data.classes):
        raise LimbeckError(
            f"the teacher gives {logits.shape[1]} logits, the data has {len(data.classes)} classes; "
            "use the data it was trained on, or another teacher"
        )
    metrics = answers.metrics()
    accuracy, chance = metrics["accuracy"], 1 / len(data.classes)
    text = f"accuracy {100 * accuracy:.1f} % on {len(split)} validation samples"
    if accuracy < max(2 * chance, 0.5):
        text += (
            "; that is low. If you know it to be better: check teacher.normalize and teacher.size (is the "
            "preprocessing what it was trained with?), and the order of the classes"
        )
        yield Finding("warning", "teacher", text)
        yield from _order(logits, labels, data)
    else:
        yield Finding("ok", "teacher", text)
    ece = metrics["ece"]
    yield Finding(
        "ok" if ece < 0.1 else "warning", "calibration",
        f"expected calibration error {ece:.3f}" + ("" if ece < 0.1 else "; its confidences mislead: try a higher "
        "temperature, or logit standardisation"),
    )  # fmt: skip


def _order(logits: Tensor, labels: Tensor, data: TaskData) -> Iterator[Finding]:
    """A teacher that is wrong in the same way for each class knows the classes in another order."""
    known = labels != UNLABELLED
    predicted, truth = logits.argmax(1)[known], labels[known]
    moved: dict[int, int] = {}
    for index in range(len(data.classes)):
        said = predicted[truth == index]
        if len(said) == 0:
            continue
        usual, count = said.mode().values.item(), (said == said.mode().values).double().mean().item()
        if usual != index and count > 0.5:
            moved[index] = int(usual)
    # A teacher that says one class for everything is blind; another order sends each class to a place of its own.
    if len(moved) > 1 and len(set(moved.values())) == len(moved):
        pairs = ", ".join(f"{data.classes[a]} → {data.classes[b]}" for a, b in list(moved.items())[:5])
        yield Finding(
            "warning", "class order", f"the teacher regularly says another class ({pairs}); its "
            "classes are in another order than the data's: reorder the data's class names",
        )  # fmt: skip


def _capacity(session: Session, teacher: Teacher, student: nn.Module) -> Iterator[Finding]:
    sizes = [sum(p.numel() for p in module.parameters()) for module in teacher.modules()]
    small = sum(p.numel() for p in student.parameters())
    if not sizes or not small:
        return
    ratio = sum(sizes) / small
    text = f"teacher {sum(sizes):,} parameters, student {small:,}: {ratio:.1f} times smaller"
    if ratio > 100:
        text += "; a large gap: a teacher assistant of middle size, or a lower temperature, may teach better"
        yield Finding("warning", "capacity", text)
    elif ratio < 1:
        yield Finding("warning", "capacity", text + "; the student is the larger one: are they swapped?")
    else:
        yield Finding("ok", "capacity", text)
    example = without_answers(session.data.train.__getitems__([0]))
    flops = size_of(student, example, forward_of(student))["flops"]
    if isinstance(teacher, Live) and flops:
        big = size_of(teacher.model, teacher.prepare(example), forward_of(teacher.model))["flops"]
        text = f"{flops / 1e6:.2f} MFLOP a sample for the student, {big / 1e6:.2f} for the teacher"
        yield Finding("note", "cost", text)


def _step(session: Session, student: nn.Module, teacher: Teacher, *, guessed: bool) -> Iterator[Finding]:
    """A dry step: every term's value and gradient norm, then the time and memory of a few steps."""
    recipe = session.recipe
    split = training_split(recipe, session.data, 0)
    batch = split.__getitems__(_mixed(split, min(recipe.train.batch_size, len(split))))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = {name: tensor.to(device) for name, tensor in batch.items()}

    def built(shortcuts: Collection[str]) -> Distiller:
        made = Distiller(
            student, teacher, recipe.kind.fitted(build_terms(recipe.terms), split, teacher), example=batch,
            balance=recipe.balance, shortcuts=shortcuts,
        )  # fmt: skip
        made.to(device).train().prepare(split.ids)
        return made

    # Logits that are made in chunks serve one backward pass for all terms together.
    distiller = built({*recipe.train.shortcuts} - {"linear-head"})
    logits = distiller.student_signal(batch).get("logits")
    if session.data.classes and logits is not None and logits.shape[-1] != len(session.data.classes):
        raise LimbeckError(
            f"the student gives {logits.shape[-1]} logits, the data has {len(session.data.classes)} classes"
        )
    parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    for term in distiller.objective.terms:
        yield _term(distiller, batch, parameters, term.name, peak_weight(term), guessed=guessed)
    distiller = built(recipe.train.shortcuts)
    parameters = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    seconds, memory = _timed(distiller, batch, parameters)
    steps = recipe.train.steps or round(recipe.train.epochs * max(1, len(split) // recipe.train.batch_size))
    trainings = recipe.seeds * len(recipe.variants())
    total = 2 * trainings * steps * seconds
    yield Finding(
        "note", "time", f"{1000 * seconds:.1f} ms a distilled step × {steps:,} steps × {2 * trainings} students: "
        f"at most {_duration(total)}, and the teacher's training where it has one",
    )  # fmt: skip
    text = f"about {memory / 2**20:,.0f} MiB for parameters, gradients, optimizer and activations"
    yield Finding("note", "memory", text)


def _term(
    distiller: Distiller, batch: dict[str, Tensor], parameters: list[nn.Parameter], name: str, weight: float,
    *, guessed: bool,
) -> Finding:  # fmt: skip
    index = [term.name for term in distiller.objective.terms].index(name)
    value = distiller.term_values(batch)[index]
    gradients = torch.autograd.grad(weight * value, parameters, allow_unused=True)
    norm = math.sqrt(sum(float(grad.double().square().sum()) for grad in gradients if grad is not None))
    text = f"value {value.item():.4g}, weight {weight:g}, gradient norm {norm:.3g}"
    if not math.isfinite(value.item()) or not math.isfinite(norm):
        return Finding("warning", f"term {name}", f"{text}; not finite: look for NaN in the data, or lower the weight")
    if norm == 0:
        text += "; it teaches nothing: no labels in the batch, or equal tensors"
        return Finding("warning", f"term {name}", text)
    return Finding("ok", f"term {name}", text + (" (against an untrained teacher)" if guessed else ""))


def _timed(distiller: Distiller, batch: dict[str, Tensor], parameters: list[nn.Parameter]) -> tuple[float, float]:
    optimizer = torch.optim.AdamW(parameters, lr=0.0)
    saved = 0

    def packed(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    times = []
    for step in range(TIMED_STEPS + 1):
        start = time.perf_counter()
        saved = 0
        with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
            loss = distiller(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step:
            times.append(time.perf_counter() - start)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return sorted(times)[len(times) // 2], 4.0 * weights + saved


def _mixed(split: Any, count: int) -> list[int]:
    """Positions of a batch with labelled samples in it where there are some."""
    labels = getattr(split, "labels", None)
    if labels is None or labels.dim() != 1:
        return list(range(count))
    labelled: list[int] = (labels != UNLABELLED).nonzero().flatten()[: max(1, count // 2)].tolist()
    others = [index for index in range(len(split)) if index not in set(labelled)]
    return (labelled + others)[:count]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
