"""Accuracy against what it costs: a point a model."""

from __future__ import annotations

from functools import partial

from matplotlib.axes import Axes

from limbeck.metrics import mean_std
from limbeck.report.groups import Group, Kind
from limbeck.report.svg import MEDIUM, Picture, colour_of, draw, logarithmic

COSTS: tuple[tuple[Kind, str, float, str, str], ...] = (
    ("size", "parameters", 1e6, "parameters", "parameters, millions"),
    ("size", "bytes", 1e6, "size", "size of the weights, MB"),
    ("latency", "p50", 1.0, "latency", "latency, ms (median)"),
)
MARKERS = ("o", "s", "^", "D", "v")
LABEL_GAP = 0.075


def tradeoffs(groups: list[Group]) -> list[Picture]:
    """Accuracy against parameters, bytes and latency, each where at least two models have both."""
    pictures = []
    for kind, key, unit, title, axis in COSTS:
        shown = [g for g in groups if g.values("metrics", "accuracy") and g.values(kind, key)]
        if len(shown) < 2:
            continue
        points = [(g.mean(kind, key) or 0.0) / unit for g in shown]
        text = "; ".join(
            f"{g.label} {100 * (g.mean('metrics', 'accuracy') or 0):.1f} % at {x:.3g}"
            for g, x in zip(shown, points, strict=True)
        )
        svg = draw(partial(_scatter, groups=shown, xs=points, axis=axis), MEDIUM)
        pictures.append(Picture(f"Accuracy against {title}", f"Accuracy against {axis}: {text}.", svg))
    return pictures


def _scatter(axes: Axes, groups: list[Group], xs: list[float], axis: str) -> None:
    if min(xs) > 0 and max(xs) / min(xs) > 4:
        logarithmic(axes, "x")
    settings = list(dict.fromkeys(group.setting for group in groups))
    heights = []
    for group, x in zip(groups, xs, strict=True):
        mean, std = mean_std([100 * v for v in group.values("metrics", "accuracy")])
        heights.append(mean)
        axes.errorbar(
            x,
            mean,
            yerr=std if len(group.rows) > 1 else None,
            fmt=MARKERS[settings.index(group.setting) % len(MARKERS)],
            color=colour_of(group.role),
            capsize=2.5,
            elinewidth=1,
        )
    axes.margins(x=0.28, y=0.18)
    axes.set_xlabel(axis)
    axes.set_ylabel("accuracy, %")
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
            color=colour_of(groups[index].role),
            annotation_clip=False,
        )
