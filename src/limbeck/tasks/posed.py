"""What a model finds of the poses of a split, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from limbeck.errors import LimbeckError
from limbeck.metrics.decoding import Decoding, decode_keypoints, with_mirrored
from limbeck.metrics.poses import (
    PCK,
    TruePoses,
    joint_distances,
    oks_ap,
    pck,
    per_joint,
    pose_sizes,
)
from limbeck.models import forward_of, without_answers
from limbeck.models.poses import HEATMAPS, SIMCC
from limbeck.sources import collate_samples
from limbeck.sources.poses import PoseSet
from limbeck.tasks.task import Unmeasured, unmeasured
from limbeck.teachers import Stored, Teacher
from limbeck.types import Batch, Signal

Floats = NDArray[np.float64]

BATCH = 64


class Reading(Protocol):
    """How joints are read off."""

    @property
    def decoding(self) -> Decoding: ...

    @property
    def sigma(self) -> float: ...

    @property
    def flip_test(self) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class Posed:
    """The joints that a model finds in a split: (poses, joints, 2) in pixels of the pictures, and how sure it is of
    each, (poses, joints)."""

    joints: Floats
    confidence: Floats
    split: PoseSet
    why: str = ""

    @property
    def truth(self) -> TruePoses:
        """What the joints are compared with; its first poses are the split's, in order."""
        return TruePoses(**self.split.references())

    def sizes(self, truth: TruePoses) -> Floats:
        """What the split's distances are measured by, (poses,)."""
        count = len(self.joints)
        return pose_sizes(truth.joints[:count], truth.boxes[:count], self.split.measured_by)

    def distances(self, truth: TruePoses) -> Floats:
        """How far each joint is from the truth, (poses, joints) in pixels; NaN where it is not annotated."""
        return joint_distances(self.joints, truth.joints[: len(self.joints)])

    def metrics(self) -> dict[str, float]:
        """PCK, the mean distance, and COCO's average precision."""
        truth, count = self.truth, len(self.joints)
        found = pck(self.distances(truth), self.sizes(truth))
        scores = self.confidence.mean(1)
        return found | oks_ap(self.joints, scores, truth.pictures[:count], truth, self.split.skeleton.sigmas)

    def fidelity(self, taught: Posed | Unmeasured) -> dict[str, float]:
        """The mean distance of all joints from the teacher's, in shares of the pose's size, and how many are within a
        tenth of it."""
        if isinstance(taught, Unmeasured):
            return {}
        shares = self.apart(taught)
        known = np.isfinite(shares)
        if not known.any():
            return {}
        return {
            "agreement": float((shares[known] <= PCK["pck10"]).mean()),
            "teacher_distance": float(shares[known].mean()),
        }

    def apart(self, other: Posed) -> Floats:
        """How far each joint is from another model's, (poses, joints) in shares of the pose's size."""
        apart: Floats = np.linalg.norm(self.joints - other.joints, axis=-1) / self.sizes(self.truth)[:, None]
        return apart

    def details(self) -> dict[str, Any]:
        """The joints one by one."""
        truth = self.truth
        joints = per_joint(self.distances(truth), self.sizes(truth), self.split.classes)
        parts = [{"name": each["joint"], "annotated": each["annotated"], "share": each["pck10"]} for each in joints]
        return {
            "joints": joints,
            "breakdown": {
                "title": "PCK@0.1 by joint",
                "note": "Of each joint the share that is found within a tenth of the pose’s size, in percent, averaged "
                "over the seeds.",
                "what": "joint",
                "parts": parts,
            },
        }


def predict(read: Any, split: PoseSet, *, label: str, workers: int = 0, reading: Reading) -> Posed | Unmeasured:
    """Runs a module or a teacher over all poses, and reads off the joints.

    A label store answers for the samples as they are; there is no flip test of what it holds.
    """
    if isinstance(read, Stored) and read.fallback is not None:
        read = read.fallback
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run: Callable[[Batch], Signal] = read
    if isinstance(read, nn.Module):
        run = forward_of(read.to(device).eval())
    elif isinstance(read, Teacher):
        try:
            ask_for_keypoints(read)
        except LimbeckError as error:
            return unmeasured(f"{label}: the teacher was not measured: {error}")
    flips = reading.flip_test and not isinstance(read, Stored)
    order, size = split.skeleton.mirrored, split.preprocessing.size
    loader = DataLoader(split, batch_size=BATCH, collate_fn=collate_samples, num_workers=workers)
    joints: list[Tensor] = []
    sure: list[Tensor] = []
    with torch.inference_mode():
        for batch in tqdm(loader, desc=label, leave=False, disable=None):
            moved = {name: tensor.to(device) for name, tensor in without_answers(batch).items()}
            try:
                signal: Any = run(moved)
                if flips:
                    signal = with_mirrored(signal, run(moved | {"inputs": moved["inputs"].flip(-1)}), order)
            except LimbeckError as error:
                if not isinstance(read, Stored):
                    raise
                return unmeasured(f"{label}: the teacher was not measured: {error}")
            found, confidence = decode_keypoints(signal, size, decoding=reading.decoding, sigma=reading.sigma)
            if found.shape[1] != len(split.skeleton):
                raise LimbeckError(
                    f"{label}: the model finds {found.shape[1]} joints, the data has {len(split.skeleton)}; use it "
                    "with data of its own skeleton"
                )
            if not sound(signal) or not bool(confidence.isfinite().all()):
                raise LimbeckError(
                    f"{label}: the model's keypoints are NaN or infinite; training diverged: lower the learning rate, "
                    "or train in float32 or bfloat16"
                )
            joints.append(found.cpu())
            sure.append(confidence.cpu())
    inside = torch.cat(joints).numpy().astype(np.float64)
    return Posed(split.in_pictures(inside), torch.cat(sure).numpy().astype(np.float64), split)


def sound(signal: Any) -> bool:
    """Whether keypoints are numbers; that of a bin without any probability may be −∞."""
    given = [signal[name] for name in (HEATMAPS, *SIMCC) if name in signal]
    return all(bool((tensor < torch.inf).all()) for tensor in given)


def ask_for_keypoints(teacher: Teacher) -> None:
    """Asks a teacher for whichever keypoints it gives. Raises LimbeckError where it gives none."""
    try:
        teacher.require([HEATMAPS])
    except LimbeckError as error:
        try:
            teacher.require(list(SIMCC))
        except LimbeckError:
            raise error from None
