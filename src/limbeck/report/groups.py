"""The rows of a result grouped into models, in the order in which a reader compares them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from limbeck.measures import Measure
from limbeck.metrics import mean_std
from limbeck.report.words import main_measure
from limbeck.results import Results, Row

Kind = Literal["metrics", "size", "latency", "cost"]

ROLES = ("teacher", "alone", "distilled")
CHECKPOINTS = ("last", "selected")

BEST = 4
"""How many methods of a comparison figures show beside plain KD."""


@dataclass(frozen=True, slots=True)
class Group:
    """One model at one checkpoint: a row a seed, in seed order. `name` is as in `Row`: `role@setting`."""

    name: str
    checkpoint: str
    rows: tuple[Row, ...]
    hue: int = 0
    """Which of the colours for other names it has."""

    @property
    def role(self) -> str:
        """`teacher`, `alone`, `distilled`, or another name that was measured."""
        return self.name.partition("@")[0]

    @property
    def setting(self) -> str:
        """The recipe's second setting; empty for the first."""
        return self.name.partition("@")[2]

    @property
    def generation(self) -> int:
        """1 for the distilled student, 2 for the one that it taught, …; 0 for other models."""
        role, _, number = self.role.partition("-gen")
        return (int(number) if number.isdigit() else 1) if role == "distilled" else 0

    @property
    def label(self) -> str:
        """The name as it reads in a table or a legend."""
        return f"{self.role}, {self.setting}" if self.setting else self.role

    def values(self, kind: Kind, key: str) -> list[float]:
        """A measure of every seed that has it as a finite number."""
        found = (getattr(row, kind).get(key) for row in self.rows)
        return [float(v) for v in found if isinstance(v, int | float) and math.isfinite(v)]

    def mean(self, kind: Kind, key: str) -> float | None:
        """The mean over seeds; None where no seed has the measure."""
        values = self.values(kind, key)
        return mean_std(values)[0] if values else None


def all_groups(results: Results) -> list[Group]:
    """Every model and checkpoint: teacher, alone, distilled and others, setting by setting, `last` first."""
    names = list(dict.fromkeys(row.name for row in results.rows))
    settings = list(dict.fromkeys(["", *(name.partition("@")[2] for name in names)]))

    def rank(group: Group) -> tuple[int, int, int, int]:
        role = ROLES.index(group.role) if group.role in ROLES else len(ROLES)
        last = CHECKPOINTS.index(group.checkpoint) if group.checkpoint in CHECKPOINTS else len(CHECKPOINTS)
        return settings.index(group.setting), role, names.index(group.name), last

    found = dict.fromkeys((row.name, row.checkpoint) for row in results.rows)
    return sorted((Group(n, c, tuple(results.named(n, c))) for n, c in found), key=rank)


def main_groups(results: Results) -> list[Group]:
    """One group a model: its last checkpoint, or the first it has where there is no last."""
    groups: dict[str, Group] = {}
    for group in all_groups(results):
        groups.setdefault(group.name, group)
    return list(groups.values())


def compared(results: Results) -> list[str]:
    """The methods of a comparison, plain KD first; of a run, none."""
    names = {row.name for row in results.rows}
    return [name for name in results.recipe.get("methods") or {} if name in names]


def pictured_groups(results: Results) -> list[Group]:
    """The main groups that figures show, each with its colour: all, or of a comparison of methods plain KD and the best
    few."""
    groups, methods = main_groups(results), compared(results)
    best = ranked((g for g in groups if g.name in methods), main_measure(results))[:BEST]
    kept = {"kd", *(group.name for group in best)}
    groups = [group for group in groups if group.name not in methods or group.name in kept]
    others = [group.name for group in groups if group.role not in (*ROLES, "kd")]
    return [replace(g, hue=others.index(g.name)) if g.name in others else g for g in groups]


def ranked(groups: Iterable[Group], measure: Measure) -> list[Group]:
    """The best by a measure first; those without it last."""
    return sorted(groups, key=lambda group: -measure.rank(group.mean("metrics", measure.key)))


def find(groups: list[Group], role: str, setting: str = "") -> Group | None:
    """The group of a role in a setting, if it was measured."""
    name = f"{role}@{setting}" if setting else role
    return next((group for group in groups if group.name == name), None)
