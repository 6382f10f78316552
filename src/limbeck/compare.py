"""The honest protocol: what is compared, on what, and what may be claimed from it."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.bench import eager, latency, processor
from limbeck.files import write_json
from limbeck.losses import Supervised
from limbeck.metrics import holm, paired, size_of
from limbeck.models import without_answers
from limbeck.results import Claim, Row
from limbeck.tasks import Predict, Task
from limbeck.teachers import Live, Stored, Teacher
from limbeck.teachers.fingerprint import weights_hash
from limbeck.terms import Term
from limbeck.training import Trained
from limbeck.types import Batch

ALONE, DISTILLED = "alone", "distilled"
"""What rows are called: the student trained on labels only, and the one with a teacher."""


def alone_terms(terms: Sequence[Term], otherwise: Sequence[Term] = ()) -> list[Term]:
    """The objective of the student alone: the recipe's own terms on labels; where it has none those of `otherwise`, and
    plain cross-entropy where these have none too.

    A single term gets weight 1, so that it is not trained with a tenth of a gradient.
    """
    # A student that teaches itself is not alone.
    supervised = [term for term in terms if not (term.uses_teacher or term.own)]
    if not supervised:
        return alone_terms(otherwise) if otherwise else [Term(Supervised())]
    if len(supervised) == 1:
        only = supervised[0]
        return [Term(only.loss, student=only.student, name=only.name, labels=only.labels)]
    return supervised


def setting_name(model: str, setting: str) -> str:
    """The name of a row: `distilled`, or `distilled@all-labels` in a second setting."""
    return f"{model}@{setting}" if setting else model


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained model to be measured on the test split; `load` gives it, so that many need not be in memory at once.
    `family` names its architecture: latency and size are measured once a family."""

    name: str
    seed: int
    checkpoint: str
    load: Callable[[], nn.Module]
    family: str = "student"
    cost: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def candidates_of(name: str, seed: int, trained: Trained, selected: nn.Module | None) -> list[Candidate]:
    """The candidates that one training gives: its last weights, and those that validation selected."""
    cost = {"train_seconds": trained.seconds, "peak_memory_bytes": trained.peak_memory}
    found = [Candidate(name, seed, "last", lambda: trained.module, cost=cost, history=trained.history)]
    if selected is not None:
        found.append(Candidate(name, seed, "selected", lambda: selected, cost=cost, history=trained.history))
    return found


def measure(
    task: Task,
    candidates: Sequence[Candidate],
    teacher: Teacher,
    test: Any,
    folder: Path,
    *,
    predict: Predict | None = None,
    example: Batch | None = None,
    teacher_cost: dict[str, float] | None = None,
    teacher_history: list[dict[str, float]] | None = None,
    workers: int = 0,
    costs: Mapping[str, Row] | None = None,
) -> list[Row]:
    """Reads the test split, once, with every model: a row each, and curves and confusion under `folder/details`.

    The teacher's row comes first; the others are measured against the labels and against the teacher. What cannot be
    known of a teacher, whose label store keeps less than all logits, is left out and said in a warning. `predict` and
    `example`, a batch of one sample, are the task's and the split's own if not given. `costs` are rows by family, the
    teacher's as `teacher`, of which sizes, latencies and costs are taken where they were measured elsewhere; else
    latencies are those of eager PyTorch here.
    """
    predict = predict or task.predict
    taught: Any = predict(teacher, test, label="test: teacher", workers=workers)
    known = dict(costs or {})
    others = [each for each in candidates if each.family not in known]
    if others or "teacher" not in known:
        example = without_answers(test.__getitems__([0]) if example is None else example)
        known = eager_costs(task, others, teacher, example) | known

    def row(
        name: str, seed: int, checkpoint: str, family: str, said: Any, metrics: dict[str, float],
        cost: dict[str, float], history: list[dict[str, float]],
    ) -> Row:  # fmt: skip
        details = Path("details") / f"{name}-{seed}-{checkpoint}.json"
        write_json(folder / details, {**said.details(), "history": history})
        here = known.get(family, Row(family, 0, "last", {}))
        return Row(name, seed, checkpoint, metrics, here.size, here.latency, cost | here.cost, str(details))

    rows = [row("teacher", 0, "last", "teacher", taught, taught.metrics(), teacher_cost or {}, teacher_history or [])]
    first: dict[str, Any] = {}
    read = ""
    for each in candidates:
        module = each.load()
        weights = f"{each.name} {each.seed} {weights_hash([module])}"
        if weights != read:  # validation often selects the last weights
            said: Any = predict(module, test, label=f"test: {each.name}, seed {each.seed}", workers=workers)
            metrics, read = said.metrics() | said.fidelity(taught), weights
        rows.append(row(each.name, each.seed, each.checkpoint, each.family, said, metrics, each.cost, each.history))
        if each.name in (ALONE, DISTILLED):
            first.setdefault(each.name, said)
    if DISTILLED in first:
        shown = task.examples(test, first[DISTILLED], taught, first.get(ALONE))
        if shown is not None:
            write_json(folder / "details" / "examples.json", shown)
    return rows


def eager_costs(task: Task, candidates: Sequence[Candidate], teacher: Teacher, example: Batch) -> dict[str, Row]:
    """By family, and of the teacher, a row with sizes and the latency in eager PyTorch."""
    one_each = {candidate.family: candidate for candidate in candidates}
    modules = {family: candidate.load().to("cpu").eval() for family, candidate in one_each.items()}
    runs = {family: task.run(module) for family, module in modules.items()}
    teachers = list(teacher.modules())
    # What a model costs is the same whether students learn from it or from its stored answers.
    live = teacher.fallback if isinstance(teacher, Stored) else teacher
    if isinstance(live, Live):
        modules["teacher"], home = live.model, next(live.model.parameters()).device
        live.model.to("cpu").eval()
        prepare, run = live.prepare, task.run(live.model)
        runs["teacher"] = lambda batch: run(prepare(batch))
    latencies = latency({name: eager(module, runs[name], example) for name, module in modules.items()})
    sizes = {name: size_of(module, example, runs[name]) for name, module in modules.items()}
    if isinstance(live, Live):
        live.model.to(home)  # students may be compared with what it says, batch by batch
    if "teacher" not in sizes and teachers:
        sizes["teacher"] = {
            "parameters": float(sum(p.numel() for module in teachers for p in module.parameters())),
            "bytes": float(sum(t.numel() * t.element_size() for m in teachers for t in m.state_dict().values())),
        }
    return {name: Row(name, 0, "last", {}, size, latencies.get(name, {})) for name, size in sizes.items()}


def claims(rows: Sequence[Row], metrics: Sequence[str]) -> list[Claim]:
    """Distilled against alone, for each setting and generation, over the seeds that both have, at their last
    checkpoints; later generations against the first as well."""
    by_name = _by_name(rows)
    found = []
    for name in by_name:
        model, _, setting = name.partition("@")
        if not model.startswith(DISTILLED):
            continue
        for other in (ALONE, DISTILLED) if model != DISTILLED else (ALONE,):
            own = setting_name(other, setting)
            # A setting in which the student alone would be the same shares the first setting's.
            found += _paired(by_name, name, own if own in by_name else other, metrics)
    return found


def chain_claims(rows: Sequence[Row], names: Sequence[str], metrics: Sequence[str]) -> list[Claim]:
    """Of rows that were made step by step each against the same without its last step, and against the student alone,
    over the seeds that both have, at their last checkpoints."""
    by_name = _by_name(rows)
    found = []
    for name in names:
        before = name.rpartition("+")[0]
        others = dict.fromkeys(other for other in (before, ALONE) if other and other != name)
        for other in others:
            if name not in (ALONE, DISTILLED):  # which `claims` compares
                found += _paired(by_name, name, other, metrics)
    return found


def method_claims(
    rows: Sequence[Row], methods: Sequence[str], baselines: Sequence[str], metrics: Sequence[str]
) -> list[Claim]:
    """Each method against each baseline, over the seeds that both have, at their last checkpoints; p-values are also
    given corrected for the number of methods that met the baseline."""
    by_name = _by_name(rows)
    found = []
    for baseline in baselines:
        each = [_paired(by_name, name, baseline, metrics) for name in methods if name != baseline]
        for metric in metrics:
            family = [claim for of_method in each for claim in of_method if claim.metric == metric]
            corrected = holm([claim.p for claim in family])
            found += [replace(claim, p_holm=p) for claim, p in zip(family, corrected, strict=True)]
    return found


def _by_name(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """The rows of last checkpoints by name and seed."""
    by_name: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row.checkpoint == "last":
            by_name[row.name][row.seed] = row
    return by_name


def _paired(by_name: dict[str, dict[int, Row]], a: str, b: str, metrics: Sequence[str]) -> list[Claim]:
    """`a` against `b` over the seeds that both have, for each metric that all of these have."""
    mine, theirs = by_name.get(a, {}), by_name.get(b, {})
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds:
        return []
    return [
        paired(metric, a, b, [mine[seed].metrics[metric] for seed in seeds], [theirs[s].metrics[metric] for s in seeds])
        for metric in metrics
        if all(metric in each[seed].metrics for each in (mine, theirs) for seed in seeds)
    ]


def versions() -> dict[str, str]:
    """What a result depends on: Python, the libraries, the processor and the threads used."""
    found = {"python": platform.python_version(), "processor": processor()}
    for package in ("limbeck", "torch", "torchvision", "transformers", "accelerate", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["threads"] = str(torch.get_num_threads())
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found
