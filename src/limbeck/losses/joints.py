"""What the losses on keypoints share: what a joint weighs, and the checks of what a batch says of joints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.types import UNLABELLED

JointWeights = Literal["visibility", "confidence", "none"]
"""What a joint weighs where a teacher teaches it: `visibility`, 1 where it is annotated and 0 where it is not, and of
samples without labels the teacher's confidence; `confidence`, the teacher's, of all; `none`, 1."""

JOINT_WEIGHTS: tuple[JointWeights, ...] = ("visibility", "confidence", "none")


def joint_weights(batch: Mapping[str, Tensor], confidence: Tensor, kind: JointWeights) -> Tensor | None:
    """What each joint weighs, (batch, joints), by what the batch says of it and the teacher's confidence.

    Raises:
        LimbeckError: the batch has keypoints of other joints than the teacher.
    """
    if kind == "none":
        return None
    if kind == "confidence" or "keypoints" not in batch:
        return confidence
    check_joints(confidence.unsqueeze(-1), batch["keypoints"], "distilling keypoints")
    visible = (batch["keypoints"][..., 2] > 0).to(confidence.dtype)
    if "labels" not in batch:
        return visible
    return torch.where((batch["labels"] == UNLABELLED).unsqueeze(-1), confidence, visible)


def check_joints(given: Tensor, keypoints: Tensor, what: str) -> None:
    """Raises LimbeckError unless keypoints are (batch, joints, 3) for a signal (batch, joints, …)."""
    if given.dim() < 3 or keypoints.dim() != 3 or keypoints.shape[-1] != 3 or keypoints.shape[:2] != given.shape[:2]:
        raise LimbeckError(
            f"{what}: a model gave shape {tuple(given.shape)} and the batch has keypoints of shape "
            f"{tuple(keypoints.shape)}; expected (batch, joints, …) and (batch, joints, 3) of the same joints"
        )


def truth_of(batch: Mapping[str, Tensor], what: str) -> Tensor:
    """The batch's keypoints. Raises LimbeckError where it has none."""
    if "keypoints" not in batch:
        raise LimbeckError(f"{what}: the batch has no `keypoints`; add them, or leave this term out")
    return batch["keypoints"]


def input_size_of(batch: Mapping[str, Tensor]) -> tuple[int, int]:
    """Rows and columns of the batch's inputs."""
    height, width = batch["inputs"].shape[-2:]
    return int(height), int(width)


def joint_weights_known(given: str, what: str) -> JointWeights:
    """Gives `given` back; raises LimbeckError unless it is one of JOINT_WEIGHTS."""
    for known in JOINT_WEIGHTS:
        if given == known:
            return known
    raise LimbeckError(f"{what}: expected one of {', '.join(JOINT_WEIGHTS)}, got {given!r}")
