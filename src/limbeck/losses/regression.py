"""Losses of models that give numbers instead of classes. What has no label costs nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import precise


def squared_error(predictions: Tensor, labels: Tensor) -> Tensor:
    """The mean over an item's labelled values of (prediction − label)²; 0 for an item without any.

    Args:
        predictions: (batch, values), or (batch,) where there is one.
        labels: (batch, values), or (batch,) where there is one; NaN where a value is unknown.

    Returns:
        (batch,), in float32 (float64 where the predictions are).

    Raises:
        LimbeckError: the shapes do not fit.
    """
    given = precise(predictions)
    given = given.unsqueeze(-1) if given.dim() == 1 else given
    wanted = labels.unsqueeze(-1) if labels.dim() == 1 else labels
    if given.shape != wanted.shape:
        raise LimbeckError(
            f"squared_error: expected labels of shape {tuple(predictions.shape)}, one number a value, got "
            f"{tuple(labels.shape)}; class indices go to Supervised (cross_entropy)"
        )
    known = ~wanted.isnan()
    errors = (given - torch.where(known, wanted.to(given.dtype), 0.0)).square()
    return torch.where(known, errors, 0.0).sum(-1) / known.sum(-1).clamp(min=1)


class SupervisedMSE(Loss):
    """`squared_error`: what a model that gives numbers learns of labels."""

    name = "supervised-mse"
    inputs: tuple[LossInput, ...] = ("labels",)
    skips_unlabelled = True

    def forward(self, student: Tensor, labels: Tensor | None) -> Tensor:
        """(batch,) from predictions and labels of shape (batch, values)."""
        if labels is None:
            raise LimbeckError("SupervisedMSE: the batch has no labels; add them, or leave this term out")
        return squared_error(student, labels)
