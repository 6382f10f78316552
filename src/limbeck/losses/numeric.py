"""What the losses share: the precision of statistics, and the checks of what the user gave."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.types import UNLABELLED

FEW_CLASSES = 64


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is in float64: half precision loses the small probabilities."""
    return tensor if tensor.dtype is torch.float64 else tensor.float()


def log_softmax(logits: Tensor) -> Tensor:
    """Logarithms of softmax over the last dimension; of few classes sideways, which a processor does five times
    sooner."""
    if logits.dim() == 2 and logits.shape[1] <= FEW_CLASSES and logits.device.type == "cpu":
        return logits.t().log_softmax(0).t()
    return logits.log_softmax(-1)


def positive(value: float, what: str) -> float:
    """Gives `value` back; raises LimbeckError unless it is a positive, finite number."""
    if not 0.0 < value < math.inf:
        raise LimbeckError(f"{what}: expected a positive number, got {value}")
    return value


def not_negative(value: float, what: str) -> float:
    """Gives `value` back; raises LimbeckError unless it is 0 or a positive, finite number."""
    if not 0.0 <= value < math.inf:
        raise LimbeckError(f"{what}: expected 0 or a positive number, got {value}")
    return value


def fraction(value: float, what: str) -> float:
    """Gives `value` back; raises LimbeckError unless it is in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise LimbeckError(f"{what}: expected a number from 0 to 1, got {value}")
    return value


def at_least_two_classes(logits: Tensor, what: str) -> None:
    """Raises LimbeckError where a loss that compares classes with one another gets fewer than two."""
    if logits.dim() == 0 or logits.shape[-1] < 2:
        raise LimbeckError(
            f"{what}: expected logits of shape (batch, …, classes) with at least 2 classes, got shape "
            f"{tuple(logits.shape)}; for one logit an output use the sigmoid losses"
        )


def class_indices(labels: Tensor, logits: Tensor, what: str) -> None:
    """Raises LimbeckError unless labels are class indices, one an item of logits (batch, …, classes)."""
    if labels.is_floating_point():
        raise LimbeckError(
            f"{what}: expected int64 class indices as labels, got {labels.dtype}; "
            "targets with one value a class need the sigmoid losses (SupervisedBCE, SigmoidKD)"
        )
    if labels.shape != logits.shape[:-1]:
        raise LimbeckError(
            f"{what}: expected labels of shape {tuple(logits.shape[:-1])} for logits of shape "
            f"{tuple(logits.shape)}, got {tuple(labels.shape)}; one index an item, {UNLABELLED} for none"
        )


def target_classes(teacher_logits: Tensor, labels: Tensor | None) -> Tensor:
    """The labels (batch, …), and the teacher's top class where there is none."""
    top = teacher_logits.detach().argmax(-1)
    return top if labels is None else torch.where(labels < 0, top, labels)


def full_precision(tensor: Tensor) -> torch.autocast:
    """Keeps matrix products in the tensors' own precision inside of mixed-precision training, which would round them
    to half."""
    return torch.autocast(tensor.device.type, enabled=False)


def unbuilt(what: str) -> LimbeckError:
    """The error of a loss that was not built."""
    return LimbeckError(
        f"{what}: give the Distiller example=batch (or call build) so that it can make its learned parts"
    )
