"""Contrast: a sample's two embeddings belong together, those of two samples do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import fraction, full_precision, positive, unbuilt
from limbeck.losses.vectors import both, embedded, finished, unit

Sides = tuple[Tensor, Tensor]
"""What belongs to the student, and what to the teacher."""

MEMORY = ("sample_ids", "sample_labels", "student_bank", "teacher_bank")


def crd(
    student: Tensor,
    teacher: Tensor,
    positives: Sides,
    negatives: Sides,
    where: Tensor | None = None,
    *,
    samples: int,
    log_constants: Tensor,
    temperature: float = 0.07,
    allowed: Tensor | None = None,
) -> Tensor:
    """Noise-contrastive estimation, on both sides, of which remembered embedding is of the same sample.

    With s = exp(cos / T) / Z of an anchor and a remembered embedding of the other side, and m negatives that uniform
    noise over N samples gave, the probability of a true pair is h = s / (s + m/N); the value is −log h of the positive
    less the sum of log(1 − h) of the negatives, of the student's anchor plus the teacher's.

    Args:
        student, teacher: (batch, …), one embedding an item, (batch, width), at length 1; gradients flow into both.
        positives: what is remembered of the student's and of the teacher's side of the same samples, (batch, width)
            each.
        negatives: the same of other samples, (negatives, width) each.
        where: (batch,) boolean, True where an item counts; None where all do. Masked items have the value 0.
        samples: N, how many samples there are.
        log_constants: (2,), log Z of the student's anchors and of the teacher's.
        temperature: T > 0.
        allowed: (batch, negatives) boolean, which negatives are an item's; None for all.

    Returns:
        (batch,).

    Raises:
        LimbeckError: the widths differ, or the temperature is out of range.

    Tian, Krishnan and Isola 2020, "Contrastive Representation Distillation", arXiv:1910.10699, equation 18.
    """
    positive(temperature, "crd temperature")
    if student.shape != teacher.shape:
        raise LimbeckError(
            f"crd: expected embeddings of one shape (batch, width), got the student's {tuple(student.shape)} and the "
            f"teacher's {tuple(teacher.shape)}; map both to one width"
        )
    scores = (
        _scores(student, positives[1], negatives[1], temperature),
        _scores(teacher, positives[0], negatives[0], temperature),
    )
    count = torch.tensor(len(negatives[0]), device=student.device) if allowed is None else allowed.sum(1)
    # Of a single sample there are no negatives, and the logarithm must not be of 0.
    noise = (count.clamp(min=1).to(student.dtype) / samples).log()
    values = torch.zeros_like(student[:, 0])
    for (same, others), log_constant in zip(scores, log_constants, strict=True):
        values = values - F.logsigmoid(same - log_constant - noise)
        apart = -F.logsigmoid(noise.unsqueeze(-1) + log_constant - others)
        values = values + (apart if allowed is None else apart.masked_fill(~allowed, 0.0)).sum(1)
    return finished(values, where)


class CRD(Loss):
    """`crd` on learned linear embeddings of both sides, against memory banks of all training samples.

    It needs the ids of all samples before training: `distiller.prepare(ids)`, which DistillTrainer calls; a batch then
    carries its samples' own in `ids`. Under several processes each has a bank of all samples, in which it updates those
    that it sees. The negatives of a training step are drawn once for the whole batch; in eval mode they are spread
    evenly over the samples, and nothing is updated.

    Args:
        width: of the embeddings.
        negatives: drawn a step, at most one less than there are samples.
        momentum: how much of a remembered embedding stays when its sample is seen again, in [0, 1].
        temperature: T > 0.
        other_classes: a sample's negatives have other labels than it, as far as both are known.
    """

    name = "crd"
    inputs: tuple[LossInput, ...] = ("teacher", "labels", "ids", "where")
    wants = "embedding"
    aligned = False
    needs_ids = True
    sample_ids: Tensor
    sample_labels: Tensor
    student_bank: Tensor
    teacher_bank: Tensor
    log_constants: Tensor

    def __init__(
        self,
        width: int = 128,
        negatives: int = 4096,
        momentum: float = 0.5,
        temperature: float = 0.07,
        other_classes: bool = True,
    ) -> None:
        super().__init__()
        self.width = int(positive(width, "CRD width"))
        self.negatives = int(positive(negatives, "CRD negatives"))
        self.momentum = fraction(momentum, "CRD momentum")
        self.temperature = positive(temperature, "CRD temperature")
        self.other_classes = other_classes
        self.student_embedding: nn.Linear | None = None
        self.teacher_embedding: nn.Linear | None = None
        # The banks have a last row for what belongs to no sample, so that nothing has to wait for which items do.
        self.register_buffer("sample_ids", torch.empty(0, dtype=torch.int64))
        self.register_buffer("sample_labels", torch.empty(0, dtype=torch.int64))
        self.register_buffer("student_bank", torch.empty(0, self.width))
        self.register_buffer("teacher_bank", torch.empty(0, self.width))
        self.register_buffer("log_constants", torch.full((2,), -math.inf))
        self._measured = False

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes the linear embeddings of both sides."""
        assert isinstance(student, Tensor)
        assert isinstance(teacher, Tensor | None)
        here, there = (embedded(side).shape[-1] for side in (student, student if teacher is None else teacher))
        self.student_embedding = nn.Linear(here, self.width)
        self.teacher_embedding = nn.Linear(there, self.width)
        self.to(student.device)

    def prepare(self, ids: Tensor) -> None:
        """Makes room for these samples in the banks, (samples,) int64; what is remembered of any of them stays."""
        ids = ids.to(self.log_constants.device).unique()
        if torch.equal(ids, self.sample_ids):
            return
        # A generator of its own: all processes begin with one bank, and no other random number changes.
        generator = torch.Generator().manual_seed(0)
        spread = math.sqrt(3.0 / self.width)
        rows = self._rows(ids) if len(self.sample_ids) else torch.zeros_like(ids)
        known = rows < len(self.sample_ids)
        for name in ("student_bank", "teacher_bank"):
            old: Tensor = getattr(self, name)
            bank = torch.empty(len(ids) + 1, self.width).uniform_(-spread, spread, generator=generator).to(old)
            bank[:-1][known] = old[rows[known]]
            setattr(self, name, bank)
        labels = torch.full((len(ids) + 1,), -1, device=ids.device)
        labels[:-1][known] = self.sample_labels[rows[known]]
        self.sample_labels, self.sample_ids = labels, ids

    def forward(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None, ids: Tensor | None, where: Tensor | None = None
    ) -> Tensor:
        """(batch,) from features of shape (batch, …), and labels, ids and a mask of shape (batch,)."""
        student, teacher = self._embeddings(student, teacher, ids, where)
        assert ids is not None
        rows, samples = self._rows(ids), len(self.sample_ids)
        known = (rows < samples).unsqueeze(1)
        positives = (
            torch.where(known, self.student_bank[rows], student),
            torch.where(known, self.teacher_bank[rows], teacher),
        )
        chosen = self._chosen()
        negatives = (self.student_bank.index_select(0, chosen), self.teacher_bank.index_select(0, chosen))
        allowed = chosen != rows.unsqueeze(1)
        if labels is not None and (labels.is_floating_point() or labels.dim() != 1):
            labels = None
        if labels is not None and self.other_classes:
            allowed &= (self.sample_labels[chosen] != labels.unsqueeze(1)) | (labels < 0).unsqueeze(1)
        constants = self.log_constants
        if not self._measured:
            kept = allowed if where is None else allowed & where.unsqueeze(1)
            constants = self._measure(student, teacher, positives, negatives, kept, where)
        values = crd(
            student, teacher, positives, negatives, where,
            samples=samples, log_constants=constants, temperature=self.temperature, allowed=allowed,
        )  # fmt: skip
        if self.training:
            self._remember(rows if where is None else torch.where(where, rows, samples), student, teacher, labels)
        return values

    def _embeddings(self, student: Tensor, teacher: Tensor, ids: Tensor | None, where: Tensor | None) -> Sides:
        """The batch's embeddings (batch, width) at length 1."""
        if self.student_embedding is None or self.teacher_embedding is None:
            raise unbuilt("crd")
        if len(self.sample_ids) == 0:
            raise LimbeckError(
                "crd remembers every sample: call distiller.prepare(ids) with the ids of all training samples before "
                "training (DistillTrainer does)"
            )
        if ids is None or ids.shape != student.shape[:1]:
            raise LimbeckError(
                f"crd: expected ids of shape ({len(student)},) in the batch, one a sample, got "
                f"{'none' if ids is None else tuple(ids.shape)}; give every sample an entry `ids`"
            )
        student, teacher = both(student, teacher, where, "crd")
        with full_precision(student):
            mine = self.student_embedding(embedded(student))
            theirs = self.teacher_embedding(embedded(teacher))
        return unit(mine), unit(theirs)

    def _rows(self, ids: Tensor) -> Tensor:
        """Where the samples are in the banks, (batch,); the last row for those that are not."""
        last = len(self.sample_ids)
        rows = torch.searchsorted(self.sample_ids, ids.contiguous()).clamp(max=last - 1)
        return torch.where(self.sample_ids[rows] == ids, rows, last)

    def _chosen(self) -> Tensor:
        """The rows of the negatives."""
        samples, device = len(self.sample_ids), self.sample_ids.device
        count = min(self.negatives, samples - 1)
        if self.training:
            return torch.randint(samples, (count,), device=device)
        return torch.arange(count, device=device) * samples // max(count, 1)

    @torch.no_grad()
    def _measure(
        self, student: Tensor, teacher: Tensor, positives: Sides, negatives: Sides, kept: Tensor, where: Tensor | None
    ) -> Tensor:
        """log Z of both sides, (2,), such that the mean score of a batch is 1 / N; a training's first batch sets it."""
        there = torch.ones(len(kept), dtype=torch.bool, device=kept.device) if where is None else where
        mask = torch.cat([there.unsqueeze(1), kept], 1)
        found = []
        for anchor, same, others in (
            (student, positives[1], negatives[1]),
            (teacher, positives[0], negatives[0]),
        ):
            one, many = _scores(anchor, same, others, self.temperature)
            scores = torch.cat([one.unsqueeze(1), many], 1).masked_fill(~mask, -math.inf)
            found.append(scores.flatten().logsumexp(0) - (mask.sum().clamp(min=1) / len(self.sample_ids)).log())
        constants = torch.stack(found)
        if self.training:
            self.log_constants.copy_(constants)
            self._measured = bool(constants.isfinite().all())
        return constants.nan_to_num(neginf=0.0)

    @torch.no_grad()
    def _remember(self, rows: Tensor, student: Tensor, teacher: Tensor, labels: Tensor | None) -> None:
        for bank, vectors in ((self.student_bank, student), (self.teacher_bank, teacher)):
            mixed = self.momentum * bank[rows] + (1.0 - self.momentum) * vectors
            bank.index_copy_(0, rows, unit(mixed).to(bank.dtype))
            bank[-1].zero_()
        if labels is not None:
            self.sample_labels.index_copy_(0, rows, labels.clamp(min=-1))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # A checkpoint brings as many samples as it has, whether or not `prepare` was called.
        for name in MEMORY:
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(saved, Tensor) and saved.shape != own.shape:
                setattr(self, name, own.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._measured = bool(self.log_constants.isfinite().all())


def _scores(anchor: Tensor, same: Tensor, others: Tensor, temperature: float) -> Sides:
    """Scores of the anchors (batch, width) with their own (batch,), and with the others (batch, others)."""
    with full_precision(anchor):
        return (anchor * same).sum(1) / temperature, anchor @ others.t() / temperature
