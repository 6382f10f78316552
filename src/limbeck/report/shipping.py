"""Which of the models that a run compared to ship: a sentence, the Pareto front, and all that each costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from limbeck.measures import Measure
from limbeck.metrics import mean_std
from limbeck.report.groups import ROLES, Group, Kind, main_groups
from limbeck.report.svg import INK, WIDE, Picture, colour_of, draw, logarithmic
from limbeck.report.table import MISSING, Column, bytes_text, scaled, time_text
from limbeck.report.tradeoffs import Cost, on_front
from limbeck.report.words import amount, main_measure
from limbeck.results import Results

ALIKE = 0.05
"""Latencies, and bytes, that differ by no more than this share count as the same: then the smaller, or better, model
is named."""

FRONTS: tuple[Cost, ...] = (
    ("latency", "p50", 1e-3, "median latency", "s"),
    ("size", "bytes", 1.0, "size on disk", "B"),
)

CHOSEN = "The choice is by means over the seeds on the test split, which flatters; there is an artifact of each seed."

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
    timed = [group for group in groups if "runtime" in group.rows[0].latency]
    devices = dict.fromkeys(f"{said(group, 'runtime')} on {said(group, 'device')}" for group in timed)
    threads = dict.fromkeys(str(group.rows[0].latency["threads"]) for group in timed)
    where = f"{', '.join(devices)}, {'/'.join(threads)} {'thread' if list(threads) == ['1'] else 'threads'}"
    return Shipping(sentences(results), measure.heading, columns, lines, where, _fronts(groups, measure))


def _fronts(groups: Sequence[Group], measure: Measure) -> list[Picture]:
    """The models against latency and size, each where two have both."""
    pictures = []
    for kind, key, factor, name, unit in FRONTS:
        shown = [each for each in groups if each.values("metrics", measure.key) and each.values(kind, key)]
        if len(shown) > 1:
            xs = [factor * _number(each, kind, key) for each in shown]
            best = on_front(xs, [measure.rank(each.mean("metrics", measure.key)) for each in shown])
            paint = partial(_front, groups=shown, measure=measure, xs=xs, name=name, unit=unit, front=best)
            figure, title = EngFormatter(unit, places=1), f"{measure.name} against {name}"
            text = "; ".join(f"{g.label} {_value(measure, g)} at {figure(x)}" for g, x in zip(shown, xs, strict=True))
            text += f"; on the Pareto front: {', '.join(shown[index].label for index in best)}"
            pictures.append(Picture(title, f"{title}: {text}.", draw(paint, WIDE)))
    return pictures


def _front(
    axes: Axes, groups: Sequence[Group], measure: Measure, xs: Sequence[float], name: str, unit: str,
    front: Sequence[int],
) -> None:  # fmt: skip
    """A colour for what was trained, a circle in fp32 and a square in int8; what is not on the front is hollow."""
    if min(xs) > 0 and max(xs) / min(xs) > 4:
        logarithmic(axes, "x")
    trained = list(dict.fromkeys(_trained(each) for each in groups))
    others = [each for each in trained if each not in ROLES]
    ys = [measure.factor * _number(each, "metrics", measure.key) for each in groups]
    for index, (group, x, y) in enumerate(zip(groups, xs, ys, strict=True)):
        origin = _trained(group)
        colour = colour_of(replace(group, name=origin, hue=others.index(origin) if origin in others else 0))
        deviation = mean_std([measure.factor * each for each in group.values("metrics", measure.key)])[1]
        axes.errorbar(
            x, y, yerr=deviation if len(group.rows) > 1 else None, fmt="s" if "int8" in group.name else "o",
            color=colour, markerfacecolor=colour if index in front else "none", capsize=2.5, elinewidth=1,
            label=group.label,
        )  # fmt: skip
    axes.plot([xs[i] for i in front], [ys[i] for i in front], "--", color=INK, linewidth=0.9, alpha=0.6, zorder=0)
    axes.margins(x=0.08, y=0.12)
    if measure.share:
        axes.set_ylim(top=min(axes.get_ylim()[1], 101.0))
    axes.xaxis.set_major_formatter(EngFormatter(unit))
    axes.set_xlabel(name)
    axes.set_ylabel(measure.heading)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, handletextpad=0.3)


def _trained(group: Group) -> str:
    """A model's name without its int8: of the teacher's int8 the teacher."""
    return "+".join(step for step in group.name.split("+") if not step.startswith("int8")) or "teacher"


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
        found = [_shipped(results, chosen), *_smallest(results, chosen), CHOSEN]
    elif groups:
        found = ["Which to ship is not said, as no latency could be quoted."]
    refused = {each.label: str(each.rows[0].latency["refused"]) for each in groups if _refused(each)}
    if refused:
        found.append(f"No latency is quoted of {', '.join(refused)}: {next(iter(refused.values()))}.")
    return found


def _shipped(results: Results, chosen: Group) -> str:
    measure, teacher = main_measure(results), next((g for g in _compared(results) if g.role == "teacher"), None)
    best = _best([each for each in _candidates(results) if each.values("latency", "p50")], measure)
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
        itself = " itself is faster: it" if slow < 1 else ""
        text += (
            f"; the teacher{itself} has {_value(measure, teacher)} in {_costs(teacher)}, {slow:.1f} × the time and "
            f"{large:.1f} × the bytes"
        )
    return f"{text}."


def _smallest(results: Results, chosen: Group) -> list[str]:
    measure, able = main_measure(results), _candidates(results)
    fewest = min(_number(each, *BYTES) for each in able)
    smallest = _best([each for each in able if _number(each, *BYTES) <= fewest * (1 + ALIKE)], measure)
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
