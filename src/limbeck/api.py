"""`limbeck.distill`: the whole job in one call, on modules and data sets of your own."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.utils.data import IterableDataset

from limbeck import report
from limbeck.compare import Candidate, alone_terms, candidates_of, claims, measure, versions
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.models import as_module, save
from limbeck.results import Results, Row
from limbeck.sources import ImageSet, as_training_data
from limbeck.tasks import IMAGE_CLASSIFICATION as TASK
from limbeck.tasks.classification import predict, width_of
from limbeck.teachers import TeacherLike, as_teacher
from limbeck.terms import Term, default_terms
from limbeck.training import TrainConfig, train


@dataclass(frozen=True, slots=True)
class DistillResult:
    """What `distill` gives: the trained student (of the first seed, in eval mode, on the CPU), and the account."""

    student: nn.Module
    results: Results
    folder: Path

    @property
    def rows(self) -> list[Row]:
        """A row for the teacher, and for each seed one for the student alone and one for the distilled."""
        return self.results.rows

    def report(self, path: str | Path) -> Path:
        """Writes the report, one HTML file that opens offline, and gives its path."""
        path = Path(path)
        report.write(self.results, self.folder, path)
        return path

    def save(self, folder: str | Path) -> Path:
        """Saves the student as safetensors; `limbeck.load(folder, into=module)` reads it back."""
        save(self.student, Path(folder), spec=None, classes=(), preprocessing=None)
        return Path(folder)


def distill(
    teacher: TeacherLike,
    student: nn.Module | Callable[[], nn.Module],
    train_data: Any,
    eval_data: Any,
    *,
    objective: Sequence[Term] | None = None,
    config: TrainConfig | None = None,
    seeds: int = 1,
    baseline: bool = True,
    classes: Sequence[str] | None = None,
    folder: str | Path | None = None,
) -> DistillResult:
    """Distils `teacher` into `student`, trains the same student alone beside it, and prints what came of both.

    Args:
        teacher: a module that classifies images (or a Teacher, an .onnx path, a list of them).
        student: a module; it is copied, so yours stays as it is. For several seeds give a function that makes a new
            one, or every seed starts from the same weights and only the order of the data differs.
        train_data: what a model is trained on: a data set of (input, label) pairs or of dicts with `inputs` and
            `labels`, or a pair of arrays (inputs, labels). A label of -1 means there is none.
        eval_data: the same for measuring; it is read once, at the end.
        objective: the terms; by default 0.1 of the labels and 0.9 of the teacher at temperature 4.
        config: the training budget (default: 20 epochs, batches of 64, AdamW at 1e-3 with a cosine schedule).
        seeds: how many times to train each; claims need at least two.
        baseline: whether to train the student alone as well. Without it nothing can be claimed.
        classes: the names of the classes; numbers if not given.
        folder: where to keep curves and results.json; a temporary folder if not given.

    Raises:
        LimbeckError: data or models do not fit (classes, shapes, NaN, labels out of range).
    """
    if seeds < 1:
        raise LimbeckError(f"seeds must be at least 1, got {seeds}")
    terms = list(objective) if objective is not None else default_terms()
    config = config or TrainConfig()
    taught = as_teacher(teacher, config.shortcuts)
    place = Path(folder) if folder is not None else Path(tempfile.mkdtemp(prefix="limbeck-"))
    held_out, held_out_collate = as_training_data(eval_data, None)
    num_classes = width_of(taught, held_out_collate([held_out[0]]))
    split, collate = as_training_data(train_data, num_classes)
    if isinstance(split, IterableDataset):
        raise LimbeckError("training data without a length cannot be spread over epochs; give a map-style data set")
    if collate([split[0]])["labels"].is_floating_point():
        raise LimbeckError(
            "limbeck.distill measures one label a sample; train several labels a sample with DistillTrainer and "
            "SupervisedBCE and SigmoidKD terms"
        )
    example = collate([split[index] for index in range(min(2, len(split)))])  # type: ignore[arg-type]
    make = _maker(student)
    candidates: list[Candidate] = []
    for seed in range(seeds):
        for kind in ("alone", "distilled") if baseline else ("distilled",):
            torch.manual_seed(seed)
            module = make()
            same_width(module, example, num_classes)
            distiller = (
                Distiller(module, None, alone_terms(terms), shortcuts=config.shortcuts)
                if kind == "alone"
                else Distiller(module, taught, copy.deepcopy(terms), example=example, shortcuts=config.shortcuts)
            )
            trained = train(
                distiller, split, None, config, seed=seed, label=f"{kind} {seed + 1}/{seeds}", collate=collate
            )
            candidates += candidates_of(kind, seed, trained, None)
    names = tuple(classes or (held_out.classes if isinstance(held_out, ImageSet) else map(str, range(num_classes))))
    rows = measure(
        TASK, candidates, taught, held_out, place, example=held_out_collate([held_out[0]]),
        predict=partial(predict, collate=held_out_collate, classes=names),
    )  # fmt: skip
    recipe = {"name": "distill", "task": TASK.name, "seeds": seeds, "train": _plain(config)}
    results = Results(recipe, versions(), rows, claims(rows, TASK.claimed))
    results.write(place / "results.json")
    console = Console(emoji=False)
    console.print(report.terminal_table(results))
    for sentence in report.verdict(results):
        console.print(sentence)
    first = next(each.load() for each in candidates if each.name == "distilled")
    return DistillResult(first, results, place)


def same_width(student: nn.Module, example: Any, num_classes: int) -> None:
    """Raises LimbeckError unless the student gives as many logits as the teacher."""
    student.eval()
    with torch.no_grad():
        logits = Distiller(student).student_signal(example)["logits"]
    student.train()
    if logits.shape[-1] != num_classes:
        raise LimbeckError(
            f"the student gives {logits.shape[-1]} logits, the teacher {num_classes}; "
            "both must know the same classes in the same order"
        )


def _maker(student: nn.Module | Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    if isinstance(student, nn.Module):
        module = as_module(student)
        return lambda: copy.deepcopy(module)
    return lambda: as_module(student())


def _plain(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
