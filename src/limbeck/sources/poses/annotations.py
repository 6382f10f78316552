"""Annotated poses: who is in which picture, in which box, and where their joints are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError
from limbeck.sources.decode import Encoded, opened

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

TURNED = frozenset({5, 6, 7, 8})
"""The EXIF orientations that swap width and height."""
ORIENTATION = 0x0112

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Poses:
    """Poses in pictures. Coordinates are pixels of the picture as it is displayed; the middle of the first is (0, 0).

    Attributes:
        images: the encoded pictures.
        sizes: (pictures, 2) int64, the width and height of each.
        rows: (poses,) int64, the picture of each.
        boxes: (poses, 4), left, top, right and bottom edge of each person or animal; 0 is the edge of the first pixel.
        joints: (poses, joints, 3), x, y and whether the joint is annotated, 0 or 1.
        areas: (poses,), of each in square pixels, as OKS takes it.
        ids: (poses,) int64, lasting names.
        ignored: (poses,) bool: crowds, and people without an annotated joint. Nothing is learned of them and nobody is
            looked for; who is found there is neither right nor wrong.
        crowds: (poses,) bool: those of the ignored that are more than one.
    """

    images: Encoded
    sizes: Integers
    rows: Integers
    boxes: Floats
    joints: Floats
    areas: Floats
    ids: Integers
    ignored: Flags
    crowds: Flags

    def __len__(self) -> int:
        return len(self.rows)


def sizes_of(images: Encoded) -> Integers:
    """Width and height of every picture as it is displayed, (pictures, 2), from the headers."""
    return np.array([size_of(images, row) for row in range(len(images))], np.int64).reshape(-1, 2)


def size_of(images: Encoded, row: int) -> tuple[int, int]:
    """Width and height of a picture as it is displayed."""
    with opened(images, row) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(ORIENTATION) in TURNED else (width, height)


def extents(joints: Floats) -> Floats:
    """The box around the annotated joints of each pose, (poses, 4) xyxy; NaN where there is none."""
    xy = np.where(joints[..., 2:] > 0, joints[..., :2], np.nan)
    known = (joints[..., 2] > 0).any(1)
    found = np.full((len(joints), 4), np.nan)
    found[known, :2], found[known, 2:] = np.nanmin(xy[known], 1), np.nanmax(xy[known], 1)
    return found


def checked(poses: Poses, names: Sequence[str], where: str) -> Poses:
    """The poses with joints outside their picture taken for not annotated, which is said in a warning.

    Raises:
        LimbeckError: there is none, a number is not finite, an area is not above 0, or a box is empty or outside its
            picture; `names` (poses,) say which.
    """
    if not (~poses.ignored).any():
        raise LimbeckError(f"{where}: no pose with an annotated joint; annotate some")
    joints = poses.joints.copy()
    joints[~(joints[..., 2] > 0)] = 0.0
    joints[..., 2] = joints[..., 2] > 0
    sizes = poses.sizes[poses.rows]
    finite = np.isfinite(joints).all((1, 2)) & np.isfinite(poses.boxes).all(1) & np.isfinite(poses.areas)
    left, top, right, bottom = poses.boxes.T
    empty = (right <= left) | (bottom <= top)
    outside = (right <= 0) | (bottom <= 0) | (left >= sizes[:, 0]) | (top >= sizes[:, 1])
    for what, wrong in (
        ("not finite numbers", ~finite), ("an empty box", empty), ("a box outside of it", outside),
        ("an area that is not above 0", poses.areas <= 0),
    ):  # fmt: skip
        if (wrong & ~poses.ignored).any():
            at = int(np.flatnonzero(wrong & ~poses.ignored)[0])
            picture = poses.images.name(int(poses.rows[at]))
            raise LimbeckError(
                f"{where}: {names[at]} in {picture} ({sizes[at, 0]}×{sizes[at, 1]} pixels) has {what} "
                f"({poses.boxes[at].round(1).tolist()}); correct or remove it"
            )
    xy = joints[..., :2]
    beyond = ((xy < -0.5) | (xy > sizes[:, None] - 0.5)).any(-1) & (joints[..., 2] > 0)
    if beyond.any():
        joints[beyond] = 0.0
        at = int(np.flatnonzero(beyond.any(1))[0])
        log.warning(
            "%s: %s of %s annotated joints lie outside their pictures and count as not annotated; first %s in %s",
            where, f"{int(beyond.sum()):,}", f"{int((poses.joints[..., 2] > 0).sum()):,}", names[at],
            poses.images.name(int(poses.rows[at])),
        )  # fmt: skip
    ignored = poses.ignored | ~(joints[..., 2] > 0).any(1)
    return replace(poses, joints=joints, ignored=ignored)
