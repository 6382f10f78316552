"""Losses on keypoints as classified coordinates (SimCC): a distribution over x and one over y for each joint."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.joints import (
    JointWeights,
    check_joints,
    input_size_of,
    joint_weights,
    joint_weights_known,
    truth_of,
)
from limbeck.losses.numeric import positive, precise

SIGNALS = ("simcc_x", "simcc_y")

Coordinates = tuple[Tensor, Tensor]
"""Logits over the bins of x and of y, (batch, joints, bins) each."""


def smoothed_coordinates(coordinates: Tensor, bins: int, length: int, *, sigma: float = 6.0) -> Tensor:
    """The logarithms of a Gaussian around each joint, cut off at the edges and normalised over the bins.

    Args:
        coordinates: (batch, joints), in pixels of the input.
        bins: of which `length` pixels have that many, evenly.
        sigma: in bins.

    Returns:
        (batch, joints, bins), in float32 (float64 where the coordinates are).
    """
    values = precise(coordinates)
    middle = (values + 0.5) * (bins / length) - 0.5
    places = torch.arange(bins, device=values.device, dtype=values.dtype)
    return ((places - middle.unsqueeze(-1)).square() * (-0.5 / sigma**2)).log_softmax(-1)


def simcc_error(logits: Coordinates, keypoints: Tensor, input_size: tuple[int, int], *, sigma: float = 6.0) -> Tensor:
    """The mean over joints of KL(smoothed label ‖ softmax) of x and of y together, 0 for a joint that is not annotated.

    Args:
        logits: of x and of y, (batch, joints, bins) each.
        keypoints: (batch, joints, 3): x and y in pixels of the input, and whether the joint is annotated.
        input_size: rows and columns of the input.
        sigma: of the labels' Gaussian, in bins.

    Returns:
        (batch,), in float32 (float64 where the logits are).

    Raises:
        LimbeckError: the shapes do not fit, or sigma is not positive.

    Li et al. 2022, "SimCC", arXiv:2107.03332, section 3.2.
    """
    positive(sigma, "simcc_error sigma")
    total: Tensor | None = None
    for axis, (each, length) in enumerate(zip(logits, reversed(input_size), strict=True)):
        given = precise(each)
        check_joints(given, keypoints, "simcc_error")
        log_p = smoothed_coordinates(keypoints[..., axis].to(given.dtype), given.shape[-1], length, sigma=sigma)
        divergence = (log_p.exp() * (log_p - given.log_softmax(-1))).sum(-1)
        total = divergence if total is None else total + divergence
    assert total is not None
    return torch.where(keypoints[..., 2] > 0, total, 0.0).mean(-1)


def simcc_kd(
    student: Coordinates, teacher: Coordinates, weights: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """T² · the weighted mean over joints of KL(teacher ‖ student) of x and of y together, softened by T.

    Args:
        student: logits of x and of y, (batch, joints, bins) each.
        teacher: the same shapes; never receives a gradient.
        weights: (batch, joints), not negative; None weighs all joints alike. What has no weight costs nothing, and is
            counted in the mean.
        temperature: T > 0.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes do not fit, or the temperature is not positive.

    Yang et al. 2023, "Effective Whole-body Pose Estimation with Two-stages Distillation" (DWPose), arXiv:2307.15880,
    equation 3.
    """
    positive(temperature, "simcc_kd temperature")
    total: Tensor | None = None
    for mine, theirs in zip(student, teacher, strict=True):
        if mine.dim() != 3 or mine.shape != theirs.shape:
            raise LimbeckError(
                f"simcc_kd: the student gives shape {tuple(mine.shape)}, the teacher {tuple(theirs.shape)}; expected "
                "(batch, joints, bins) of the same joints and bins: give both one `split` and size"
            )
        log_q = (precise(mine) / temperature).log_softmax(-1)
        log_p = (precise(theirs.detach()) / temperature).log_softmax(-1).to(log_q.dtype)
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
        total = divergence if total is None else total + divergence
    assert total is not None
    if weights is not None:
        total = torch.where(weights > 0, total * weights.to(total.dtype), 0.0)
    return temperature * temperature * total.mean(-1)


def simcc_confidence(logits: Coordinates) -> Tensor:
    """How sure a model is of each joint, (batch, joints) from 0 to 1: one less the entropy of the less sure coordinate
    in shares of the largest, from logits (batch, joints, bins)."""
    sure = []
    for each in logits:
        log_p = precise(each.detach()).log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        sure.append(1.0 - entropy / math.log(max(each.shape[-1], 2)))
    return torch.minimum(*sure).clamp(0.0, 1.0)


class SupervisedSimCC(Loss):
    """`simcc_error` for the batch's keypoints."""

    name = "supervised-simcc"
    inputs: tuple[LossInput, ...] = ("batch",)
    student_signals = SIGNALS
    skips_unlabelled = True

    def __init__(self, sigma: float = 6.0) -> None:
        super().__init__()
        self.sigma = positive(sigma, "SupervisedSimCC sigma")

    def forward(self, student: Coordinates, batch: Mapping[str, Tensor]) -> Tensor:
        """(batch,) from the signals simcc_x and simcc_y, (batch, joints, bins) each."""
        keypoints = truth_of(batch, "SupervisedSimCC")
        return simcc_error(student, keypoints, input_size_of(batch), sigma=self.sigma)


class SimCCKD(Loss):
    """`simcc_kd` with its temperature, and the weights of joints that `weights` names."""

    name = "simcc-kd"
    inputs: tuple[LossInput, ...] = ("teacher", "batch")
    student_signals = teacher_signals = SIGNALS
    aligned = False

    def __init__(self, temperature: float = 1.0, weights: JointWeights = "visibility") -> None:
        super().__init__()
        self.temperature = positive(temperature, "SimCCKD temperature")
        self.weights = joint_weights_known(weights, "SimCCKD weights")

    def forward(self, student: Coordinates, teacher: Coordinates, batch: Mapping[str, Tensor]) -> Tensor:
        """(batch,) from the signals simcc_x and simcc_y, (batch, joints, bins) each."""
        weights = joint_weights(batch, simcc_confidence(teacher), self.weights)
        return simcc_kd(student, teacher, weights, temperature=self.temperature)
