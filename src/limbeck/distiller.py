"""The Distiller: student, objective and a teacher at its side, one call a step, in any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from limbeck.checks import LimbeckError
from limbeck.models import as_module
from limbeck.objective import Objective, Term, default_terms
from limbeck.projectors import projector_between
from limbeck.taps import SignalReader
from limbeck.teachers import Teacher, TeacherLike, as_teacher
from limbeck.types import Batch, Output, Signal


class Distiller(nn.Module):
    """A student, its objective, and a teacher that is *not* a submodule.

    The optimizer, `state_dict`, `.train()`, `.to()` and DistributedDataParallel see the student, the projectors and
    the losses' learned parts, never the teacher.

    Args:
        student: the module to train.
        teacher: a Teacher, a module, the path of an .onnx file, or a list of those; None trains the student alone.
        objective: the terms; by default 0.1 of the labels and 0.9 of the teacher at temperature 4, or the labels only
            where there is no teacher.
        example: a batch. With it, a dry forward pass checks every term's shapes and builds the projectors that
            differing features need.

    Raises:
        LimbeckError: a term names a signal that the student or the teacher cannot give, or needs a teacher and there
            is none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherLike | None = None,
        objective: Sequence[Term] | None = None,
        *,
        example: Batch | None = None,
    ) -> None:
        super().__init__()
        self.student = as_module(student)
        self.teacher: Teacher | None = None if teacher is None else as_teacher(teacher)
        terms = default_terms() if objective is None else list(objective)
        if objective is None and teacher is None:
            terms = [term for term in terms if not term.uses_teacher]
        taught = [term for term in terms if term.uses_teacher]
        if taught and self.teacher is None:
            raise LimbeckError(
                f"the term {type(taught[0].loss).__name__} compares with a teacher, but there is none; "
                "pass a teacher, or only terms on labels"
            )
        if self.teacher is not None:
            if any(module is self.student for module in self.teacher.modules()):
                raise LimbeckError(
                    "teacher and student are one object, so the teacher would learn; pass copy.deepcopy(model)"
                )
            self.teacher.require({term.teacher for term in taught})
        self._read = SignalReader(self.student, {term.student for term in terms}, "student")
        if example is not None:
            terms = self._with_projectors(terms, example)
        self.objective = Objective(terms)

    def forward(self, batch: Batch, denominators: Tensor | None = None) -> Output:
        """Loss, logits and terms of a batch; `denominators` as in Objective.forward."""
        signal = self._read(batch)
        # `alone` keeps a teacher out of the step, not only out of the loss.
        taught = self.teacher(batch) if self.teacher is not None and self.objective.uses_teacher else None
        loss, terms = self.objective(signal, taught, batch.get("labels"), denominators)
        return Output(loss, signal["logits"], terms)

    def student_signal(self, batch: Batch) -> Signal:
        """What the student alone gives for a batch: its logits and the signals that terms ask of it."""
        return self._read(batch)

    @torch.no_grad()
    def _with_projectors(self, terms: list[Term], example: Batch) -> list[Term]:
        device = next((parameter.device for parameter in self.student.parameters()), torch.device("cpu"))
        example = {name: tensor.to(device) for name, tensor in example.items()}
        training = self.student.training
        self.student.eval()
        student = self._read(example)
        self.student.train(training)
        taught = self.teacher(example) if self.teacher is not None else None
        built = []
        for term in terms:
            if term.uses_teacher and taught is not None and term.projector is None and term.student != "logits":
                what = f"term {term.name or term.loss.name}"
                projector = projector_between(student[term.student], taught[term.teacher], what)
                term = replace(term, projector=projector.to(device) if projector is not None else None)
            built.append(term)
        Objective(built)(student, taught, example.get("labels"))
        return built
