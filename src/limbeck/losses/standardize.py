"""Logits brought to one mean and spread before they are compared, so that the student may have its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.numeric import at_least_two_classes, precise
from limbeck.losses.response import KD

EPSILON = 1e-7
"""Added to the standard deviation, as in the authors' code."""


def standardize(logits: Tensor) -> Tensor:
    """The z-score over classes: (z − mean) / (deviation + 1e-7), with the unbiased standard deviation.

    Args:
        logits: (batch, …, classes), at least 2 classes, all finite.

    Returns:
        The same shape, in float32 (float64 where the logits are), with the gradient of the logits.

    Raises:
        LimbeckError: fewer than 2 classes.

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", arXiv:2403.01427.
    """
    at_least_two_classes(logits, "standardize")
    z = precise(logits)
    centred = z - z.mean(-1, keepdim=True)
    deviation: Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / math.sqrt(z.shape[-1] - 1)
    return centred / (deviation + EPSILON)


class Standardized(Loss):
    """Any loss between logits, taken between the standardized logits of both models.

    The wrapped loss keeps its own temperature: the paper's base temperature is 2, with `KD` and a weight of
    9.

    Args:
        loss: a loss between logits; `KD(temperature=2.0)` by default.

    Raises:
        LimbeckError: the loss compares with no teacher.
    """

    name = "standardized"

    def __init__(self, loss: Loss | None = None) -> None:
        super().__init__()
        self.loss = KD(temperature=2.0) if loss is None else loss
        if "teacher" not in self.loss.inputs:
            raise LimbeckError(
                f"Standardized: {type(self.loss).__name__} compares with no teacher; "
                "wrap a loss between logits, such as KD"
            )
        self.inputs = self.loss.inputs
        self.skips_unlabelled = self.loss.skips_unlabelled

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes the wrapped loss's learned parts."""
        self.loss.build(student, teacher)

    def forward(self, student: Tensor, *inputs: Tensor | None) -> Tensor:
        """What the wrapped loss gives for the standardized logits, (batch, …, classes)."""
        given: list[Tensor | None] = []
        for name, value in zip(self.inputs, inputs, strict=True):
            if name == "teacher" and value is not None:
                same_shape(student, value, "standardized")
                value = standardize(value.detach())
            given.append(value)
        values: Tensor = self.loss(standardize(student), *given)
        return values
