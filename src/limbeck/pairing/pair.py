"""Which place of the student belongs to which place of the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from torch import nn

from limbeck.pairing.calls import Shape
from limbeck.pairing.survey import Survey, Values, survey
from limbeck.types import Batch

Pair = tuple[str, str]
"""A tap on the student, and one on the teacher."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """What may be compared with what.

    Attributes:
        stages: in the order of depth, the deepest last.
        embedding: what enters the heads.
        attention: of the last layers of two transformers.
        values: queries, keys and values of their last blocks.
        student_shapes, teacher_shapes: of every tap above, the batch first.
        missing: why there are no `stages`, no `embedding`, …
    """

    stages: tuple[Pair, ...]
    embedding: Pair | None
    attention: Pair | None
    values: tuple[Values, Values] | None
    student_shapes: Mapping[str, Shape]
    teacher_shapes: Mapping[str, Shape]
    missing: Mapping[str, str] = field(default_factory=dict)


def pair(student: nn.Module, teacher: nn.Module, example: Batch, teacher_example: Batch | None = None) -> Pairing:
    """Proposes pairs from one dry forward of each model on a few rows of `example`, which leaves no trace in either.

    Stages of CNNs are paired one to one; where one has fewer, each of its stages belongs to the other's of the nearest
    share of the input's resolution, and the deepest to the deepest. Blocks of transformers are paired by their share of
    the depth, so are a CNN and a transformer.

    Args:
        student, teacher: the modules.
        example: a batch.
        teacher_example: the same samples as the teacher takes them; None where it takes them as the student does.

    Raises:
        LimbeckError: a model is a graph without modules, such as a traced one.
    """
    mine = survey(student, example, "student")
    theirs = survey(teacher, example if teacher_example is None else teacher_example, "teacher")
    return paired(mine, theirs)


def paired(mine: Survey, theirs: Survey) -> Pairing:
    """The pairing of two models that were looked at, the student first."""
    reasons: dict[str, str] = {}
    for owner, seen in (("student", mine), ("teacher", theirs)):
        for what, why in seen.missing.items():
            reasons.setdefault(what, f"the {owner} has no {what}: {why}")
    stages: tuple[Pair, ...] = ()
    if mine.stages and theirs.stages:
        if mine.changes_resolution and theirs.changes_resolution:
            places = _by_resolution(_shares(mine), _shares(theirs))
        else:
            places = by_depth(len(mine.stages), len(theirs.stages))
        stages = tuple((mine.stages[here].tap, theirs.stages[there].tap) for here, there in places)
    return Pairing(
        stages=stages,
        embedding=_both(mine.embedding, theirs.embedding),
        attention=_both(mine.attention, theirs.attention),
        values=(mine.values, theirs.values) if mine.values is not None and theirs.values is not None else None,
        student_shapes=mine.shapes,
        teacher_shapes=theirs.shapes,
        missing=reasons,
    )


def _both(mine: str | None, theirs: str | None) -> Pair | None:
    return (mine, theirs) if mine is not None and theirs is not None else None


def _shares(seen: Survey) -> list[float]:
    """Which share of the input's positions each stage has."""
    return [stage.positions / seen.positions for stage in seen.stages]


def by_depth(mine: int, theirs: int) -> list[tuple[int, int]]:
    """Each stage of the model with fewer, and the one at the same share of the depth of the other."""
    if mine > theirs:
        return [(here, there) for there, here in by_depth(theirs, mine)]
    # The nearest whole number, halves up.
    return [(index, (2 * (index + 1) * theirs + mine) // (2 * mine) - 1) for index in range(mine)]


def _by_resolution(mine: Sequence[float], theirs: Sequence[float]) -> list[tuple[int, int]]:
    """Each stage of the model with fewer, and one of the other: deepest with deepest, the others where the shares of
    the resolution differ least, in order."""
    if len(mine) > len(theirs):
        return [(here, there) for there, here in _by_resolution(theirs, mine)]

    def off(places: Sequence[int]) -> float:
        return sum(abs(math.log(here / theirs[there])) for here, there in zip(mine, places, strict=False))

    before = min(combinations(range(len(theirs) - 1), len(mine) - 1), key=off)
    return list(enumerate([*before, len(theirs) - 1]))
