"""Terms that name no taps get those that were found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import as_module, forward_of
from limbeck.models.forward import evaluating
from limbeck.pairing.pair import Pairing, by_depth, paired
from limbeck.pairing.survey import Survey, survey
from limbeck.teachers import Ema, Ensemble, Live, Mapped, Teacher
from limbeck.terms import LOGITS, Names, Term
from limbeck.types import Batch

ANSWERED = ("ofa", "exit", "byot")
"""Losses whose exit from a stage of the student is compared with logits."""

PYRAMID = "pyramid"
"""Names in a term all levels of a detector's pyramid, `pyramid.0`, `pyramid.1`, …"""

SECTIONS = 4
"""Into so many parts the papers on exits divide a network that has no stages of its own, such as a transformer."""


def expand(
    terms: Sequence[Term], student: nn.Module, teacher: Teacher | nn.Module | None, example: Batch
) -> list[Term]:
    """The terms, those of losses on features that name no taps with the taps that `pair` proposes.

    A loss that wants `stages` becomes a term for each pair; one with an exit is compared with the teacher's logits at
    each stage of the student. With `own`, stages of the student before its last are compared with its logits, or with
    its last stage. One that wants the `pyramid`, or names it on both sides, becomes a term for each level that both
    models have. Models are looked at only where a term asks for it.

    Args:
        terms: as they were given; none is changed.
        student: the module to train.
        teacher: a teacher that runs one module, or that module.
        example: a batch, as the student takes it.

    Raises:
        LimbeckError: no such place was found, or the teacher has no modules to look into.
    """
    looks = _Looks(student, teacher, example)
    done: list[Term] = []
    for term in terms:
        if not _is_open(term) or (term.uses_teacher and teacher is None):
            done.append(term)
            continue
        try:
            taps = _taps(term, looks)
        except LimbeckError as error:
            raise LimbeckError(f"{term.title}: {error}") from None
        if len(taps) == 1:
            done.append(replace(term, student=taps[0][0], teacher=taps[0][1]))
        else:
            done += [replace(term, loss=deepcopy(term.loss), student=here, teacher=there) for here, there in taps]
    return done


def _is_open(term: Term) -> bool:
    """Whether a term on features leaves open which."""
    if term.student == term.teacher == PYRAMID:
        return True
    unsaid = ("", LOGITS) if term.loss.name in ANSWERED else ("",)
    return term.loss.wants != LOGITS and term.student == "" and term.teacher in unsaid


class _Looks:
    """Both models, looked at when that is first needed."""

    def __init__(self, student: nn.Module, teacher: Teacher | nn.Module | None, example: Batch) -> None:
        self._student = student
        self._teacher = teacher
        self._example = example
        self._mine: Survey | None = None
        self._pairing: Pairing | None = None

    def student(self) -> Survey:
        """The student's places."""
        if self._mine is None:
            self._mine = survey(self._student, self._example, "student")
        return self._mine

    def pairing(self) -> Pairing:
        """The pairs."""
        if self._pairing is None:
            assert self._teacher is not None
            module, prepare = opened(self._teacher)
            if isinstance(self._teacher, Teacher):
                # Where it will teach; on the processor a large one would take long.
                module.to(next((each.device for each in self._student.parameters()), torch.device("cpu")))
            self._pairing = paired(self.student(), survey(module, prepare(self._example), "teacher"))
        return self._pairing

    def levels(self) -> list[tuple[Names, Names]]:
        """The levels of two detectors' pyramids that have one size."""
        assert self._teacher is not None
        module, prepare = opened(self._teacher)
        device = next((each.device for each in self._student.parameters()), torch.device("cpu"))
        example = {name: each.to(device) for name, each in self._example.items()}
        mine = _pyramid(self._student, example, "student")
        theirs = _pyramid(module.to(device), prepare(example), "teacher")
        by_size = {size: name for name, size in theirs.items()}
        pairs: list[tuple[Names, Names]] = [(name, by_size[size]) for name, size in mine.items() if size in by_size]
        if not pairs:
            sizes = [", ".join(f"{h}×{w}" for h, w in each.values()) for each in (mine, theirs)]
            raise LimbeckError(
                f"the student's pyramid has maps of {sizes[0]}, the teacher's of {sizes[1]}, and none of one size; "
                "name levels (student=pyramid.0, teacher=pyramid.1), whose sizes a projector fits"
            )
        return pairs


def _pyramid(model: nn.Module, example: Batch, owner: str) -> dict[str, tuple[int, int]]:
    """The levels of a model's pyramid, with their rows and columns."""
    with torch.no_grad(), evaluating(model):
        signal = forward_of(model)(example)
    levels = {name: tensor.shape for name, tensor in signal.items() if name.startswith(f"{PYRAMID}.")}
    if not levels:
        raise LimbeckError(f"the {owner} gives no pyramid, but {', '.join(signal)}; name the taps of its maps")
    return {name: (shape[-2], shape[-1]) for name, shape in levels.items()}


def opened(teacher: Teacher | nn.Module) -> tuple[nn.Module, Callable[[Batch], Batch]]:
    """The one module that a teacher runs, and how it takes a batch that was made for the student.

    Raises:
        LimbeckError: it runs none, or several.
    """
    if isinstance(teacher, nn.Module):
        return as_module(teacher), lambda batch: batch
    if isinstance(teacher, Live):
        return teacher.model, teacher.prepare
    if isinstance(teacher, Ema):
        return teacher.model, lambda batch: batch
    if isinstance(teacher, Mapped):
        return opened(teacher.teacher)
    if isinstance(teacher, Ensemble) and len(teacher.teachers) == 1:
        return opened(teacher.teachers[0])
    raise LimbeckError(
        f"the teacher ({type(teacher).__name__}) is not one module to look into, so no taps can be found; name them "
        "(student=…, teacher=…)"
    )


def _taps(term: Term, looks: _Looks) -> list[tuple[Names, Names]]:
    wants = term.loss.wants
    if wants == PYRAMID or term.student == PYRAMID:
        return looks.levels()
    if term.own or term.loss.name in ANSWERED or not term.uses_teacher:
        return _on_the_student(term, looks.student())
    pairing = looks.pairing()
    if wants == "values":
        if pairing.values is None:
            raise _missing(pairing.missing, "values")
        return [pairing.values]
    if wants in ("embedding", "attention"):
        found = pairing.embedding if wants == "embedding" else pairing.attention
        if found is None:
            raise _missing(pairing.missing, wants)
        return [found]
    if not pairing.stages:
        raise _missing(pairing.missing, "stages")
    if wants == "all-stages":
        return [(tuple(here for here, _ in pairing.stages), tuple(there for _, there in pairing.stages))]
    return list(pairing.stages if wants == "stages" else pairing.stages[-1:])


def _on_the_student(term: Term, seen: Survey) -> list[tuple[Names, Names]]:
    """Taps of a term that has none on a teacher's modules: stages of the student, against logits or its own last."""
    if term.loss.wants == "embedding" and not term.uses_teacher and not term.own and seen.embedding is not None:
        return [(seen.embedding, "")]
    if term.loss.wants not in ("stages", "last-stage"):
        raise LimbeckError(
            f"{type(term.loss).__name__} wants {term.loss.wants}, which no stage of the student is; name the taps"
        )
    stages = [stage.tap for stage in seen.stages]
    if not seen.changes_resolution and len(stages) > SECTIONS:
        stages = [stages[place] for _, place in by_depth(SECTIONS, len(stages))]
    if term.own:
        stages, last = stages[:-1], stages[-1:]
        if not stages:
            why = seen.missing.get("stages", "it has one stage only")
            raise LimbeckError(f"the student has no stages before its last ({why}); name the taps")
        return [(stage, LOGITS if term.loss.name in ANSWERED else last[0]) for stage in stages]
    if not stages:
        raise LimbeckError(f"the student has no stages: {seen.missing['stages']}; name the taps")
    return [(stage, LOGITS if term.uses_teacher else "") for stage in stages]


def _missing(reasons: Mapping[str, str], what: str) -> LimbeckError:
    return LimbeckError(f"{reasons[what]}; name the taps (student=…, teacher=…), or take another loss")
