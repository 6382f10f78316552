"""The table of a run: a line for each model and checkpoint, the same numbers in HTML and in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from limbeck.measures import MEASURES
from limbeck.metrics import mean_std
from limbeck.report.groups import Group, Kind, all_groups
from limbeck.report.words import main_measure
from limbeck.results import Results

Format = Callable[[float, float | None], str]

MISSING = "–"


def _percent(mean: float, std: float | None) -> str:
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def _plain(mean: float, std: float | None) -> str:
    return f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")


def time_text(mean: float, std: float | None) -> str:
    """A time in its unit, with as many figures as say something."""
    digits = 3 if mean < 1 else 2 if mean < 100 else 1
    return f"{mean:,.{digits}f}" + ("" if std is None else f" ± {std:,.{digits}f}")


def scaled(value: float, std: float | None = None, unit: str = "") -> str:
    """A count or a number of bytes with its decimal prefix: `1.24 M`, `4.96 MB`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            digits = 2 if abs(value) < 10 * factor else 1 if abs(value) < 100 * factor else 0
            spread = f" ± {std / factor:.{digits}f}" if std else ""
            return f"{value / factor:.{digits}f}{spread} {prefix}{unit}"
    spread = f" ± {std:.0f}" if std else ""
    return f"{value:,.0f}{spread}" + (f" {unit}" if unit else "")


def bytes_text(mean: float, std: float | None) -> str:
    """A number of bytes with its decimal prefix."""
    return scaled(mean, std, "B")


@dataclass(frozen=True, slots=True)
class Column:
    """A measure: where a row has it, its heading, its direction (`↑` more is better) and what it means."""

    kind: Kind
    key: str
    title: str
    direction: str
    meaning: str
    show: Format

    def cell(self, group: Group) -> str:
        """Mean ± standard deviation over the seeds, or a dash."""
        values = group.values(self.kind, self.key)
        if not values:
            return MISSING
        mean, std = mean_std(values)
        # A size or a latency that was measured once for all seeds has no spread to tell.
        return self.show(mean, std if len(values) > 1 and (std > 0 or self.kind == "metrics") else None)


COLUMNS = (
    *(
        Column(
            "metrics",
            each.key,
            each.heading,
            "↓" if each.lower else "↑",
            each.meaning,
            _percent if each.share else _plain,
        )
        for each in MEASURES.values()
    ),
    Column("size", "parameters", "parameters", "↓", "trained numbers in the model", scaled),
    Column("size", "bytes", "size", "↓", "bytes of the weights", bytes_text),
    Column("size", "flops", "FLOPs", "↓", "floating-point operations a sample", scaled),
    Column("latency", "p50", "latency, ms", "↓", "median time of a forward pass", time_text),
    Column("cost", "train_seconds", "training, s", "↓", "time to train", time_text),
    Column(
        "cost",
        "peak_memory_bytes",
        "peak memory",
        "↓",
        "most memory while training, above what was in use before",
        bytes_text,
    ),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: which model, and a cell a column."""

    group: Group
    cells: tuple[str, ...]


def table(results: Results) -> tuple[list[Column], list[Line]]:
    """The columns that any row has, and a line for each model and checkpoint."""
    groups = all_groups(results)
    columns = [c for c in COLUMNS if any(group.values(c.kind, c.key) for group in groups)]
    return columns, [Line(group, tuple(column.cell(group) for column in columns)) for group in groups]


TERMINAL = ("agreement", "parameters", "p50")
"""The columns that fit a terminal beside the one that decides; the page has all of them."""


def terminal_table(results: Results) -> Table:
    """A line for each model and checkpoint, the columns that a terminal has room for; mean ± deviation over seeds."""
    columns, lines = table(results)
    keys = (main_measure(results).key, *TERMINAL)
    shown = [index for index, column in enumerate(columns) if column.key in keys]
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    view.add_column("model", overflow="fold")  # where there is no room a name breaks, a number never
    for index in shown:
        heading = f"{columns[index].title} {columns[index].direction}".replace(", ", "\n")
        widest = max(len(text) for text in (*heading.splitlines(), *(line.cells[index] for line in lines)))
        view.add_column(heading, justify="right", no_wrap=True, min_width=widest)
    for line in lines:
        style = "bold" if line.group.role == "distilled" else ""
        # Text, not str: a name with brackets is not markup.
        name = Text(f"{line.group.label}, {line.group.checkpoint}")
        view.add_row(name, *(line.cells[index] for index in shown), style=style)
    return view
