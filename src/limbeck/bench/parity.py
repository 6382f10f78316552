"""Whether two runtimes give the same answers: one that gives others is another model, and its time is worth nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCES = {"fp64": 1e-4, "fp32": 1e-4, "fp16": 1e-2, "tf32": 1e-2, "bf16": 1e-1, "int8": 3e-1}
"""How far from the reference a number may be, as a share of the reference's largest, by the coarsest format used."""

FLOOR = 1e-2
"""What counts as the reference's largest number where it has none so large: differences of zeros say nothing."""


def tolerance(precision: str) -> float:
    """The tolerance of a precision such as `fp32` or `int8, else bf16`: that of the coarsest format named in it."""
    return max((value for name, value in TOLERANCES.items() if name in precision), default=TOLERANCES["fp32"])


def difference(answers: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]]) -> float:
    """The largest absolute difference, as a share of the largest absolute value of the reference (at least `FLOOR`);
    infinite where shapes or numbers of outputs differ, or anything is not finite in one of the two alone."""
    if [each.shape for each in answers] != [each.shape for each in reference]:
        return float("inf")
    sizes = [np.abs(each[np.isfinite(each)]).max(initial=0.0) for each in reference]
    scale = max(*map(float, sizes), FLOOR) if sizes else FLOOR
    found = 0.0
    for mine, theirs in zip(answers, reference, strict=True):
        finite = np.isfinite(theirs)
        if not (np.isfinite(mine) == finite).all():
            return float("inf")
        if finite.any():
            apart = np.abs(mine[finite].astype(np.float64) - theirs[finite].astype(np.float64))
            found = max(found, float(apart.max()))
    return found / scale


def why_other(apart: float, precision: str, reference: str) -> str:
    """Why a runner is refused; empty where its answers are those of the reference."""
    allowed = tolerance(precision)
    if apart <= allowed:
        return ""
    by = f"by {apart:.2g} of the largest" if np.isfinite(apart) else "in shape, or not finite"
    return f"not measured: its answers differ from {reference}'s {by} (at most {allowed:g} in {precision})"
