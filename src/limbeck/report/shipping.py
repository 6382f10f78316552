"""Which of the models that a run compared to ship: a sentence, the Pareto front, and all that each costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.measures import Measure
from limbeck.report.groups import Group, Kind, main_groups, pictured_groups
from limbeck.report.svg import Picture
from limbeck.report.table import MISSING, Column, bytes_text, scaled, time_text
from limbeck.report.tradeoffs import Cost, tradeoffs
from limbeck.report.words import amount, main_measure
from limbeck.results import Results

ALIKE = 0.05
"""Latencies that differ by no more than this share count as the same: then the smaller model is shipped."""

FRONTS: tuple[Cost, ...] = (
    ("latency", "p50", 1e-3, "median latency", "s"),
    ("size", "bytes", 1.0, "size on disk", "B"),
)

SPEED: tuple[Kind, str] = ("latency", "p50")
BYTES: tuple[Kind, str] = ("size", "bytes")

COLUMNS = (
    Column("size", "bytes", "size", "↓", "bytes of the file", bytes_text),
    Column("size", "parameters", "parameters", "↓", "trained numbers in the model", scaled),
    Column("size", "flops", "FLOPs", "↓", "floating-point operations a sample", scaled),
    Column("latency", "p50", "p50, ms", "↓", "median time of a sample", time_text),
    Column("latency", "p99", "p99, ms", "↓", "time within which 99 of 100 samples are done", time_text),
    Column("latency", "throughput", "samples/s", "↑", "samples a second, one after the other", scaled),
    Column("cost", "run_memory_model_bytes", "memory", "↓", "most memory above that of the libraries", bytes_text),
    Column("latency", "joules", "energy, J", "↓", "energy of a sample, where the machine counts it", time_text),
    Column("cost", "train_seconds", "training, s", "↓", "time to train", time_text),
)


@dataclass(frozen=True, slots=True)
class Shipping:
    """What the section shows.

    Attributes:
        sentences: which to ship and why, and what else there is.
        columns, lines: of each model its group, its runtime and precision, what decides, and a cell a column.
        pictures: the models against latency and size, with the front of those that none beats in both.
    """

    sentences: list[str]
    measure: str
    columns: list[Column]
    lines: list[tuple[Group, str, str, tuple[str, ...]]]
    where: str
    pictures: list[Picture]


def shipping(results: Results) -> Shipping | None:
    """The section of a run that compares models for shipping; None of other runs."""
    groups = _compared(results)
    if not groups:
        return None
    measure = main_measure(results)
    columns = [column for column in COLUMNS if any(group.values(column.kind, column.key) for group in groups)]
    lines = [
        (group, said(group, "precision"), _value(measure, group), tuple(column.cell(group) for column in columns))
        for group in groups
    ]
    devices = dict.fromkeys(f"{said(group, 'runtime')} on {said(group, 'device')}" for group in groups)
    threads = dict.fromkeys(str(group.rows[0].latency.get("threads", "")) for group in groups)
    where = f"{', '.join(devices)}, {'/'.join(threads)} {'thread' if list(threads) == ['1'] else 'threads'}"
    hues = {group.name: group for group in pictured_groups(results)}
    pictured = [hues[group.name] for group in groups if group.name in hues]
    pictures = tradeoffs(pictured, measure, FRONTS, front=True)
    return Shipping(sentences(results), measure.heading, columns, lines, where, pictures)


def recommended(results: Results) -> Group | None:
    """The fastest of the models that are within the recipe's tolerance of the best; of those that are as good as
    equally fast the smallest. None where nothing was compared or no latency may be quoted."""
    measure = main_measure(results)
    able = [each for each in _candidates(results) if each.values("latency", "p50")]
    if not able:
        return None
    top = measure.rank(_best(able, measure).mean("metrics", measure.key))
    near = [each for each in able if measure.rank(each.mean("metrics", measure.key)) >= top - tolerance(results)]
    fastest = min(_number(each, *SPEED) for each in near)
    alike = [each for each in near if _number(each, *SPEED) <= fastest * (1 + ALIKE)]
    return min(alike, key=lambda each: _number(each, *BYTES))


def tolerance(results: Results) -> float:
    """How much of the main measure a model that is shipped may be behind the best."""
    return float((results.recipe.get("quantize") or {}).get("tolerance", 0.01))


def sentences(results: Results) -> list[str]:
    """Which model to ship and why, and which others have something for them."""
    groups, chosen = _compared(results), recommended(results)
    found = []
    if chosen is not None:
        found = [_shipped(results, chosen), *_smallest(results, chosen)]
    elif groups:
        found = ["Which to ship is not said, as no latency could be quoted."]
    refused = {each.label: str(each.rows[0].latency["refused"]) for each in groups if _refused(each)}
    if refused:
        found.append(f"No latency is quoted of {', '.join(refused)}: {next(iter(refused.values()))}.")
    return found


def _shipped(results: Results, chosen: Group) -> str:
    measure, teacher = main_measure(results), next((g for g in _compared(results) if g.role == "teacher"), None)
    best = _best(_candidates(results), measure)
    why = "it is the best of the candidates, and none that comes near it is faster"
    if chosen.name != best.name:
        allowed = amount(measure, tolerance(results))
        why = f"within {allowed} of the best candidate ({best.label}, {_value(measure, best)}) nothing is faster"
    text = (
        f"Ship {chosen.label}: {why}. It has {measure.title} {_value(measure, chosen)} in {_costs(chosen)} "
        f"({said(chosen, 'runtime')}, {said(chosen, 'precision')})"
    )
    if teacher is not None and teacher.values("latency", "p50"):
        slow, large = (_number(teacher, *key) / _number(chosen, *key) for key in (SPEED, BYTES))
        text += (
            f"; the teacher has {_value(measure, teacher)} in {_costs(teacher)}, {slow:.1f} × the time and "
            f"{large:.1f} × the bytes"
        )
    return f"{text}."


def _smallest(results: Results, chosen: Group) -> list[str]:
    measure, able = main_measure(results), _candidates(results)
    smallest = min(able, key=lambda each: _number(each, *BYTES))
    if smallest.name == chosen.name:
        return []
    size = bytes_text(_number(smallest, *BYTES), None)
    return [f"If bytes matter most, {smallest.label} has {size} at {measure.title} {_value(measure, smallest)}."]


def _costs(group: Group) -> str:
    return f"{_number(group, *SPEED):.3g} ms and {bytes_text(_number(group, *BYTES), None)}"


def _refused(group: Group) -> bool:
    return bool(group.rows[0].latency.get("refused"))


def _best(groups: Sequence[Group], measure: Measure) -> Group:
    return max(groups, key=lambda each: measure.rank(each.mean("metrics", measure.key)))


def _candidates(results: Results) -> list[Group]:
    """The models that could be shipped in the teacher's place."""
    key = main_measure(results).key
    return [each for each in _compared(results) if each.role != "teacher" and each.values("metrics", key)]


def said(group: Group, key: str) -> str:
    """What a group's latency says of itself, such as its precision."""
    return str(group.rows[0].latency.get(key, MISSING))


def _compared(results: Results) -> list[Group]:
    """The teacher and the rows that the recipe compares, in the recipe's order."""
    if not (results.recipe.get("compare") or results.recipe.get("steps")):
        return []
    groups: list[Any] = [each for each in main_groups(results) if not each.setting]
    return [each for each in groups if each.generation <= 1 and not each.role.startswith("assistant")]


def _value(measure: Measure, group: Group) -> str:
    mean = group.mean("metrics", measure.key)
    return MISSING if mean is None else measure.text(mean)


def _number(group: Group, kind: Kind, key: str) -> float:
    found = group.mean(kind, key)
    return float("inf") if found is None else found
