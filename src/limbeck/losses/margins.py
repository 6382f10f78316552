"""Losses against identities that ask for a margin between one person's embeddings and all others'."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import full_precision, positive, precise, unbuilt
from limbeck.losses.vectors import unit
from limbeck.types import UNLABELLED

NEAREST = 1e-6
"""The cosine at a label keeps so far from 1 and −1, where the slope of its angle is infinite."""


def margin_softmax(student: Tensor, labels: Tensor, head: Any) -> Tensor:
    """−log softmax over persons of s · cos(embedding, class centre), with a margin at the label; 0 where there is none.

    ArcFace adds the margin m to the angle, cos(θ + m), and CosFace takes it from the cosine, cos θ − m.

    Args:
        student: (batch, width), embeddings of any length.
        labels: (batch,) int64, −1 where unlabelled.
        head: a margin loss of pytorch-metric-learning, such as `ArcFaceLoss`; its `W`, (width, classes), are the
            class centres, and `margin` and `scale` its settings.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit.

    Deng et al. 2019, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", arXiv:1801.07698, equation 3;
    Wang et al. 2018, "CosFace: Large Margin Cosine Loss for Deep Face Recognition", arXiv:1801.09414, equation 4.
    """
    cosines = centre_cosines(student, head.W, "margin_softmax")
    if labels.shape != student.shape[:1] or labels.is_floating_point():
        raise LimbeckError(
            f"margin_softmax: expected labels of shape ({len(student)},), one person's number an item of the batch, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    known = labels != UNLABELLED
    return margin_values(cosines, torch.where(known, labels, 0), head).masked_fill(~known, 0.0)


def centre_cosines(embeddings: Tensor, centres: Tensor, what: str) -> Tensor:
    """Cosines (batch, classes) of embeddings (batch, width) with class centres (width, classes).

    Raises:
        LimbeckError: shapes do not fit.
    """
    if embeddings.dim() != 2 or embeddings.shape[1] != centres.shape[0]:
        raise LimbeckError(
            f"{what}: expected embeddings of shape (batch, {centres.shape[0]}), of the class centres' width, got "
            f"{tuple(embeddings.shape)}"
        )
    with full_precision(embeddings):
        directions = unit(precise(embeddings))
        return directions @ unit(centres.t().to(directions.dtype)).t()


def margin_values(cosines: Tensor, labels: Tensor, head: Any) -> Tensor:
    """(batch,) cross-entropies of cosines (batch, classes) with the head's margin at `labels` (batch,)."""
    own = labels.unsqueeze(1)
    # The head's own forward picks the cosines at labels by a mask, which makes a GPU wait.
    at_label = cosines.gather(1, own).clamp(NEAREST - 1.0, 1.0 - NEAREST)
    logits = head.scale_logits(cosines.scatter(1, own, head.modify_cosine_of_target_classes(at_label)), None)
    return F.cross_entropy(logits, labels, reduction="none")


class _Margin(Loss):
    """What both share: the class centres, learned, of as many persons as `classes` says."""

    inputs: tuple[LossInput, ...] = ("labels",)
    skips_unlabelled = True
    wants = "embedding"

    def __init__(self, classes: int | None, margin: float, scale: float) -> None:
        super().__init__()
        self.classes = None if classes is None else int(positive(classes, f"{type(self).__name__} classes"))
        self.margin = positive(margin, f"{type(self).__name__} margin")
        self.scale = positive(scale, f"{type(self).__name__} scale")
        self.head: Any = None

    @abstractmethod
    def _head(self, classes: int, width: int) -> Any:
        """The head of pytorch-metric-learning."""

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes the class centres."""
        assert isinstance(student, Tensor)
        if self.classes is None:
            raise LimbeckError(
                f"{self.name}: how many persons there are is not known; give classes=… (in a recipe, the task "
                "face-recognition fills it in)"
            )
        self.head = self._head(self.classes, student.shape[-1]).to(student.device)

    def forward(self, student: Tensor, labels: Tensor | None) -> Tensor:
        """(batch,) from embeddings of shape (batch, width) and labels of shape (batch,)."""
        if self.head is None:
            raise unbuilt(self.name)
        if labels is None:
            raise LimbeckError(f"{self.name}: the batch has no labels; add them, or leave this term out")
        return margin_softmax(student, labels, self.head)


class ArcFace(_Margin):
    """`margin_softmax` with a margin in degrees added to the angle.

    Args:
        classes: how many persons there are.
        margin: in degrees; the paper's 0.5 radians are 28.6.
        scale: s.
    """

    name = "arcface"

    def __init__(self, classes: int | None = None, margin: float = 28.6, scale: float = 64.0) -> None:
        super().__init__(classes, margin, scale)

    def _head(self, classes: int, width: int) -> Any:
        return metric_losses("arcface").ArcFaceLoss(classes, width, self.margin, self.scale)


class CosFace(_Margin):
    """`margin_softmax` with a margin taken from the cosine.

    Args:
        classes: how many persons there are.
        margin: m.
        scale: s.
    """

    name = "cosface"

    def __init__(self, classes: int | None = None, margin: float = 0.35, scale: float = 64.0) -> None:
        super().__init__(classes, margin, scale)

    def _head(self, classes: int, width: int) -> Any:
        return metric_losses("cosface").CosFaceLoss(classes, width, margin=self.margin, scale=self.scale)


def metric_losses(what: str) -> Any:
    """The losses of pytorch-metric-learning. Raises LimbeckError where it is not installed."""
    try:
        losses = importlib.import_module("pytorch_metric_learning.losses")
    except ImportError:
        raise LimbeckError(f'{what}: needs pytorch-metric-learning; pip install "limbeck[faces]"') from None
    return losses
