"""Several teachers side by side, a task each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.losses import Loss
from limbeck.teachers.base import Teacher
from limbeck.teachers.ensemble import TeacherLike, as_teacher
from limbeck.teachers.fingerprint import combined
from limbeck.types import Batch, Signal


class Several(Teacher):
    """Teachers of different tasks for one student: the signals of `Several({"art": a})` are `art.logits`, `art.layer3`.

    A student with a head for each task gives a dict of tensors, and each term says what it compares:
    `Term(KD(), student="art", teacher="art.logits")`, `Term(Supervised(), student="art", labels="art_labels")`.
    Only the teachers that terms ask for run.

    Args:
        teachers: a name, without dots, and anything that `as_teacher` takes.

    Raises:
        LimbeckError: there is none, a name has a dot, or a signal is asked for without a teacher's name before it.
    """

    def __init__(self, teachers: Mapping[str, TeacherLike]) -> None:
        if not teachers:
            raise LimbeckError("Several needs at least one teacher, such as {'art': teacher}")
        for name in teachers:
            if not name or "." in name:
                raise LimbeckError(f"Several: expected names without dots, got {name!r}")
        self.teachers = {name: as_teacher(teacher) for name, teacher in teachers.items()}
        self._asked: Collection[str] = tuple(self.teachers)

    def require(self, names: Collection[str]) -> None:
        wanted: dict[str, set[str]] = {}
        for name in names:
            whose, signal = self._split(name)
            wanted.setdefault(whose, set()).add(signal)
        for whose, signals in wanted.items():
            self.teachers[whose].require(signals)
        self._asked = tuple(name for name in self.teachers if name in wanted)

    def refuses(self, name: str, loss: Loss) -> str:
        whose, signal = self._split(name)
        return self.teachers[whose].refuses(signal, loss)

    def identity(self) -> str:
        return combined(*(f"{name} {teacher.identity()}" for name, teacher in self.teachers.items()))

    def modules(self) -> Iterable[nn.Module]:
        return (module for teacher in self.teachers.values() for module in teacher.modules())

    def update(self, student: nn.Module) -> None:
        for teacher in self.teachers.values():
            teacher.update(student)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor for name, each in self.teachers.items() for key, tensor in each.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, teacher in self.teachers.items():
            own = f"{name}."
            teacher.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})

    def __call__(self, batch: Batch) -> Signal:
        signals = {name: self.teachers[name](batch) for name in self._asked}
        return Signal(
            {f"{name}.{key}": tensor for name, signal in signals.items() for key, tensor in signal.tensors.items()},
            {f"{name}.{key}": mask for name, signal in signals.items() for key, mask in signal.masks.items()},
            {f"{name}.{key}": target for name, signal in signals.items() for key, target in signal.targets.items()},
        )

    def _split(self, name: str) -> tuple[str, str]:
        whose, dot, signal = name.partition(".")
        if not dot or whose not in self.teachers:
            example = f"{next(iter(self.teachers))}.logits"
            raise LimbeckError(
                f"there are several teachers, so a term says whose signal it means, such as teacher={example!r}; got "
                f"{name!r}{nearest(whose, self.teachers)}"
            )
        return whose, signal
