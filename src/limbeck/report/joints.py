"""How well each joint is found, by model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.report.details import Details
from limbeck.report.groups import Group


@dataclass(frozen=True, slots=True)
class JointLine:
    """A joint, in how many poses it is annotated, and the percentage of these in which each model finds it (None: it is
    never annotated)."""

    name: str
    annotated: int
    found: tuple[float | None, ...]


def joint_lines(found: Sequence[tuple[Group, list[Details]]]) -> tuple[list[Group], list[JointLine]]:
    """The models that have such a table, and PCK@0.1 of each joint in percent, averaged over seeds."""
    shown = [(group, own) for group, details in found if (own := [each for each in details if each.joints])]
    if not shown:
        return [], []
    lines = []
    for joint in shown[0][1][0].joints:
        shares = [
            [same.pck10 for each in details for same in each.joints if same.joint == joint.joint]
            for _, details in shown
        ]
        means = tuple(_mean([share for share in seeds if share is not None]) for seeds in shares)
        lines.append(JointLine(joint.joint, joint.annotated, means))
    return [group for group, _ in shown], lines


def _mean(shares: Sequence[float]) -> float | None:
    return 100 * sum(shares) / len(shares) if shares else None
