"""Errors that name what is wrong, where, and what to do; and the checks that raise them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import Tensor

from limbeck.types import UNLABELLED


class LimbeckError(ValueError):
    """A mistake in what the user gave. The command line prints its one line and exits with code 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Ends an error message: `; did you mean 'x'?` where a known name is near, the list of known names otherwise."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raises LimbeckError unless student and teacher tensors have one shape."""
    if student.shape != teacher.shape:
        raise LimbeckError(
            f"{what}: the student gives shape {tuple(student.shape)}, the teacher {tuple(teacher.shape)}; "
            "they must be equal (same classes in the same order, or a projector between features)"
        )


def labels_in_range(labels: Tensor, num_classes: int, where: str) -> None:
    """Raises LimbeckError unless every label is in [0, num_classes) or UNLABELLED. Call it on CPU tensors."""
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if high >= num_classes or low < UNLABELLED:
        wrong = high if high >= num_classes else low
        raise LimbeckError(
            f"{where}: label {wrong} is out of range for {num_classes} classes; "
            f"labels must be 0 to {num_classes - 1}, or {UNLABELLED} for an unlabelled sample"
        )
