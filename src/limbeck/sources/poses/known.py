"""Poses of two data sets that come as archives: people doing sports, and a mouse seen from above."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.sources import places
from limbeck.sources.poses.annotations import Floats, Poses, checked, extents, sizes_of
from limbeck.sources.poses.coco import widened
from limbeck.sources.poses.skeletons import Skeleton, skeleton_of

LSPET_TRAIN, MOUSE_TRAIN = 320, 90
"""Pictures of the training split, the first ones; the others are the test."""
MOUSE_EDGES = ((0, 1), (0, 2), (1, 3), (2, 3))


@dataclass(frozen=True, slots=True)
class Packed:
    """Encoded pictures in memory, as an archive had them."""

    archive: Path
    names: tuple[str, ...]
    contents: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.names)

    def source(self, row: int) -> bytes:
        """The file's bytes."""
        return self.contents[row]

    def name(self, row: int) -> str:
        """The archive and the file in it."""
        return f"{self.archive}: {self.names[row]}"


@dataclass(frozen=True, slots=True)
class _Archive:
    path: Path
    meta: dict[str, Any]
    points: Floats
    contents: tuple[bytes, ...]


def _open(file: str, name: str, points: str) -> _Archive:
    path = places.find([file])
    if path is None:
        raise LimbeckError(
            f"{name}: {file} is neither in {places.data_root()} nor in {places.cache_root()}; put it there, or set "
            f"{places.VARIABLE} to the folder that has it"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("meta.json"))
            values = np.load(io.BytesIO(archive.read(points)), allow_pickle=False).astype(np.float64)
            contents = tuple(archive.read(f"images/{each}") for each in meta["images"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise LimbeckError(f"{path}: not a whole archive of {name} ({error}); restore it") from None
    if len(values) != len(contents):
        raise LimbeckError(f"{path}: {len(values)} annotations of {len(contents)} pictures; restore it")
    return _Archive(path, meta, values, contents)


def _part(archive: _Archive, at: Sequence[int], joints: Floats, boxes: Floats | None, where: str) -> Poses:
    chosen = np.asarray(at, np.int64)
    names = tuple(archive.meta["images"][index] for index in chosen)
    images = Packed(archive.path, names, tuple(archive.contents[index] for index in chosen))
    sizes = sizes_of(images)
    around = extents(joints[chosen])
    frames = np.concatenate([np.zeros_like(sizes), sizes], 1).astype(np.float64)
    nobody = np.zeros(len(chosen), np.bool_)
    poses = Poses(
        images, sizes, np.arange(len(chosen)), frames if boxes is None else boxes[chosen], joints[chosen],
        np.maximum(np.prod(around[:, 2:] - around[:, :2], 1), 1.0), chosen, nobody, nobody,
    )  # fmt: skip
    return checked(poses, [f"pose {index}" for index in chosen], where)


def read_lspet() -> tuple[dict[str, Poses], Skeleton]:
    """400 pictures of Leeds Sports Pose Extended with 14 joints: the first 320 train, the last 80 test.

    The box of each person is that around the annotated joints, as the data set has none.
    """
    archive = _open("lspet400.zip", "lspet", "joints.npy")
    joints, boxes = archive.points, widened(extents(archive.points))
    everyone = range(len(joints))
    parts = {
        part: _part(archive, at, joints, boxes, f"lspet {part}")
        for part, at in (("train", everyone[:LSPET_TRAIN]), ("test", everyone[LSPET_TRAIN:]))
    }
    return parts, skeleton_of(archive.meta["joint_names"], archive.meta["skeleton"])


def read_mouse() -> tuple[dict[str, Poses], Skeleton]:
    """116 frames of a video of a mouse with 4 joints, in their order: the first 90 train, the last 26 test.

    Nobody gives a box: the mouse is looked for in the whole frame. Its area for OKS is that around its joints, as in
    DeepLabCut.
    """
    archive = _open("openfield_mouse.zip", "openfield-mouse", "keypoints.npy")
    known = np.isfinite(archive.points).all(-1, keepdims=True)
    joints = np.concatenate([np.nan_to_num(archive.points), known], 2)
    frames = range(len(joints))
    parts = {
        part: _part(archive, at, joints, None, f"openfield-mouse {part}")
        for part, at in (("train", frames[:MOUSE_TRAIN]), ("test", frames[MOUSE_TRAIN:]))
    }
    return parts, skeleton_of(archive.meta["bodyparts"], MOUSE_EDGES)
