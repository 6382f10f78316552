"""Where two models err differently: confusion of one minus that of the other, and F1 by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from limbeck.report.details import Details
from limbeck.report.groups import Group
from limbeck.report.svg import BAD, GOOD, Picture, draw, short

DRAWN_CLASSES = 20
WRITTEN_CLASSES = 12
TOP_PAIRS = 15
FULL_COLOUR = 0.85


@dataclass(frozen=True, slots=True)
class Pair:
    """A confusion: percent of the true class's samples in each of two models, and the difference."""

    truth: str
    predicted: str
    of_student: float
    of_other: float
    difference: float


@dataclass(frozen=True, slots=True)
class ClassLine:
    """A class's support, its F1 in percent in each model, and distilled minus alone."""

    name: str
    support: int
    f1: tuple[float, ...]
    difference: float | None


def rates(details: Sequence[Details]) -> np.ndarray | None:
    """Percent of each true class (row) given to each class (column), averaged over seeds, or None."""
    matrices = [np.array(d.confusion, dtype=np.float64) for d in details if d.confusion]
    if not matrices:
        return None
    total = np.sum(matrices, axis=0)
    mean: np.ndarray = 100 * total / np.maximum(total.sum(axis=1, keepdims=True), 1)
    return mean


def difference_figure(student: str, other: str, classes: list[str], change: np.ndarray) -> Picture | None:
    """The change as a matrix, blue where the student is better; None with too many classes to read."""
    count = len(classes)
    if count > DRAWN_CLASSES:
        return None
    strongest = max(float(np.abs(change).max()), 1e-9)

    def paint(axes: Axes) -> None:
        for row, column in np.ndindex(change.shape):
            value = float(change[row, column])
            if abs(value) < 0.05:
                continue
            better = (value > 0) == (row == column)
            alpha = FULL_COLOUR * max(abs(value) / strongest, 0.06)
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, color=GOOD if better else BAD, alpha=alpha, linewidth=0)
            )
            if count <= WRITTEN_CLASSES:
                text = f"{value:+.1f}".replace("-", "−")
                axes.text(column, row, text, ha="center", va="center", fontsize=8 if count <= 8 else 6.6)
        names = [short(name, 12) for name in classes]
        size = 8 if count <= WRITTEN_CLASSES else 6
        turned = max(map(len, names)) > 2
        axes.set_xticks(range(count), names, rotation=90 if turned else 0, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.set(
            xlim=(-0.5, count - 0.5),
            ylim=(count - 0.5, -0.5),
            xlabel="predicted",
            ylabel="true",
            aspect="equal",
        )
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[["top", "right"]].set_visible(True)

    row, column = np.unravel_index(int(np.abs(change).argmax()), change.shape)
    text = (
        f"Confusion of {student} minus that of {other}, in percent of the true class. The largest change: "
        f"{classes[row]} taken for {classes[column]}, {change[row, column]:+.1f} points."
    )
    return Picture(f"{student.capitalize()} minus {other}", text, draw(paint, (4.6, 4.4)))


def top_pairs(classes: list[str], of_student: np.ndarray, of_other: np.ndarray) -> list[Pair]:
    """The confusions, never the right answers, whose rates differ most."""
    change = of_student - of_other
    away = np.where(np.eye(len(classes), dtype=bool), 0.0, np.abs(change))
    order = np.argsort(-away, axis=None, kind="stable")[:TOP_PAIRS]
    places = [divmod(int(index), len(classes)) for index in order]
    return [
        Pair(classes[i], classes[j], float(of_student[i, j]), float(of_other[i, j]), float(change[i, j]))
        for i, j in places
        if away[i, j] > 0
    ]


def class_lines(found: Sequence[tuple[Group, list[Details]]]) -> tuple[list[Group], list[ClassLine]]:
    """F1 of each class in each model, averaged over seeds; with many classes the largest loss comes first."""
    shown = [(g, [d for d in details if d.per_class and d.classes]) for g, details in found]
    shown = [(g, details) for g, details in shown if details]
    if not shown:
        return [], []
    groups = [group for group, _ in shown]
    columns = [np.mean([d.per_class.f1 for d in details if d.per_class], axis=0) for _, details in shown]
    first = shown[0][1][0]
    support = first.per_class.support if first.per_class else []
    names = [group.name for group in groups]
    pair = (names.index("distilled"), names.index("alone")) if {"distilled", "alone"} <= set(names) else None
    lines = []
    for index, name in enumerate(first.classes):
        f1 = tuple(100 * float(column[index]) for column in columns)
        change = f1[pair[0]] - f1[pair[1]] if pair else None
        lines.append(ClassLine(name, support[index], f1, change))
    if len(lines) > DRAWN_CLASSES and pair:
        lines.sort(key=lambda line: line.difference or 0.0)
    return groups, lines
