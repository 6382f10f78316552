"""What a recipe says of the models that it compares for shipping: pruned, distilled, quantized, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from limbeck.bench.targets import PYTORCH, Target
from limbeck.compress.importance import Criterion
from limbeck.errors import LimbeckError, nearest
from limbeck.recipe.parts import Strict, StudentRecipe

ALONE, DISTILLED, PRUNED, INT8 = "alone", "distilled", "pruned", "int8"
AWARE = "int8-aware"
KINDS = {INT8: "", "int8-static": "static", "int8-dynamic": "dynamic", AWARE: "static"}
"""The steps that write int8, each with its kind; empty is the recipe's own. `int8-aware` learns on as int8 first."""
WORDS = (ALONE, DISTILLED, PRUNED, *KINDS)

ALL = ("pruned", "pruned+distilled", "int8", "alone+int8", "distilled+int8", "pruned+distilled+int8")
"""The rows that `compare: all` means beside alone and distilled."""

VERBS = {"prune": PRUNED, "distill": DISTILLED, "quantize": INT8, "quantize-aware": AWARE}
"""What `steps` says, and what a row is called for it."""


class PruneRecipe(Strict):
    """How rows named `pruned` lose channels, heads and inner units; see `limbeck.compress.prune`.

    At most one of `ratio`, `flops` and `latency` says how much. Without any the teacher is cut to the student's FLOPs,
    and a student to half of its own. `rounds` prunes and trains so many times, each on its part of the steps.
    """

    by: Criterion = "magnitude"
    ratio: float | None = Field(default=None, gt=0, lt=1)
    flops: float | None = Field(default=None, gt=0, lt=1)
    latency: float | None = Field(default=None, gt=0)
    scope: Literal["layer", "model"] = "layer"
    round_to: int = Field(default=1, ge=1)
    keep: list[str] = Field(default_factory=list)
    rounds: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_target(self) -> PruneRecipe:
        given = [name for name in ("ratio", "flops", "latency") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"prune: {' and '.join(given)} are different targets; give one")
        if self.rounds > 1 and self.latency is not None:
            raise ValueError("prune: rounds with a latency cannot be planned; give a ratio or a share of FLOPs")
        return self


class QuantizeRecipe(Strict):
    """How rows named `int8` are written; see `limbeck.compress.quantize_onnx`.

    `static` has fixed ranges of activations, seen in `calibration` training samples; `dynamic` takes them as they come.
    `exclude` names layers that stay fp32. A row that lost more than `tolerance` of the main measure, in its own unit
    (0.01 of an accuracy is a point), is flagged, and its sensitive layers are named. Rows named `int8-aware` learn on
    as int8 for `steps` (a quarter of the recipe's) at `learning_rate` (a tenth of the recipe's).
    """

    kind: Literal["static", "dynamic"] = "static"
    calibration: int = Field(default=256, ge=1)
    tolerance: float = Field(default=0.01, ge=0)
    exclude: list[str] = Field(default_factory=list)
    steps: int | None = Field(default=None, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)


@dataclass(frozen=True, slots=True)
class Chain:
    """A row to compare: what is done to a model, one step after the other. A chain that begins with `pruned` or int8
    begins with the teacher, the others with the student."""

    steps: tuple[str, ...]

    @property
    def name(self) -> str:
        """What its row is called: `pruned+distilled+int8`."""
        return "+".join(self.steps)

    @property
    def of_teacher(self) -> bool:
        """Whether it is made of the teacher."""
        return self.steps[0] not in (ALONE, DISTILLED)

    @property
    def trained(self) -> Chain:
        """The chain without int8."""
        return Chain(tuple(step for step in self.steps if step not in KINDS))

    @property
    def int8(self) -> str | None:
        """The step that writes int8, if one does."""
        return self.steps[-1] if self.steps[-1] in KINDS else None


def read_chain(name: str) -> Chain:
    """The chain that `name` means.

    Raises:
        LimbeckError: a step is unknown, or where it cannot be.
    """
    steps = tuple(part.strip() for part in name.split("+"))
    for index, step in enumerate(steps):
        if step not in WORDS:
            raise LimbeckError(f"compare: {name!r} has an unknown step {step!r}{nearest(step, WORDS)}")
        if step in KINDS and index != len(steps) - 1:
            raise LimbeckError(f"compare: {name!r}: {step} writes a file, so it is the last step")
        if index and step == ALONE:
            raise LimbeckError(f"compare: {name!r}: alone is a student that has no teacher, so it is the first step")
        if step == AWARE and (not index or steps[index - 1] != DISTILLED):
            raise LimbeckError(f"compare: {name!r}: {AWARE} learns on from the teacher; write distilled+{AWARE}")
        if index and step == steps[index - 1]:
            raise LimbeckError(f"compare: {name!r} has {step} twice in a row; name it once")
    return Chain(steps)


def chain_of_steps(steps: Sequence[str]) -> Chain:
    """The chain of a recipe's `steps`, such as prune, distill, quantize.

    Raises:
        LimbeckError: a step is unknown, or where it cannot be.
    """
    for step in steps:
        if step not in VERBS:
            raise LimbeckError(f"steps: unknown step {step!r}{nearest(step, VERBS)}")
    return read_chain("+".join(VERBS[step] for step in steps))


def known_target(value: Any) -> str:
    """The name of a target that runs files. Raises LimbeckError where there is none of it."""
    target = Target.parse(str(value))
    if target.runtime in PYTORCH:
        raise LimbeckError(f"on: {target} runs no file, and a file is what is shipped; take onnxruntime or openvino")
    return str(target)


class FitRecipe(Strict):
    """What `limbeck fit` tries: `students` in the place of those that follow from the recipe's own, the teacher pruned
    to shares of its FLOPs (`prune`; none where the list is empty), in int8 where `int8`. At most `candidates` that fit
    are distilled, those nearest to the budget; the last of them for the recipe's `train`, those before for half as long
    each round."""

    students: list[StudentRecipe] = Field(default_factory=list)
    prune: list[float] | None = None
    int8: bool = True
    candidates: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _shares(self) -> FitRecipe:
        for share in self.prune or []:
            if not 0 < share < 1:
                raise ValueError(f"fit.prune: expected shares of FLOPs above 0 and below 1, got {share}")
        return self
