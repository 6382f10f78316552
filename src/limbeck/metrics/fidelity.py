"""How close a student is to its teacher, and the samples on which they part."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.types import UNLABELLED


def fidelity(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Agreement of student and teacher (Stanton et al. 2021, arXiv:2106.05945).

    Logits (samples, classes), `labels` (samples,) with -1 where unlabelled.

    - `agreement`: fraction of all samples with the same top-1 class;
    - `teacher_kl`: mean KL(teacher ‖ student) of all samples at temperature 1, in nats;
    - `both_right`, `both_wrong`, `student_only`, `teacher_only`: fractions of the labelled samples by who is
      right; left out where no sample is labelled.

    Raises LimbeckError where shapes differ or there is no sample.
    """
    student, teacher, labels = _checked(student_logits, teacher_logits, labels)
    log_student, log_teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    # Where the teacher's probability is 0 its share is 0, also if the student rules the class out as well.
    shares = torch.where(log_teacher.isneginf(), 0.0, log_teacher.exp() * (log_teacher - log_student))
    found = agreement(student.argmax(-1), teacher.argmax(-1), labels)
    return {"agreement": found.pop("agreement"), "teacher_kl": float(shares.sum(-1).mean()), **found}


def agreement(student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, float]:
    """What `fidelity` gives but the divergence, from the top-1 classes alone: `student`, `teacher` and `labels` are
    (samples,) int64."""
    values = {"agreement": float((student == teacher).double().mean())}
    labelled = labels != UNLABELLED
    if labelled.any():
        student_right, teacher_right = ((predicted == labels)[labelled] for predicted in (student, teacher))
        parts = {
            "both_right": student_right & teacher_right,
            "both_wrong": ~student_right & ~teacher_right,
            "student_only": student_right & ~teacher_right,
            "teacher_only": ~student_right & teacher_right,
        }
        values |= {name: float(part.double().mean()) for name, part in parts.items()}
    return values


def disagreements(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, k: int) -> dict[str, list[int]]:
    """Up to `k` sample indices each of what is worth looking at; shapes as in `fidelity`.

    - `lost`: the teacher is right and the student wrong, the student's most confident mistake first;
    - `kept`: both are right, the student's least confident answer first;
    - `won`: the student is right and the teacher wrong, the student's most confident answer first.

    Unlabelled samples are in none. Raises LimbeckError where shapes differ or there is no sample.
    """
    student, teacher, labels = _checked(student_logits, teacher_logits, labels)
    confidence, predicted = student.softmax(-1).max(-1)
    # A label of -1 equals no prediction, so an unlabelled sample is right for neither.
    student_right = predicted == labels
    teacher_right = teacher.argmax(-1) == labels

    def top(where: Tensor, order: Tensor) -> list[int]:
        index = where.nonzero().flatten()
        found: list[int] = index[order[index].argsort(stable=True)][:k].tolist()
        return found

    return {
        "lost": top(teacher_right & ~student_right, -confidence),
        "kept": top(teacher_right & student_right, confidence),
        "won": top(~teacher_right & student_right, -confidence),
    }


def _checked(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    same_shape(student, teacher, "fidelity")
    if student.ndim != 2 or len(student) == 0 or labels.shape != student.shape[:1]:
        raise LimbeckError(
            "fidelity: expected logits (samples, classes) of at least one sample and labels (samples,), got "
            f"{tuple(student.shape)} and {tuple(labels.shape)}; flatten other dimensions into samples first"
        )
    return student.detach().cpu().double(), teacher.detach().cpu().double(), labels.detach().cpu()
