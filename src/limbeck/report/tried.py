"""The page of a fit: everything that was tried against what it costs, the budget, and the model that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from limbeck.files import write_text
from limbeck.measures import Measure
from limbeck.report.render import page_environment
from limbeck.report.svg import ALONE, DISTILLED, INK, TEACHER, WIDE, Picture, draw, logarithmic
from limbeck.report.table import MISSING, bytes_text, scaled, time_text
from limbeck.report.tradeoffs import on_front

AXES = (("latency", 1e-3, "median latency", "s"), ("bytes", 1.0, "size on disk", "B"), ("flops", 1.0, "FLOPs", ""))
COLOURS = {"chosen": DISTILLED, "tried": INK, "teacher": TEACHER, "over": ALONE}


@dataclass(frozen=True, slots=True)
class Tried:
    """A model that a fit looked at.

    Attributes:
        name: with its precision where that is int8.
        cost: `latency` in milliseconds, `bytes`, `flops`, `parameters`; what is not known is left out.
        value: what it reached on validation; None where it was not trained.
        steps: of training that it had.
        role: `chosen`, `tried`, `teacher`, or `over` the budget.
        fate: what became of it, in words.
    """

    name: str
    cost: dict[str, float]
    value: float | None
    steps: int
    role: str
    fate: str


@dataclass(frozen=True, slots=True)
class FitPage:
    """What the page shows: `limits` are the budget's by the names of costs; `where` is the target and the machine."""

    title: str
    sentences: list[str]
    measure: Measure
    tried: list[Tried]
    limits: dict[str, float]
    where: str
    tests: list[tuple[str, str]]
    recipe: str
    versions: dict[str, str]


def write_fit(page: FitPage, path: Path) -> None:
    """Writes the page to `path`, one HTML file that opens offline."""
    lines = [(each, *cells(each, page.measure)) for each in page.tried]
    template = page_environment().get_template("fit.html.j2")
    write_text(path, template.render(page=page, lines=lines, pictures=figures(page)))


def cells(tried: Tried, measure: Measure) -> tuple[str, ...]:
    """Validation, latency, size, FLOPs, parameters and steps as text."""
    cost = tried.cost
    return (
        MISSING if tried.value is None else measure.text(tried.value, 2),
        MISSING if "latency" not in cost else time_text(cost["latency"], None),
        MISSING if "bytes" not in cost else bytes_text(cost["bytes"], None),
        MISSING if "flops" not in cost else scaled(cost["flops"]),
        MISSING if "parameters" not in cost else scaled(cost["parameters"]),
        f"{tried.steps:,}" if tried.steps else MISSING,
    )


def figures(page: FitPage) -> list[Picture]:
    """What was reached against each cost that the budget limits, or against latency."""
    pictures = []
    for key, factor, name, unit in AXES:
        shown = [each for each in page.tried if each.value is not None and key in each.cost]
        if len(shown) < 2 or (key not in page.limits and key != "latency"):
            continue
        limit = page.limits.get(key)
        paint = partial(
            _painted, tried=shown, measure=page.measure, key=key, factor=factor, name=name, unit=unit,
            limit=None if limit is None else limit * factor,
        )  # fmt: skip
        figure = EngFormatter(unit, places=1)
        text = "; ".join(
            f"{each.name} {page.measure.text(each.value or 0.0)} at {figure(factor * each.cost[key])}" for each in shown
        )
        title = f"Validation {page.measure.title} against {name}"
        pictures.append(Picture(title, f"{title}: {text}.", draw(paint, WIDE)))
    return pictures


def _painted(
    axes: Axes, tried: Sequence[Tried], measure: Measure, key: str, factor: float, name: str, unit: str,
    limit: float | None,
) -> None:  # fmt: skip
    xs = [factor * each.cost[key] for each in tried]
    ys = [measure.factor * (each.value or 0.0) for each in tried]
    if min(xs) > 0 and max([*xs, limit or 0.0]) / min(xs) > 4:
        logarithmic(axes, "x")
    for each, x, y in zip(tried, xs, ys, strict=True):
        axes.plot(x, y, "*" if each.role == "chosen" else "o", color=COLOURS[each.role],
                  markersize=11 if each.role == "chosen" else 5)  # fmt: skip
    front = on_front(xs, [measure.rank(each.value) for each in tried])
    axes.plot([xs[i] for i in front], [ys[i] for i in front], "--", color=INK, linewidth=0.9, alpha=0.6, zorder=0)
    if limit is not None:
        axes.axvline(limit, color=ALONE, linewidth=1)
        axes.annotate("budget", (limit, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0),
                      textcoords="offset points", color=ALONE)  # fmt: skip
    for turn, index in enumerate(front):
        axes.annotate(tried[index].name, (xs[index], ys[index]), xytext=(0, 8 if turn % 2 else -12),
                      textcoords="offset points", ha="center", fontsize=7)  # fmt: skip
    axes.margins(x=0.2, y=0.2)
    if measure.share:
        axes.set_ylim(top=min(axes.get_ylim()[1], 103.0))
    axes.xaxis.set_major_formatter(EngFormatter(unit))
    axes.set_xlabel(name)
    axes.set_ylabel(f"validation {measure.heading}")
