"""Mutual learning: several students of one task, each taught by the labels and by what the others say."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.losses import Loss, Supervised
from limbeck.losses.numeric import positive
from limbeck.losses.response import kd
from limbeck.models import as_module
from limbeck.models.heads import is_causal_lm
from limbeck.objective import Objective
from limbeck.shortcuts import SHORTCUTS, known_shortcuts
from limbeck.taps import SignalReader
from limbeck.terms import LOGITS, Schedule, Term
from limbeck.types import Batch, Signal

FOR_ONE_STUDENT = frozenset({"channels-last", "linear-head"})
"""Shortcuts that look at one student."""


class PeerKD(Loss):
    """The mean over peers of T² · KL(peer ‖ student), from a tuple of the peers' logits."""

    name = "mutual"

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "PeerKD temperature")

    def forward(self, student: Tensor, peers: tuple[Tensor, ...]) -> Tensor:
        """(batch,) from logits of shape (batch, classes), one of the student and one of each peer."""
        return torch.stack([kd(student, peer, temperature=self.temperature) for peer in peers]).mean(0)


class Mutual(Distiller):
    """Students that learn together, each from the labels and from its peers' predictions of the same batch.

    Each has cross-entropy + weight · the mean over its peers of T² · KL(peer ‖ student), without gradient in the peers.
    It is used as a Distiller is, in a loop of your own or in DistillTrainer, and trains all of them: `student` is the
    first, which is evaluated and saved; `students` are all. Terms are called `supervised-0`, `mutual-0`, and so on.
    All see one batch and are updated together; the paper updates them in turn, each after the others' latest answers.

    Args:
        students: two or more modules with the same classes, of any architectures.
        temperature: T; the paper has 1.
        weight: of the peers beside the labels; a number or a Schedule.
        shortcuts: as of a Distiller; those that look at one student are not taken.

    Raises:
        LimbeckError: there are fewer than two students, two are one object, or one is a causal language model.

    Zhang et al. 2018, "Deep Mutual Learning", arXiv:1706.00384, sections 2.2 and 2.3.
    """

    def __init__(
        self,
        students: Sequence[nn.Module],
        *,
        temperature: float = 1.0,
        weight: float | Schedule = 1.0,
        shortcuts: Collection[str] = SHORTCUTS,
    ) -> None:
        models = [as_module(student) for student in students]
        if len(models) < 2 or len(set(map(id, models))) < len(models):
            raise LimbeckError(
                f"Mutual needs two students or more, each a module of its own; got {len(set(map(id, models)))} "
                "(build each, or copy.deepcopy and give it other weights)"
            )
        if any(is_causal_lm(model) for model in models):
            raise LimbeckError("Mutual takes models that give one answer a sample, not causal language models")
        super().__init__(models[0], None, [Term(Supervised())], shortcuts=known_shortcuts(shortcuts) - FOR_ONE_STUDENT)
        self.peers = nn.ModuleList(models[1:])
        names = [LOGITS, *(f"{LOGITS}-{index}" for index in range(1, len(models)))]
        self._readers = {
            name: SignalReader(model, (LOGITS,), f"student {index}")
            for index, (name, model) in enumerate(zip(names, models, strict=True))
        }
        terms = []
        for index, name in enumerate(names):
            others = tuple(other for other in names if other != name)
            terms += [
                Term(Supervised(), student=name, name=f"supervised-{index}"),
                Term(PeerKD(temperature), weight, student=name, teacher=others, own=True, name=f"mutual-{index}"),
            ]
        self.objective = Objective(terms)

    @property
    def students(self) -> tuple[nn.Module, ...]:
        """All students, in the order in which they were given."""
        return (self.student, *self.peers)

    def learning(self) -> list[nn.Parameter]:
        """The parameters of all students that are trained."""
        return [each for student in self.students for each in student.parameters() if each.requires_grad]

    def train(self, mode: bool = True) -> Mutual:
        """As of any module."""
        nn.Module.train(self, mode)
        return self

    def _student(self, batch: Batch) -> Signal:
        return Signal({name: read(batch)[LOGITS] for name, read in self._readers.items()})
