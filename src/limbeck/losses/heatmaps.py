"""Losses on heatmaps of keypoints: against the truth, and against a teacher's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

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


def gaussian_heatmaps(
    keypoints: Tensor, map_size: tuple[int, int], input_size: tuple[int, int], *, sigma: float = 2.0
) -> Tensor:
    """exp(−d² / 2σ²), d being how many cells a cell of the map is from the joint, without rounding the joint to a cell.

    Args:
        keypoints: (batch, joints, 2 or more), x and y in pixels of the input.
        map_size, input_size: rows and columns; the cells of a map cover the input evenly.
        sigma: in cells of the map.

    Returns:
        (batch, joints, rows, columns), in float32 (float64 where the keypoints are).

    Xiao et al. 2018, arXiv:1804.06208; unrounded as in Zhang et al. 2020, arXiv:1910.06278, section 3.2.
    """
    xy = precise(keypoints[..., :2])
    (rows, columns), (height, width) = map_size, input_size
    x = (xy[..., :1] + 0.5) * (columns / width) - 0.5
    y = (xy[..., 1:] + 0.5) * (rows / height) - 0.5
    across = (torch.arange(columns, device=xy.device, dtype=xy.dtype) - x).square()
    down = (torch.arange(rows, device=xy.device, dtype=xy.dtype) - y).square()
    scale = -0.5 / sigma**2
    return (down * scale).exp().unsqueeze(-1) * (across * scale).exp().unsqueeze(-2)


def heatmap_error(heatmaps: Tensor, keypoints: Tensor, input_size: tuple[int, int], *, sigma: float = 2.0) -> Tensor:
    """The mean over joints and cells of (heatmap − Gaussian at the joint)², 0 for a joint that is not annotated.

    Args:
        heatmaps: (batch, joints, rows, columns).
        keypoints: (batch, joints, 3): x and y in pixels of the input, and whether the joint is annotated.
        input_size: rows and columns of the input.
        sigma: of the Gaussians, in cells of the map.

    Returns:
        (batch,), in float32 (float64 where the heatmaps are).

    Raises:
        LimbeckError: the shapes do not fit, or sigma is not positive.

    Xiao et al. 2018, "Simple Baselines for Human Pose Estimation and Tracking", arXiv:1804.06208, section 2.
    """
    positive(sigma, "heatmap_error sigma")
    given = precise(heatmaps)
    check_joints(given, keypoints, "heatmap_error")
    known = keypoints[..., 2] > 0
    wanted = gaussian_heatmaps(keypoints.to(given.dtype), (given.shape[2], given.shape[3]), input_size, sigma=sigma)
    errors = (given - wanted).square().flatten(2).mean(-1)
    return torch.where(known, errors, 0.0).mean(-1)


def heatmap_mse(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted mean over joints and cells of the squared difference of heatmaps.

    A teacher's map of another size is brought to the student's by linear interpolation, as both cover the input.

    Args:
        student: (batch, joints, rows, columns).
        teacher: the same joints; never receives a gradient.
        weights: (batch, joints), not negative; None weighs all joints alike. What has no weight costs nothing, and is
            counted in the mean.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes do not fit.

    On the heatmaps of two hourglass networks: Zhang, Zhu and Ye 2019, "Fast Human Pose Estimation", arXiv:1811.05419,
    equation 4.
    """
    given, wanted = precise(student), precise(teacher.detach())
    if given.dim() != 4 or wanted.dim() != 4 or given.shape[:2] != wanted.shape[:2]:
        raise LimbeckError(
            f"heatmap_mse: the student gives shape {tuple(student.shape)}, the teacher {tuple(teacher.shape)}; "
            "expected (batch, joints, rows, columns) of the same joints"
        )
    if given.shape != wanted.shape:
        wanted = F.interpolate(wanted, given.shape[2:], mode="bilinear", align_corners=False, antialias=True)
    errors = (given - wanted.to(given.dtype)).square().flatten(2).mean(-1)
    if weights is not None:
        errors = torch.where(weights > 0, errors * weights.to(errors.dtype), 0.0)
    return errors.mean(-1)


def heatmap_confidence(heatmaps: Tensor) -> Tensor:
    """How sure a model is of each joint, (batch, joints) from 0 to 1: the largest value of its heatmap (batch, joints,
    rows, columns), which is 1 of a Gaussian."""
    return precise(heatmaps.detach()).flatten(2).amax(-1).clamp(0.0, 1.0)


class SupervisedHeatmaps(Loss):
    """`heatmap_error` for the batch's keypoints."""

    name = "supervised-heatmaps"
    inputs: tuple[LossInput, ...] = ("batch",)
    student_signals = "heatmaps"
    skips_unlabelled = True

    def __init__(self, sigma: float = 2.0) -> None:
        super().__init__()
        self.sigma = positive(sigma, "SupervisedHeatmaps sigma")

    def forward(self, student: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """(batch,) from heatmaps of shape (batch, joints, rows, columns)."""
        keypoints = truth_of(batch, "SupervisedHeatmaps")
        return heatmap_error(student, keypoints, input_size_of(batch), sigma=self.sigma)


class HeatmapMSE(Loss):
    """`heatmap_mse` with the weights of joints that `weights` names."""

    name = "heatmap-mse"
    inputs: tuple[LossInput, ...] = ("teacher", "batch")
    student_signals = teacher_signals = "heatmaps"
    aligned = False

    def __init__(self, weights: JointWeights = "visibility") -> None:
        super().__init__()
        self.weights = joint_weights_known(weights, "HeatmapMSE weights")

    def forward(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """(batch,) from heatmaps of shape (batch, joints, rows, columns)."""
        return heatmap_mse(student, teacher, joint_weights(batch, heatmap_confidence(teacher), self.weights))
