"""Terms: what is compared with what, and how much it weighs over a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.losses import KD, Loss, Supervised

LOGITS = "logits"

Names = str | tuple[str, ...]
"""A signal, or several that a loss takes together."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A term's weight over a training.

    It rises from 0 to `weight` over `warmup` epochs, moves to `final` (None: stays) along a half cosine from there to
    the end, and is 0 once the share `until` of the training is over (early-stopped distillation: Cho and Hariharan
    2019, arXiv:1910.01348).

    Raises:
        LimbeckError: a weight is not finite, `warmup` is negative, or `until` is not in (0, 1].
    """

    weight: float = 1.0
    warmup: float = 0.0
    until: float = 1.0
    final: float | None = None

    def __post_init__(self) -> None:
        if not all(math.isfinite(each) for each in (self.weight, self.final or 0.0)):
            raise LimbeckError(f"weight: expected finite numbers, got {self.weight} and {self.final}")
        if not self.warmup >= 0.0:
            raise LimbeckError(f"warmup: expected 0 or a number of epochs, got {self.warmup}")
        if not 0.0 < self.until <= 1.0:
            raise LimbeckError(f"until: expected a share of the training in (0, 1], got {self.until}")

    def at(self, epoch: float, share: float) -> float:
        """The weight after `epoch` epochs, a `share` (0 to 1) of the training."""
        if share >= self.until and self.until < 1.0:
            return 0.0
        value = self.weight
        if self.final is not None:
            value += (self.final - self.weight) * 0.5 * (1.0 - math.cos(math.pi * min(share, 1.0)))
        return value * min(1.0, epoch / self.warmup) if self.warmup else value


@dataclass(frozen=True, slots=True)
class Term:
    """One weighted loss between the student's signal and the teacher's, or the labels.

    Args:
        weight: a number, or a Schedule.
        student, teacher: a signal each: `logits`, or the path of a module to tap (`fc.input` for what enters one); or a
            tuple of them, for a loss that takes several together. Left empty they are what the loss says, else the
            logits, or for a loss on features the taps that `limbeck.pairing` proposes, which needs the Distiller's
            `example`; `pyramid` for both is a term for each level of two detectors' pyramids.
        projector: maps the student's signal to the teacher's shape and is trained with the student.
        name: what logs call the term; left empty, it is the loss's.
        own: `teacher` names a signal of the student itself, which gets no gradient from this term: a deeper layer
            teaches a shallower one.
        labels: the entry of the batch that holds the term's labels.
    """

    loss: Loss
    weight: float | Schedule = 1.0
    student: Names = ""
    teacher: Names = ""
    projector: nn.Module | None = None
    name: str = ""
    own: bool = False
    labels: str = "labels"

    def __post_init__(self) -> None:
        # A loss that compares more than logits says what.
        if not self.student:
            object.__setattr__(self, "student", self.loss.student_signals)
        if not self.teacher:
            object.__setattr__(self, "teacher", self.loss.teacher_signals)

    @property
    def uses_teacher(self) -> bool:
        """Whether the term compares with a teacher."""
        return "teacher" in self.loss.inputs and not self.own

    @property
    def title(self) -> str:
        """What messages call the term."""
        return f"term {self.name or self.loss.name}"

    @property
    def student_names(self) -> tuple[str, ...]:
        """The student's signals."""
        return names_of(self.student)

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """The signals that they are compared with, of the teacher or the student's own; none for a term on labels."""
        return names_of(self.teacher) if "teacher" in self.loss.inputs else ()

    @property
    def on_logits(self) -> bool:
        """Whether the student's signal is its logits as they are."""
        return self.student in ("", LOGITS) and self.projector is None

    def with_offered(self, offers: Callable[[str], bool]) -> Term:
        """The term with those of its loss's optional signals that the teacher offers, where it names none itself."""
        more = tuple(name for name in self.loss.optional if offers(name))
        if not more or not self.uses_teacher or self.teacher != self.loss.teacher_signals:
            return self
        return replace(self, teacher=(*names_of(self.teacher), *more))

    def starting_weight(self) -> float:
        """The weight before the first step."""
        return self.weight.at(0.0, 0.0) if isinstance(self.weight, Schedule) else self.weight


def peak_weight(term: Term) -> float:
    """The weight that a term has once it is warm."""
    return term.weight.weight if isinstance(term.weight, Schedule) else term.weight


def names_of(names: Names) -> tuple[str, ...]:
    """One name or several as a tuple."""
    return (names,) if isinstance(names, str) else names


def default_terms(temperature: float = 4.0) -> list[Term]:
    """Hinton's recipe with the weights that papers use: 0.1 of the labels, 0.9 of the teacher at temperature 4."""
    return [Term(Supervised(), weight=0.1), Term(KD(temperature=temperature), weight=0.9)]


def settled(terms: Sequence[Term]) -> list[Term]:
    """Terms without open questions: every one with its own name (the loss's, numbered where several share it), and with
    signals.

    Raises:
        LimbeckError: there are no terms, or a loss on features was told no taps.
    """
    if not terms:
        raise LimbeckError("the objective has no terms; give at least one, such as Term(Supervised())")
    done: list[Term] = []
    taken: set[str] = set()
    for term in terms:
        base = term.name or term.loss.name
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        if term.loss.wants != LOGITS and "" in (term.student, term.teacher if term.teacher_names else LOGITS):
            raise LimbeckError(
                f"term {name}: {type(term.loss).__name__} compares features; name them (student=…, teacher=…), or give "
                "the Distiller example=batch and it finds a pair"
            )
        done.append(replace(term, name=name, student=term.student or LOGITS, teacher=term.teacher or LOGITS))
    return done
