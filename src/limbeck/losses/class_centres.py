"""The student learns in the teacher's head: its embeddings are to lie where the teacher's class centres are."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError, nearest
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.margins import centre_cosines, margin_values, metric_losses
from limbeck.losses.numeric import positive
from limbeck.types import UNLABELLED

Margin = Literal["arcface", "cosface"]
DEFAULTS = {"arcface": 28.6, "cosface": 0.35}


def class_centres(student: Tensor, teacher: Tensor, labels: Tensor | None, head: Any) -> Tensor:
    """Of a labelled item `margin_softmax` at the teacher's class centres; of any other KL(p ‖ q), where p and q are
    softmax over persons of s · cos(embedding, class centre) of teacher and student.

    Args:
        student: (batch, width); a projector makes it the teacher's width.
        teacher: the same shape; never receives a gradient.
        labels: (batch,) int64, −1 where unlabelled; None where none is.
        head: a margin loss of pytorch-metric-learning whose `W`, (width, classes), are the teacher's class centres.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit.

    Shi et al. 2020, "ProxylessKD: Direct Knowledge Distillation with Inherited Classifier for Face Recognition",
    arXiv:2011.00265 (labelled items, with the teacher's own classifier); Boutros, Štruc and Damer 2024, "AdaDistill",
    arXiv:2407.01332 (class centres as means of the teacher's embeddings).
    """
    same_shape(student, teacher, "class_centres")
    mine = centre_cosines(student, head.W, "class_centres")
    theirs = centre_cosines(teacher.detach(), head.W, "class_centres")
    wanted = head.scale_logits(theirs, None).log_softmax(1)
    soft: Tensor = (wanted.exp() * (wanted - head.scale_logits(mine, None).log_softmax(1))).sum(1)
    if labels is None:
        return soft
    if labels.shape != student.shape[:1] or labels.is_floating_point():
        raise LimbeckError(
            f"class_centres: expected labels of shape ({len(student)},), one person's number an item of the batch, got "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
    known = labels != UNLABELLED
    return torch.where(known, margin_values(mine, torch.where(known, labels, 0), head), soft)


class ClassCentres(Loss):
    """`class_centres` with the teacher's class centres, which stay as they are.

    A recipe's run computes them before a training, as means of the teacher's embeddings of each person whose pictures
    are labelled; a loop of your own calls `remember`.

    Args:
        margin: of labelled items; None: the paper's, 28.6 degrees of `arcface`, 0.35 of `cosface`.
        scale: s.
        kind: the margin's, `arcface` or `cosface`.
        hard: whether labelled items are compared with their label; else all learn the teacher's shares.
    """

    name = "class-centres"
    inputs: tuple[LossInput, ...] = ("teacher", "labels")
    wants = "embedding"

    def __init__(
        self, margin: float | None = None, scale: float = 64.0, kind: Margin = "arcface", hard: bool = True
    ) -> None:
        super().__init__()
        if kind not in get_args(Margin):
            raise LimbeckError(f"ClassCentres kind: unknown margin {kind!r}{nearest(str(kind), get_args(Margin))}")
        self.margin = positive(DEFAULTS[kind] if margin is None else margin, "ClassCentres margin")
        self.scale = positive(scale, "ClassCentres scale")
        self.kind = kind
        self.hard = hard
        self.head: Any = None

    def remember(self, centres: Tensor) -> None:
        """Takes the teacher's class centres, (classes, width), in the order of the labels."""
        classes, width = centres.shape
        known = metric_losses(self.name)
        make = known.ArcFaceLoss if self.kind == "arcface" else known.CosFaceLoss
        head = make(classes, width, margin=self.margin, scale=self.scale)
        # What the head would train is here what the teacher knows.
        del head.W
        head.register_buffer("W", centres.detach().t().float().contiguous())
        self.head = head

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """(batch,) from embeddings of shape (batch, width) and labels of shape (batch,)."""
        if self.head is None:
            raise LimbeckError(
                "class-centres: the teacher's class centres are not known; call remember(centres) before training (the "
                "task face-recognition does)"
            )
        return class_centres(student, teacher, labels if self.hard else None, self.head)
