"""Losses against the labels. What has no label costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import class_indices, fraction, precise
from limbeck.types import UNLABELLED


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """−log softmax(logits) at the label: the negative log-likelihood, in nats; 0 where there is no label.

    Args:
        logits: (batch, …, classes).
        labels: (batch, …) int64 class indices, −1 where unlabelled; or probabilities (batch, …, classes), as mixing
            gives them, a row of −1 where unlabelled.
        label_smoothing: the part of the target spread evenly over all classes, in [0, 1].
        class_weights: (classes,), what an item of each class counts; the objective's mean divides by the
            number of items, not by the sum of these.

    Returns:
        (batch, …), in float32 (float64 where the logits are).

    Raises:
        LimbeckError: shapes do not fit, labels are not class indices, or a setting is out of range.
    """
    if labels.is_floating_point():
        return _soft_cross_entropy(logits, labels, label_smoothing, class_weights)
    class_indices(labels, logits, "cross_entropy")
    fraction(label_smoothing, "label_smoothing")
    z = precise(logits)
    if class_weights is not None:
        class_weights = _one_a_class(class_weights, z, "cross_entropy class_weights")
    flat = z.dim() == 2
    values = F.cross_entropy(
        z if flat else z.reshape(-1, z.shape[-1]),
        labels.long() if flat else labels.reshape(-1).long(),
        weight=class_weights,
        ignore_index=UNLABELLED,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return values if flat else values.view(labels.shape)


def _soft_cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float, class_weights: Tensor | None
) -> Tensor:
    known = targets.amin(-1) >= 0 if targets.shape == logits.shape else torch.zeros(())
    whole = (targets.sum(-1) - 1).abs() <= 1e-3
    # Looking at values would make a GPU wait; there the shape must do.
    if targets.shape != logits.shape or (targets.device.type == "cpu" and not bool((whole | ~known).all())):
        raise LimbeckError(
            f"cross_entropy: expected int64 class indices, or probabilities that add up to 1 of shape "
            f"{tuple(logits.shape)}, got {targets.dtype} labels of shape {tuple(targets.shape)}; targets with one "
            "value a class need the sigmoid losses (SupervisedBCE, SigmoidKD)"
        )
    z = precise(logits)
    values = F.cross_entropy(
        z.reshape(-1, z.shape[-1]),
        targets.clamp(min=0).to(z.dtype).reshape(-1, z.shape[-1]),
        weight=None if class_weights is None else _one_a_class(class_weights, z, "cross_entropy class_weights"),
        reduction="none",
        label_smoothing=fraction(label_smoothing, "label_smoothing"),
    ).view(known.shape)
    return torch.where(known, values, 0.0)


def binary_cross_entropy(logits: Tensor, targets: Tensor, *, pos_weight: Tensor | None = None) -> Tensor:
    """The mean over an item's labelled classes of −w · y · log σ(z) − (1 − y) · log σ(−z), in nats.

    0 for an item without any label.

    Args:
        logits: (batch, …, classes).
        targets: the same shape: y from 0 to 1; negative (−1) or NaN where a class is unlabelled.
        pos_weight: (classes,), what a positive of each class counts.

    Returns:
        (batch, …), in float32 (float64 where the logits are).

    Raises:
        LimbeckError: shapes do not fit.
    """
    if targets.shape != logits.shape:
        raise LimbeckError(
            f"binary_cross_entropy: expected targets of shape {tuple(logits.shape)}, one value a class, got "
            f"{tuple(targets.shape)}; class indices go to Supervised (cross_entropy)"
        )
    z = precise(logits)
    if pos_weight is not None:
        pos_weight = _one_a_class(pos_weight, z, "binary_cross_entropy pos_weight")
    known = targets >= 0  # NaN compares as false
    y = torch.where(known, targets.to(z.dtype), 0.0)
    values = F.binary_cross_entropy_with_logits(z, y, pos_weight=pos_weight, reduction="none")
    return torch.where(known, values, 0.0).sum(-1) / known.sum(-1).clamp(min=1)


class Supervised(Loss):
    """`cross_entropy` with its label smoothing and class weights."""

    name = "supervised"
    inputs: tuple[LossInput, ...] = ("labels",)
    skips_unlabelled = True
    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = fraction(label_smoothing, "Supervised label_smoothing")
        self.register_buffer("class_weights", _weights(class_weights, "Supervised class_weights"))

    def forward(self, student: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes) and labels of shape (batch, …)."""
        return cross_entropy(
            student,
            _given(labels, "Supervised"),
            label_smoothing=self.label_smoothing,
            class_weights=self.class_weights,
        )


class SupervisedBCE(Loss):
    """`binary_cross_entropy` with its positive weights."""

    name = "supervised-bce"
    inputs: tuple[LossInput, ...] = ("labels",)
    skips_unlabelled = True
    pos_weight: Tensor | None

    def __init__(self, pos_weight: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", _weights(pos_weight, "SupervisedBCE pos_weight"))

    def forward(self, student: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, …) from logits and targets of shape (batch, …, classes)."""
        return binary_cross_entropy(student, _given(labels, "SupervisedBCE"), pos_weight=self.pos_weight)


def _given(labels: Tensor | None, what: str) -> Tensor:
    if labels is None:
        raise LimbeckError(f"{what}: the batch has no labels; add them, or leave this term out of the objective")
    return labels


def _weights(weights: Sequence[float] | Tensor | None, what: str) -> Tensor | None:
    """A copy of the weights, (classes,) in float32."""
    if weights is None:
        return None
    tensor = torch.as_tensor(weights, dtype=torch.float32).detach().clone()
    if tensor.dim() != 1 or not bool((tensor.isfinite() & (tensor >= 0)).all()):
        raise LimbeckError(f"{what}: expected one number a class, each 0 or positive and finite, got {weights}")
    return tensor


def _one_a_class(weights: Tensor, logits: Tensor, what: str) -> Tensor:
    if weights.shape != logits.shape[-1:]:
        raise LimbeckError(
            f"{what}: expected {logits.shape[-1]} numbers, one a class, got shape {tuple(weights.shape)}"
        )
    return weights.to(logits.dtype)
