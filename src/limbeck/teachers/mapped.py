"""A teacher with classes of its own, mapped by name to the student's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.losses import Loss
from limbeck.teachers.assembly import shortened
from limbeck.teachers.base import Teacher, dense
from limbeck.teachers.ensemble import TeacherLike, as_teacher
from limbeck.teachers.fingerprint import combined
from limbeck.types import Batch, Signal

LOGITS = "logits"


class Mapped(Teacher):
    """A teacher whose classes are other than the student's, or in another order, mapped by name.

    Classes that only the teacher has are left out, which leaves its probabilities among the others as they were. A
    class that only the student has gets the logit −inf: to learn from this teacher alone would be to learn that the
    class never occurs. So a teacher that knows only some of the classes is refused where it is the only one, and
    belongs into an Ensemble with others, which averages over those that know a class.

    Args:
        teacher: anything that `as_teacher` takes, with logits (batch, …, classes).
        classes: the names of its classes, in its order.
        onto: the names of the student's classes, in the student's order.
        allow_missing: lets it teach alone that the classes it does not know are impossible.

    Raises:
        LimbeckError: names repeat, none is shared, or it knows only some and is used alone; when called, it gives
            another number of logits than it has classes.
    """

    def __init__(
        self, teacher: TeacherLike, classes: Sequence[str], onto: Sequence[str], *, allow_missing: bool = False
    ) -> None:
        for what, names in (("classes", classes), ("onto", onto)):
            if repeated := [name for name, count in Counter(names).items() if count > 1]:
                raise LimbeckError(f"Mapped {what}: {repeated[0]!r} occurs more than once; a class has one name")
        self.teacher = as_teacher(teacher)
        self.classes = tuple(classes)
        self.onto: tuple[str, ...] = tuple(onto)
        self.known = frozenset(classes) & frozenset(onto)
        if not self.known:
            first = classes[0] if classes else ""
            raise LimbeckError(
                f"Mapped: the teacher has none of the student's classes, such as {first!r}{nearest(first, onto)}"
            )
        self.allow_missing = allow_missing
        place = {name: index for index, name in enumerate(self.classes)}
        # One past the last class is a column of −inf.
        self._index = torch.tensor([place.get(name, len(place)) for name in self.onto])

    def as_part(self) -> Teacher:
        return self if self.allow_missing else Mapped(self.teacher, self.classes, self.onto, allow_missing=True)

    def require(self, names: Collection[str]) -> None:
        self._check_complete()
        self.teacher.require(names)

    def refuses(self, name: str, loss: Loss) -> str:
        return self.teacher.refuses(name, loss)

    def identity(self) -> str:
        return combined(self.teacher.identity(), repr(self.classes), repr(self.onto))

    def modules(self) -> Iterable[nn.Module]:
        return self.teacher.modules()

    def update(self, student: nn.Module) -> None:
        self.teacher.update(student)

    def state_dict(self) -> dict[str, Tensor]:
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.teacher.load_state_dict(state)

    def __call__(self, batch: Batch) -> Signal:
        self._check_complete()
        signal = dense(self.teacher(batch), "Mapped")
        if LOGITS not in signal:
            return signal
        logits = signal[LOGITS]
        if logits.shape[-1] != len(self.classes):
            raise LimbeckError(
                f"Mapped: the teacher gives {logits.shape[-1]} logits, but {len(self.classes)} class names were given"
            )
        padded = nn.functional.pad(logits, (0, 1), value=-torch.inf)
        mapped = padded.index_select(-1, self._index.to(logits.device))
        return Signal({**signal.tensors, LOGITS: mapped}, signal.masks)

    def _check_complete(self) -> None:
        missing = [name for name in self.onto if name not in self.known]
        if missing and not self.allow_missing:
            raise LimbeckError(
                f"the teacher does not know {shortened(missing)}; alone it would teach that these never occur. Put it "
                "into an Ensemble with teachers that know them, or say allow_missing=True"
            )
