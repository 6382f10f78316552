"""Matplotlib to inline SVG: text stays text, colours follow the page, nothing points outside it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from limbeck.report.groups import Group

# Colours that the style sheet replaces, so that a figure is legible in the light and in the dark page.
INK, GRID = "#24292e", "#dfe3e8"
TEACHER, ALONE, DISTILLED = "#6a737d", "#c2610c", "#1f6feb"
OTHERS = ("#8250df", "#1a7f37", "#bf3989", "#0e7c86", "#9a6700")
GOOD, BAD = "#1f6fea", "#c2610d"
VARIABLES = {
    INK: "ink",
    GRID: "grid",
    TEACHER: "teacher",
    ALONE: "alone",
    DISTILLED: "distilled",
    **{colour: f"other-{index}" for index, colour in enumerate(OTHERS)},
    GOOD: "good",
    BAD: "bad",
}

WIDE, MEDIUM, SMALL = (4.6, 3.1), (3.6, 3.0), (3.0, 2.5)

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "limbeck",
    # Class names come from the user: a dollar sign in one is not mathematics.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure for the page: `svg` is markup that `draw` made, `text` says in words what it shows."""

    title: str
    text: str
    svg: str


def draw(paint: Callable[[Axes], None], size: tuple[float, float] = WIDE) -> str:
    """The SVG element of one pair of axes that `paint` fills; `size` in inches; always the same text."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        # Only the widths are guessed for letters that the layout font lacks: the browser draws the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _clean(buffer.getvalue())


def _clean(svg: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Inside HTML neither namespaces nor a fixed size are wanted; the view box alone scales.
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head)
    svg = f"{head}>{rest}".replace("xlink:href=", "href=")
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "�", svg)


def with_unique_ids(svg: str, prefix: str) -> str:
    """The same element with every id, and every reference to one, under a prefix: figures share one page."""
    return re.sub(r'(<[^<>]*?\bid="|<[^<>]*?\bhref="#|url\(#)', rf"\g<1>{prefix}-", svg)


def colour_of(group: Group) -> str:
    """The colour of a model in every figure."""
    own = {"teacher": TEACHER, "alone": ALONE, "distilled": DISTILLED, "kd": DISTILLED}
    return own.get(group.role, OTHERS[group.hue % len(OTHERS)])


def logarithmic(axes: Axes, which: Literal["x", "y"]) -> None:
    """Makes an axis logarithmic with plain numbers at 1, 2 and 5: matplotlib's own labels are mathematics."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def short(name: str, length: int = 16) -> str:
    """A name on one line, cut where it would push a figure out of shape."""
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length - 1]}…"
