"""Rows: what was measured, on disk as JSON. Everything that measures writes them, everything that shows reads them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.files import read_json, write_json

Measures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One measured model.

    `name` is `teacher`, `alone` or `distilled`, followed by `@setting` for a recipe's second settings;
    `checkpoint` is `last` or `selected`; metrics are fractions (accuracy 0.98), sizes are in bytes and counts,
    latencies in milliseconds, costs in seconds and bytes. `details` is the file beside `results.json` that holds
    curves and confusion, relative to it; empty where there is none.
    """

    name: str
    seed: int
    checkpoint: str
    metrics: Measures
    size: Measures = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    cost: Measures = field(default_factory=dict)
    details: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A paired comparison over seeds: is `a` better than `b`?

    `p` is two-sided; None where it cannot be computed. `p_holm` is `p` corrected for all models that were compared with
    `b`, where there are several (Holm 1979).
    """

    metric: str
    a: str
    b: str
    mean_a: float
    mean_b: float
    std_a: float
    std_b: float
    p: float | None
    seeds: int
    p_holm: float | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """A run's account: its recipe, the versions it ran with, its rows and claims, and what the run saw (`notes`)."""

    recipe: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row]
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def named(self, name: str, checkpoint: str = "last") -> list[Row]:
        """The rows of one model, a seed each, in seed order."""
        rows = [row for row in self.rows if row.name == name and row.checkpoint == checkpoint]
        return sorted(rows, key=lambda row: row.seed)

    def write(self, path: Path) -> None:
        """Writes the results as JSON, whole or not at all."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Results:
        """Reads what `write` wrote; anything else is a LimbeckError that names the file."""
        data = read_json(path)
        try:
            return cls(
                recipe=data["recipe"],
                versions=data["versions"],
                rows=[Row(**row) for row in data["rows"]],
                claims=[Claim(**claim) for claim in data["claims"]],
                notes=data.get("notes", []),
            )
        except (KeyError, TypeError) as error:
            raise LimbeckError(f"{path}: not a limbeck results file ({error}); run the recipe again") from None
