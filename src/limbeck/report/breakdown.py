"""How well each joint, or each class of objects, is found, by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.report.details import Breakdown, Details
from limbeck.report.groups import Group


@dataclass(frozen=True, slots=True)
class PartLine:
    """A part, how often it is annotated, and in percent how well each model finds it (None: nobody knows)."""

    name: str
    annotated: int
    found: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class BreakdownTable:
    """What the table says in words, the models in it, and a line for each part."""

    about: Breakdown
    groups: list[Group]
    lines: list[PartLine]


def breakdown_table(found: Sequence[tuple[Group, list[Details]]]) -> BreakdownTable | None:
    """The share of each part in percent, averaged over seeds; None where no model has such a table."""
    shown = [
        (group, own) for group, details in found if (own := [each.breakdown for each in details if each.breakdown])
    ]
    if not shown:
        return None
    lines = []
    about = shown[0][1][0]
    for part in about.parts:
        shares = [
            [same.share for each in tables for same in each.parts if same.name == part.name] for _, tables in shown
        ]
        means = tuple(_mean([share for share in seeds if share is not None]) for seeds in shares)
        lines.append(PartLine(part.name, part.annotated, means))
    return BreakdownTable(about, [group for group, _ in shown], lines)


def _mean(shares: Sequence[float]) -> float | None:
    return 100 * sum(shares) / len(shares) if shares else None
