"""Accuracy against what it costs: a point a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from limbeck.measures import Measure
from limbeck.metrics import mean_std
from limbeck.report.groups import Group, Kind
from limbeck.report.svg import MEDIUM, Picture, colour_of, draw, logarithmic

Cost = tuple[Kind, str, float, str, str]

COSTS: tuple[Cost, ...] = (
    ("size", "parameters", 1.0, "parameters", ""),
    ("size", "bytes", 1.0, "size of the weights", "B"),
    ("latency", "p50", 1e-3, "median latency", "s"),
)
"""Where a row has a cost, its factor to the unit, its name and its unit."""

TRAINING: Cost = ("cost", "train_seconds", 1.0, "time to train", "s")

MARKERS = ("o", "s", "^", "D", "v")
LABEL_GAP = 0.075


def tradeoffs(groups: list[Group], measure: Measure, costs: Sequence[Cost] = COSTS) -> list[Picture]:
    """A measure against parameters, bytes and latency, or other costs, each where at least two models have both."""
    pictures = []
    for kind, key, factor, name, unit in costs:
        figure = EngFormatter(unit, places=1)
        shown = [g for g in groups if g.values("metrics", measure.key) and g.values(kind, key)]
        if len(shown) < 2:
            continue
        points = [factor * (g.mean(kind, key) or 0.0) for g in shown]
        text = "; ".join(
            f"{g.label} {measure.text(g.mean('metrics', measure.key) or 0.0)} at {figure(x)}"
            for g, x in zip(shown, points, strict=True)
        )
        svg = draw(partial(_scatter, groups=shown, measure=measure, xs=points, name=name, unit=unit), MEDIUM)
        title = f"{measure.name} against {name}"
        pictures.append(Picture(title, f"{title}: {text}.", svg))
    return pictures


def on_front(costs: Sequence[float], ranks: Sequence[float]) -> list[int]:
    """The places of those that no other equals or beats in both cost (lower) and rank (higher), the cheapest first."""
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda each: (costs[each], -ranks[each])):
        if not front or ranks[index] > ranks[front[-1]]:
            front.append(index)
    return front


def _scatter(axes: Axes, groups: list[Group], measure: Measure, xs: list[float], name: str, unit: str) -> None:
    if min(xs) > 0 and max(xs) / min(xs) > 4:
        logarithmic(axes, "x")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    settings = list(dict.fromkeys(group.setting for group in groups))
    heights = []
    for group, x in zip(groups, xs, strict=True):
        mean, std = mean_std([measure.factor * v for v in group.values("metrics", measure.key)])
        heights.append(mean)
        axes.errorbar(
            x,
            mean,
            yerr=std if len(group.rows) > 1 else None,
            fmt=MARKERS[settings.index(group.setting) % len(MARKERS)],
            color=colour_of(group),
            capsize=2.5,
            elinewidth=1,
        )
    axes.margins(x=0.28, y=0.18)
    if measure.share:
        axes.set_ylim(top=min(axes.get_ylim()[1], 101.0))
    axes.xaxis.set_major_formatter(EngFormatter(unit))
    axes.set_xlabel(name)
    axes.set_ylabel(measure.heading)
    _label(axes, groups, xs, heights)


def _label(axes: Axes, groups: list[Group], xs: list[float], ys: list[float]) -> None:
    """Names beside the points; those on one side are pushed apart upwards, so that none lies on another."""
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [tuple(to_axes.transform((x, y))) for x, y in zip(xs, ys, strict=True)]
    taken: dict[bool, float] = {}
    for index in sorted(range(len(groups)), key=lambda i: places[i][1]):
        x, y = places[index]
        left = x > 0.5
        height = max(y, taken.get(left, -1.0) + LABEL_GAP)
        taken[left] = height
        axes.annotate(
            groups[index].label,
            (x, height),
            xycoords="axes fraction",
            xytext=(-8 if left else 8, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            color=colour_of(groups[index]),
            annotation_clip=False,
        )
