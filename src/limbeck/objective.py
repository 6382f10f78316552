"""The objective: the weighted sum of terms, and the one place where losses are masked and averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.balance import Balance, Balancing, balance_of
from limbeck.losses import Loss
from limbeck.losses.fused import FusedTerm, fused_losses, serves_fused
from limbeck.losses.together import JointTerm, joint_losses, serves_joint
from limbeck.terms import LOGITS, Names, Schedule, Term, settled
from limbeck.tokens import real_tokens
from limbeck.types import UNLABELLED, Batch, LinearHead, Signal

LABELS = "labels"


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What some terms need of a batch beside its signals: the batch itself, and of texts the signals with all their
    tokens in place."""

    batch: Batch = field(default_factory=dict)
    student: Signal | None = None
    teacher: Signal | None = None


def labelled(labels: Tensor) -> Tensor:
    """Which samples have a label, (batch,) boolean. NaN is none, nor is a negative share; of several
    labels, one does."""
    if labels.is_floating_point():
        # A number, as of a regression, may be negative; a class's share may not.
        return (labels >= 0).flatten(1).any(1) if labels.dim() > 1 else ~labels.isnan()
    return labels != UNLABELLED


class Objective(nn.Module):
    """The sum of terms. Its modules (losses with learned parts, projectors) are trained and saved by the Distiller.

    `joint`: terms on the same logits are computed as one node, with the same values and gradients.
    `balance`: how terms are balanced, see `limbeck.balance`.
    """

    def __init__(self, terms: Sequence[Term], *, joint: bool = True, balance: Balancing = "fixed") -> None:
        super().__init__()
        self.terms = tuple(settled(terms))
        self.weights = [term.starting_weight() for term in self.terms]
        self.losses = nn.ModuleList(term.loss for term in self.terms)
        # Those that others wrap are told of a training's progress too.
        self.every_loss = [module for module in self.losses.modules() if isinstance(module, Loss)]
        self.projectors = nn.ModuleDict(
            {term.name.replace(".", "_"): term.projector for term in self.terms if term.projector is not None}
        )
        self.balance: Balance | None = balance_of(balance, self.terms)
        self._joint = joint and self.balance is None  # the one node takes its weights as plain numbers

    @property
    def uses_teacher(self) -> bool:
        """Whether any term compares with a teacher."""
        return any(term.uses_teacher for term in self.terms)

    def progress(self, epoch: float, share: float) -> None:
        """Brings weights and losses to a point of the training: epochs, and the share (0 to 1), that are over."""
        for index, term in enumerate(self.terms):
            if isinstance(term.weight, Schedule):
                self.weights[index] = term.weight.at(epoch, share)
        for loss in self.every_loss:
            loss.progress(epoch, share)

    def counts(self, labels: Tensor | None, items: int | Tensor, batch: Batch | None = None) -> Tensor:
        """How many items each term averages over in a batch, as float32 of shape (terms,), on the labels' device."""
        device = labels.device if labels is not None else None
        everything = torch.as_tensor(items, device=device).float()
        known = labelled(labels).sum().float() if labels is not None else everything
        found = []
        for term in self.terms:
            own = known if term.labels == LABELS else labelled((batch or {})[term.labels]).sum().float()
            found.append(own if term.loss.skips_unlabelled else everything)
        return torch.stack(found)

    def forward(
        self,
        student: Signal,
        teacher: Signal | None,
        labels: Tensor | None,
        denominators: Tensor | None = None,
        *,
        padded_vocabulary: bool = False,
        context: Context | None = None,
        shares: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and each term's mean before its weight.

        `denominators` of shape (terms,) replace the batch's own counts where a step is spread over several batches or
        processes, so that their losses add up to the mean over all; none may be 0. Terms on logits that the student
        gives as a LinearHead are computed together, in chunks; so are those on a language model's dense logits
        (`padded_vocabulary`), where teacher and student may pad their vocabulary to different sizes. `shares` are what
        a learned balance needs where a step is spread: see `Balance.forward`.
        """
        weights: list[float] | Tensor = self.weights
        if self.balance is not None:
            factors = self.balance.factors()
            weights = factors * factors.new_tensor(self.weights)
        total: Tensor | None = None
        means: dict[str, Tensor] = {}
        together = [
            index
            for index, term in enumerate(self.terms)
            if any(name in student.targets for name in term.student_names)
            or (padded_vocabulary and term.on_logits and not term.own and serves_fused(term.loss))
        ]
        if together:
            total, means = self._fused(together, weights, student, teacher, labels, denominators, padded_vocabulary)
        elif self._joint and (parts := self._joint_terms(student, teacher, labels, denominators)):
            total, values = joint_losses(student["logits"], list(parts.values()))
            together = list(parts)
            means = {self.terms[index].name: value for index, value in zip(together, values, strict=True)}
        for index, term in enumerate(self.terms):
            if index in together:
                continue
            count = None if denominators is None else denominators[index]
            mean = self.value(index, student, teacher, labels, count, context=context)
            means[term.name] = mean.detach()
            weighted = mean if weights is self.weights and weights[index] == 1.0 else mean * weights[index]
            total = weighted if total is None else total + weighted
        assert total is not None
        if self.balance is not None:
            stacked = torch.stack([means[term.name].detach() for term in self.terms])
            extra = self.balance(stacked, self.weights, shares)
            total = total if extra is None else total + extra
        return total, means

    def value(
        self,
        index: int,
        student: Signal,
        teacher: Signal | None,
        labels: Tensor | None,
        denominator: Tensor | None = None,
        *,
        context: Context | None = None,
    ) -> Tensor:
        """The mean of one term before its weight, with its graph."""
        term = self.terms[index]
        batch = context.batch if context is not None else {}
        if term.loss.structured and context is not None and context.student is not None:
            student, teacher = context.student, context.teacher
        prediction: Any = taken(student, term.student)
        if term.projector is not None:
            prediction = term.projector(prediction)
        labels = labels if term.labels == LABELS else batch[term.labels]
        where = _where(term, student, teacher, labels)
        given: list[Any] = []
        for name in term.loss.inputs:
            if name == "teacher":
                source = Signal({key: each.detach() for key, each in student.items()}) if term.own else teacher
                given.append(taken(source, term.teacher) if source is not None else None)
            elif name == "tokens":
                known = "attention_mask" in batch or "decoder_input_ids" in batch
                given.append(real_tokens(batch, term.student_names[0]) if known else None)
            elif name == "ids":
                given.append(batch.get("ids"))
            elif name == "batch":
                given.append(batch)
            else:
                given.append(labels if name == "labels" else where)
        return _mean(term.loss(prediction, *given), where, denominator)

    def _joint_terms(
        self, student: Signal, teacher: Signal | None, labels: Tensor | None, denominators: Tensor | None
    ) -> dict[int, JointTerm]:
        """The terms on the student's logits that can be one node, by their place; none where only one can."""
        parts: dict[int, JointTerm] = {}
        logits = student.tensors.get("logits")
        masked = "logits" in student.masks or (teacher is not None and "logits" in teacher.masks)
        if logits is None or logits.dim() != 2 or masked:
            return parts
        for index, term in enumerate(self.terms):
            if not term.on_logits or term.own or term.labels != LABELS:
                continue
            given: object = labels
            if term.uses_teacher:
                given = taken(teacher, term.teacher) if teacher is not None else None
            if isinstance(given, Tensor) and serves_joint(term.loss, given):
                count = None if denominators is None else denominators[index]
                parts[index] = JointTerm(term.loss, self.weights[index], given, count)
        return parts if len(parts) > 1 else {}

    def _fused(
        self,
        indices: Sequence[int],
        weights: Sequence[float] | Tensor,
        student: Signal,
        teacher: Signal | None,
        labels: Tensor | None,
        denominators: Tensor | None,
        padded_vocabulary: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of terms on one set of logits as one node, and their means."""
        logits = student.target(LOGITS)
        assert isinstance(logits, LinearHead | Tensor)
        rows = logits if isinstance(logits, Tensor) else logits.hidden
        shares, parts = [], []
        for index in indices:
            term = self.terms[index]
            given = None if denominators is None else denominators[index]
            share = _shares(_where(term, student, teacher, labels), rows, given)
            shares.append(share)
            parts.append(
                FusedTerm(
                    term.loss,
                    share if weights is self.weights and weights[index] == 1.0 else share * weights[index],
                    teacher.target(LOGITS) if term.uses_teacher and teacher is not None else None,
                    labels if "labels" in term.loss.inputs else None,
                )
            )
        total, values = fused_losses(logits, parts, padded_vocabulary=padded_vocabulary)
        means = {
            self.terms[index].name: (share * value).sum()
            for index, share, value in zip(indices, shares, values, strict=True)
        }
        return total, means


def taken(signal: Signal, names: Names) -> Any:
    """A signal in whichever form it came, or a tuple of several."""
    return signal.target(names) if isinstance(names, str) else tuple(signal[name] for name in names)


def _where(term: Term, student: Signal, teacher: Signal | None, labels: Tensor | None) -> Tensor | None:
    """Which items of a term count, or None for all."""
    where = student.masks.get(term.student_names[0]) if not term.loss.structured else None
    if term.uses_teacher and teacher is not None and not term.loss.structured:
        spoken = teacher.masks.get(term.teacher_names[0])
        where = where if spoken is None else spoken if where is None else where & spoken
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
