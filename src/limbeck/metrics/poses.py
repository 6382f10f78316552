"""How right poses are: shares of joints near the truth (PCK), and COCO's average precision by object keypoint
similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

PCK = {"pck05": 0.05, "pck10": 0.1, "pck20": 0.2}
"""Within which share of a pose's size a joint counts as found."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 20
"""Poses a picture that COCO's evaluation looks at."""


def pose_sizes(joints: Floats, boxes: Floats, measured_by: str | tuple[int, int] = "box") -> Floats:
    """What distances are measured by, (poses,) in pixels; NaN where it is not known.

    Args:
        joints: (poses, joints, 3), x, y and whether the joint is annotated.
        boxes: (poses, 4) xyxy.
        measured_by: `box`, the longer side of the box; `joints`, that of the box around the annotated joints, and of
            the pose's box where that is less than a pixel; or the places of two joints, whose distance is taken where
            both are annotated (PCK of the torso).
    """
    sides: Floats = (boxes[:, 2:] - boxes[:, :2]).max(1)
    if isinstance(measured_by, tuple):
        a, b = (joints[:, at] for at in measured_by)
        apart: Floats = np.linalg.norm(a[:, :2] - b[:, :2], axis=1)
        return np.where((a[:, 2] > 0) & (b[:, 2] > 0) & (apart > 0), apart, np.nan)
    if measured_by == "box":
        return sides
    known = joints[..., 2:] > 0
    extent: Floats = (
        np.where(known, joints[..., :2], -np.inf).max(1) - np.where(known, joints[..., :2], np.inf).min(1)
    ).max(1)
    return np.where(extent >= 1.0, extent, sides)


def joint_distances(found: Floats, truth: Floats) -> Floats:
    """How far each joint is from the truth, (poses, joints) in pixels; NaN where it is not annotated.

    `found` (poses, joints, 2), `truth` (poses, joints, 3).
    """
    if found.shape[:2] != truth.shape[:2] or len(found) == 0:
        raise LimbeckError(f"poses: expected as many found as true ones, got {found.shape} and {truth.shape}")
    apart: Floats = np.linalg.norm(found - truth[..., :2], axis=-1)
    return np.where(truth[..., 2] > 0, apart, np.nan)


def pck(distances: Floats, sizes: Floats) -> dict[str, float]:
    """PCK at 0.05, 0.1 and 0.2, and the mean distance in pixels (`joint_error`) and in shares of the pose's size
    (`joint_error_share`): means over all annotated joints of all poses whose size is known.

    `distances` (poses, joints) with NaN where a joint is not annotated, `sizes` (poses,). Empty where nothing is known.

    Yang and Ramanan 2013, "Articulated Human Detection with Flexible Mixtures of Parts", IEEE TPAMI.
    """
    shares = distances / sizes[:, None]
    known = np.isfinite(shares)
    if not known.any():
        return {}
    found = {name: float((shares[known] <= share).mean()) for name, share in PCK.items()}
    return found | {
        "joint_error": float(distances[known].mean()),
        "joint_error_share": float(shares[known].mean()),
    }


def per_joint(distances: Floats, sizes: Floats, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each joint its name, in how many poses it is annotated, and its `pck10`, `joint_error` and
    `joint_error_share` (None where it never is)."""
    shares = distances / sizes[:, None]
    table: list[dict[str, Any]] = []
    for at, name in enumerate(names):
        known = np.flatnonzero(np.isfinite(shares[:, at]))
        measured: dict[str, float | None] = dict.fromkeys(("pck10", "joint_error", "joint_error_share"))
        if len(known):
            measured = {
                "pck10": float((shares[known, at] <= PCK["pck10"]).mean()),
                "joint_error": float(distances[known, at].mean()),
                "joint_error_share": float(shares[known, at].mean()),
            }
        table.append({"joint": name, "annotated": len(known), **measured})
    return table


@dataclass(frozen=True, slots=True, eq=False)
class TruePoses:
    """What poses are compared with.

    `joints` (poses, joints, 3), `boxes` (poses, 4) xyxy, `areas` (poses,) square pixels, `pictures` (poses,) which
    picture each is in, `ignored` (poses,): what is found there is neither right nor wrong; `crowds` (poses,): those of
    the ignored in which any number may be found.
    """

    joints: Floats
    boxes: Floats
    areas: Floats
    pictures: Integers
    ignored: Flags
    crowds: Flags


def oks(found: Floats, truth: TruePoses, sigmas: Sequence[float]) -> Floats:
    """Object keypoint similarity, (found, true), from 0 to 1: the mean over annotated joints of
    exp(−d² / (2 · area · (2σ)²)).

    Of a true pose without an annotated joint d is how far a joint is from a box three times as large. `found` (found,
    joints, 2), `sigmas` one a joint, as of COCO's evaluation.
    """
    variances = np.square(2.0 * np.asarray(sigmas, np.float64))
    known = truth.joints[..., 2] > 0
    anything: Flags = np.asarray(known.any(axis=1))
    left_top, sides = truth.boxes[:, :2], truth.boxes[:, 2:] - truth.boxes[:, :2]
    low, high = left_top - sides, left_top + 2 * sides
    beyond = np.maximum(low[None, :, None] - found[:, None], 0) + np.maximum(found[:, None] - high[None, :, None], 0)
    apart = np.where(anything[None, :, None, None], found[:, None] - truth.joints[None, ..., :2], beyond)
    scaled = np.square(apart).sum(-1) / variances / (truth.areas[None, :, None] + np.spacing(1)) / 2
    counted = np.where(anything[:, None], known, True)[None]
    similarity: Floats = np.where(counted, np.exp(-scaled), 0.0).sum(-1) / counted.sum(-1)
    return similarity


def oks_ap(
    found: Floats, scores: Floats, pictures: Integers, truth: TruePoses, sigmas: Sequence[float]
) -> dict[str, float]:
    """COCO's average precision of poses: `oks_ap` (mean over OKS 0.50, 0.55, … 0.95), `oks_ap50`, `oks_ap75`.

    Args:
        found: (found, joints, 2).
        scores: (found,), how sure each is.
        pictures: (found,), which picture each is in.
        truth: with all poses of these pictures.
        sigmas: one a joint.

    Returns:
        Fractions, as pycocotools' `COCOeval(…, "keypoints")` has them for all areas; empty where every true pose is
        ignored.

    Lin et al. 2014, "Microsoft COCO", arXiv:1405.0312, and cocodataset.org/#keypoints-eval.
    """
    wanted = int((~truth.ignored).sum())
    if wanted == 0:
        return {}
    kept, right, neither = [], [], []
    for picture in np.unique(np.concatenate([pictures, truth.pictures])):
        mine = np.flatnonzero(pictures == picture)
        mine = mine[np.argsort(-scores[mine], kind="mergesort")][:MOST]
        theirs = np.flatnonzero(truth.pictures == picture)
        theirs = theirs[np.argsort(truth.ignored[theirs], kind="mergesort")]
        here = TruePoses(*(getattr(truth, name)[theirs] for name in TruePoses.__dataclass_fields__))
        matched, ignored = _matched(oks(found[mine], here, sigmas), here)
        kept.append(mine)
        right.append(matched)
        neither.append(ignored)
    order = np.concatenate(kept)
    ranked = np.argsort(-scores[order], kind="mergesort")
    hit, ignored = np.concatenate(right, 1)[:, ranked], np.concatenate(neither, 1)[:, ranked]
    precisions = np.array([_precision(a & ~b, ~a & ~b, wanted) for a, b in zip(hit, ignored, strict=True)])
    return {
        "oks_ap": float(precisions.mean()),
        "oks_ap50": float(precisions[0].mean()),
        "oks_ap75": float(precisions[5].mean()),
    }


def _matched(similarity: Floats, truth: TruePoses) -> tuple[Flags, Flags]:
    """At each threshold which of the found poses (best first) are matched to a true one, and to an ignored one,
    (thresholds, found). True poses come with the ignored ones last, which only what fits no other is given."""
    found, true = similarity.shape
    matched, ignored = np.zeros((2, len(THRESHOLDS), found), np.bool_)
    for at, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(true, np.bool_)
        for each in range(found):
            free = (~taken | truth.crowds) & (similarity[each] >= min(threshold, 1 - 1e-10))
            candidates = free & ~truth.ignored
            candidates = candidates if candidates.any() else free
            if not candidates.any():
                continue
            # Of equals COCO's loop keeps the last.
            best = true - 1 - int(np.argmax(np.where(candidates, similarity[each], -1.0)[::-1]))
            taken[best] = True
            matched[at, each], ignored[at, each] = True, truth.ignored[best]
    return matched, ignored


def _precision(right: Flags, wrong: Flags, wanted: int) -> Floats:
    """The precision at 101 recalls, 0 where that recall is not reached."""
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    precision = hits / np.maximum(hits + misses, np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / wanted, RECALLS, side="left")
    return np.where(at < len(envelope), np.append(envelope, 0.0)[np.minimum(at, len(envelope))], 0.0)
