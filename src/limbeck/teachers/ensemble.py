"""Several teachers as one, and what passes for a teacher."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.checks import LimbeckError
from limbeck.losses import Loss
from limbeck.shortcuts import SHORTCUTS
from limbeck.store import LabelStore
from limbeck.teachers.base import Teacher
from limbeck.teachers.fingerprint import combined
from limbeck.teachers.live import Live
from limbeck.teachers.onnx import Onnx
from limbeck.teachers.stored import Stored
from limbeck.types import Batch, Signal


class Ensemble(Teacher):
    """Several teachers as one: the weighted mean of their signals, logits included.

    The mean of logits is the geometric mean of the teachers' distributions at every temperature
    (Hinton et al., 2015, section 2). The teachers must know the same classes in the same order.
    """

    def __init__(self, teachers: Sequence[TeacherLike], weights: Sequence[float] | None = None) -> None:
        if not teachers:
            raise LimbeckError("an ensemble needs at least one teacher")
        if weights is not None and (len(weights) != len(teachers) or sum(weights) <= 0 or min(weights) < 0):
            raise LimbeckError(
                f"an ensemble of {len(teachers)} teachers needs as many weights, none negative, not all zero; "
                f"got {list(weights)}"
            )
        self.teachers = tuple(as_teacher(teacher) for teacher in teachers)
        shares = weights or [1.0] * len(self.teachers)
        self._shares = [share / sum(shares) for share in shares]

    def require(self, names: Collection[str]) -> None:
        for teacher in self.teachers:
            teacher.require(names)

    def refuses(self, name: str, loss: Loss) -> str:
        return next((why for teacher in self.teachers if (why := teacher.refuses(name, loss))), "")

    def identity(self) -> str:
        return combined(*(teacher.identity() for teacher in self.teachers), repr(self._shares))

    def modules(self) -> Iterable[nn.Module]:
        return (module for teacher in self.teachers for module in teacher.modules())

    def update(self, student: nn.Module) -> None:
        for teacher in self.teachers:
            teacher.update(student)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{i}.{k}": v for i, teacher in enumerate(self.teachers) for k, v in teacher.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for i, teacher in enumerate(self.teachers):
            own = f"{i}."
            teacher.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})

    def __call__(self, batch: Batch) -> Signal:
        signals = [teacher(batch) for teacher in self.teachers]
        means: dict[str, Tensor] = {}
        for name in signals[0]:
            shapes = {tuple(signal[name].shape[1:]) for signal in signals}
            if len(shapes) > 1:
                raise LimbeckError(
                    f"the ensemble's teachers give {name} of different shapes {sorted(shapes)}; "
                    "they must know the same classes in the same order"
                )
            parts = [signal[name] * share for signal, share in zip(signals, self._shares, strict=True)]
            means[name] = reduce(torch.add, parts)
        return Signal(means, signals[0].masks)


TeacherLike = Teacher | nn.Module | LabelStore | str | Path | Sequence[Any]


def as_teacher(teacher: TeacherLike, shortcuts: Collection[str] = SHORTCUTS) -> Teacher:
    """A Teacher as it is; a module as Live, with these shortcuts; the path of an .onnx file as Onnx; a label store
    or its folder as Stored; a list of those as an Ensemble."""
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, LabelStore):
        return Stored(teacher)
    if isinstance(teacher, str | Path):
        if Path(teacher).is_dir():
            return Stored(teacher)
        if Path(teacher).suffix != ".onnx":
            raise LimbeckError(
                f"teacher {str(teacher)!r}: a path must be of an .onnx file or a label store; load other models first"
            )
        return Onnx(teacher)
    if isinstance(teacher, Sequence) and not isinstance(teacher, nn.Module):
        return Ensemble([as_teacher(each, shortcuts) for each in teacher])
    return Live(teacher, shortcuts=shortcuts)
