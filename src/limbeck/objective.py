"""The objective: the weighted sum of terms, and the one place where losses are masked and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from limbeck.checks import LimbeckError
from limbeck.losses import KD, Loss, Supervised
from limbeck.losses.fused import FusedTerm, fused_losses, serves_fused
from limbeck.losses.together import JointTerm, joint_losses, serves_joint
from limbeck.types import UNLABELLED, LinearHead, Signal, Target


@dataclass(frozen=True, slots=True)
class Term:
    """One weighted loss between the student's signal and the teacher's, or the labels.

    `student` and `teacher` name signals: `logits`, or the path of a module to tap. `projector` maps the student's
    signal to the teacher's shape and is trained with the student. `name` is what logs call the term; left empty, it
    is the loss's.
    """

    loss: Loss
    weight: float = 1.0
    student: str = "logits"
    teacher: str = "logits"
    projector: nn.Module | None = None
    name: str = ""

    @property
    def uses_teacher(self) -> bool:
        """Whether the term compares with a teacher."""
        return "teacher" in self.loss.inputs


def default_terms(temperature: float = 4.0) -> list[Term]:
    """Hinton's recipe with the weights that papers use: 0.1 of the labels, 0.9 of the teacher at temperature 4."""
    return [Term(Supervised(), weight=0.1), Term(KD(temperature=temperature), weight=0.9)]


def labelled(labels: Tensor) -> Tensor:
    """Which samples have a label, (batch,) boolean. NaN or a negative value is none; of several labels, one does."""
    if labels.is_floating_point():
        known = labels >= 0
        return known.flatten(1).any(1) if labels.dim() > 1 else known
    return labels != UNLABELLED


class Objective(nn.Module):
    """The sum of terms. Its modules (losses with learned parts, projectors) are trained and saved by the Distiller.

    `joint`: terms on the same logits are computed as one node, with the same values and gradients.
    """

    def __init__(self, terms: Sequence[Term], *, joint: bool = True) -> None:
        super().__init__()
        self._joint = joint
        if not terms:
            raise LimbeckError("the objective has no terms; give at least one, such as Term(Supervised())")
        self.terms = tuple(_named(terms))
        self.losses = nn.ModuleList(term.loss for term in self.terms)
        self.projectors = nn.ModuleDict(
            {term.name.replace(".", "_"): term.projector for term in self.terms if term.projector is not None}
        )

    @property
    def uses_teacher(self) -> bool:
        """Whether any term compares with a teacher."""
        return any(term.uses_teacher for term in self.terms)

    def counts(self, labels: Tensor | None, items: int | Tensor) -> Tensor:
        """How many items each term averages over in a batch, as float32 of shape (terms,), on the labels' device."""
        device = labels.device if labels is not None else None
        everything = torch.as_tensor(items, device=device).float()
        known = labelled(labels).sum().float() if labels is not None else everything
        return torch.stack([known if term.loss.skips_unlabelled else everything for term in self.terms])

    def forward(
        self,
        student: Signal,
        teacher: Signal | None,
        labels: Tensor | None,
        denominators: Tensor | None = None,
        *,
        padded_vocabulary: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and each term's mean before its weight.

        `denominators` of shape (terms,) replace the batch's own counts where a step is spread over several batches or
        processes, so that their losses add up to the mean over all; none may be 0. Terms on logits that the student
        gives as a LinearHead are computed together, in chunks; so are those on a language model's dense logits
        (`padded_vocabulary`), where teacher and student may pad their vocabulary to different sizes.
        """
        total: Tensor | None = None
        means: dict[str, Tensor] = {}
        together = [
            index
            for index, term in enumerate(self.terms)
            if term.student in student.targets
            or (padded_vocabulary and term.student == "logits" and term.projector is None and serves_fused(term.loss))
        ]
        if together:
            total, means = self._fused(together, student, teacher, labels, denominators, padded_vocabulary)
        elif self._joint and (parts := self._joint_terms(student, teacher, labels, denominators)):
            total, values = joint_losses(student["logits"], list(parts.values()))
            together = list(parts)
            means = {self.terms[index].name: value for index, value in zip(together, values, strict=True)}
        for index, term in enumerate(self.terms):
            if index in together:
                continue
            mean = self.value(index, student, teacher, labels, None if denominators is None else denominators[index])
            means[term.name] = mean.detach()
            weighted = mean if term.weight == 1.0 else mean * term.weight
            total = weighted if total is None else total + weighted
        assert total is not None
        return total, means

    def value(
        self,
        index: int,
        student: Signal,
        teacher: Signal | None,
        labels: Tensor | None,
        denominator: Tensor | None = None,
    ) -> Tensor:
        """The mean of one term before its weight, with its graph."""
        term = self.terms[index]
        prediction = student[term.student]
        if term.projector is not None:
            prediction = term.projector(prediction)
        where = _where(term, student, labels)
        given: list[Target | None] = []
        for name in term.loss.inputs:
            if name == "teacher":
                given.append(teacher.target(term.teacher) if teacher is not None else None)
            else:
                given.append(labels if name == "labels" else where)
        return _mean(term.loss(prediction, *given), where, denominator)

    def _joint_terms(
        self, student: Signal, teacher: Signal | None, labels: Tensor | None, denominators: Tensor | None
    ) -> dict[int, JointTerm]:
        """The terms on the student's logits that can be one node, by their place; none where only one can."""
        parts: dict[int, JointTerm] = {}
        logits = student.tensors.get("logits")
        if logits is None or logits.dim() != 2 or "logits" in student.masks:
            return parts
        for index, term in enumerate(self.terms):
            if term.student != "logits" or term.projector is not None:
                continue
            given = labels if not term.uses_teacher else teacher.target(term.teacher) if teacher is not None else None
            if isinstance(given, Tensor) and serves_joint(term.loss, given):
                count = None if denominators is None else denominators[index]
                parts[index] = JointTerm(term.loss, term.weight, given, count)
        return parts if len(parts) > 1 else {}

    def _fused(
        self,
        indices: Sequence[int],
        student: Signal,
        teacher: Signal | None,
        labels: Tensor | None,
        denominators: Tensor | None,
        padded_vocabulary: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of terms on one set of logits as one node, and their means."""
        logits = student.target(self.terms[indices[0]].student)
        assert isinstance(logits, LinearHead | Tensor)
        rows = logits if isinstance(logits, Tensor) else logits.hidden
        shares, parts = [], []
        for index in indices:
            term = self.terms[index]
            given = None if denominators is None else denominators[index]
            share = _shares(_where(term, student, labels), rows, given)
            shares.append(share)
            parts.append(
                FusedTerm(
                    term.loss,
                    share if term.weight == 1.0 else share * term.weight,
                    teacher.target(term.teacher) if term.uses_teacher and teacher is not None else None,
                    labels if "labels" in term.loss.inputs else None,
                )
            )
        total, values = fused_losses(logits, parts, padded_vocabulary=padded_vocabulary)
        means = {
            self.terms[index].name: (share * value).sum()
            for index, share, value in zip(indices, shares, values, strict=True)
        }
        return total, means


def _where(term: Term, student: Signal, labels: Tensor | None) -> Tensor | None:
    """Which items of a term count, or None for all."""
    where = student.masks.get(term.student)
    if term.loss.skips_unlabelled and labels is not None:
        known = labelled(labels)
        return known if where is None else where & known
    return where


def _shares(where: Tensor | None, rows: Tensor, denominator: Tensor | None) -> Tensor:
    """What each item adds to a term's mean, (items,) float32."""
    count = len(rows)
    if where is None:
        shares = torch.ones(count, device=rows.device)
        return shares / max(count, 1) if denominator is None else shares / denominator
    shares = where.float()
    return shares / (shares.sum().clamp(min=1) if denominator is None else denominator)


def _mean(values: Tensor, where: Tensor | None, denominator: Tensor | None) -> Tensor:
    """The mean of the items that count; 0, with a graph, where none does."""
    if where is None:
        return values.mean() if denominator is None else values.sum() / denominator
    summed = torch.where(where, values, 0.0).sum()
    # A share of a count over several processes may be below 1, so a given denominator is taken as it is.
    return summed / (where.sum().clamp(min=1) if denominator is None else denominator)


def _named(terms: Sequence[Term]) -> list[Term]:
    """Gives every term its own name: the loss's, numbered where several share it."""
    named: list[Term] = []
    taken: set[str] = set()
    for term in terms:
        base = term.name or term.loss.name
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        named.append(replace(term, name=name))
    return named
