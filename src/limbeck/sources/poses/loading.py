"""Pose data by name: train, validation and test split with one skeleton."""

from __future__ import annotations

import dataclasses
import filecmp
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.poses import coco, hub, known
from limbeck.sources.poses.annotations import Integers, Poses
from limbeck.sources.poses.pictures import Pictures
from limbeck.sources.poses.sets import MeasuredBy, PoseSet
from limbeck.sources.poses.skeletons import Skeleton, skeleton_of
from limbeck.sources.splits import TEST, VALIDATION, held_out
from limbeck.types import Preprocessing

TEST_SHARE = 0.2
"""What is held out for the test where the author cut none."""
NAMES = ("lspet", "openfield-mouse")
KINDS = ("coco-keypoints:", "datasets:")

NORMALISERS: Mapping[str, str] = {"lspet": "joints", "openfield-mouse": "joints"}


@dataclass(frozen=True, slots=True, eq=False)
class PoseData:
    """Poses ready for a run. `classes` are the names of the joints, in order."""

    name: str
    train: PoseSet
    validation: PoseSet
    test: PoseSet
    skeleton: Skeleton

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the joints, in order."""
        return self.skeleton.joints


def load_poses(
    name: str,
    preprocessing: Preprocessing,
    *,
    validation: float = 0.1,
    padding: float | None = None,
    test: str | None = None,
    images: str | None = None,
    category: str | None = None,
    image_column: str | None = None,
    keypoints_column: str | None = None,
    skeleton: Mapping[str, Any] | None = None,
    normaliser: str | Sequence[str] | None = None,
) -> PoseData:
    """Loads poses by name.

    Args:
        name: `lspet`, `openfield-mouse`, `coco-keypoints:FILE-or-folder`, or `datasets:NAME-or-path`.
        preprocessing: the size of the crops, their channels and normalisation.
        validation: the share of train to hold out where the author cut no validation split; of a video the last
            frames, else whole pictures.
        padding: how much larger crops are than their boxes; 1.25 by default, and 1 where the box is the whole frame.
        test: the COCO file of the test split, where `name` is a file.
        images: the folder of a COCO file's pictures.
        category: a COCO file's category, where several have keypoints.
        image_column, keypoints_column: those of a data set, where they are not the usual ones.
        skeleton: replaces `edges` and `pairs` (of names) or `sigmas` (one a joint) of what the data says; of a
            `datasets:` source `joints` names them, in order.
        normaliser: what distances are measured by; `box` is the longer side of a pose's box, `joints` that of the box
            around its annotated joints, two names the distance of these joints.

    Raises:
        LimbeckError: something is missing, broken or not known, in one line.
    """
    if padding is not None and not padding >= 0.5:
        raise LimbeckError(f"data.padding: expected a number from 0.5, got {padding}")
    parts, found = _read(name, test, images, category, image_column, keypoints_column)
    found = _changed(found, skeleton or {}, named=not name.startswith("datasets:"))
    cut = _cut(parts, validation, by_frame=name == "openfield-mouse")
    size = _measured_by(normaliser or NORMALISERS.get(name, "box"), found)
    factor = padding if padding is not None else 1.0 if name == "openfield-mouse" else 1.25
    pictures = {id(poses): Pictures(poses.images, poses.sizes, preprocessing.channels) for poses, _ in cut.values()}
    train, val, held = (
        PoseSet(
            poses,
            at,
            pictures[id(poses)],
            found,
            preprocessing,
            padding=factor,
            measured_by=size,
            name=f"{name} {split}",
        )
        for split, (poses, at) in cut.items()
    )
    different = np.concatenate([each.ids.numpy() for each in (train, val, held)])
    if len(np.unique(different)) < len(different):
        raise LimbeckError(
            f"{name}: poses of two splits have one file name and one annotation's id, by which both are known; give "
            "the annotations numbers of their own"
        )
    return PoseData(name, train, val, held, found)


def _read(
    name: str, test: str | None, images: str | None, category: str | None, image_column: str | None,
    keypoints_column: str | None,
) -> tuple[dict[str, Poses], Skeleton]:  # fmt: skip
    kind, _, rest = name.partition(":")
    if kind == "coco-keypoints" and rest:
        files = coco.find_files(Path(rest).expanduser())
        if test is not None:
            files["test"] = Path(test).expanduser()
        folder = Path(images).expanduser() if images is not None else None
        read = {split: coco.read_file(file, folder, category) for split, file in files.items()}
        skeleton = read["train"][1]
        for split, (_, other) in read.items():
            if other.joints != skeleton.joints:
                raise LimbeckError(f"{files[split]}: its joints are not those of {files['train']} in the same order")
        parts = {split: poses for split, (poses, _) in read.items()}
        _seen_once(parts, name)
        return parts, skeleton
    if kind == "datasets" and rest:
        return hub.read(rest, image_column, keypoints_column)
    if name == "lspet":
        return known.read_lspet()
    if name == "openfield-mouse":
        return known.read_mouse()
    raise LimbeckError(f"data {name!r} is not known{nearest(name, (*NAMES, *KINDS))}")


def _seen_once(parts: Mapping[str, Poses], where: str) -> None:
    """Raises LimbeckError where a picture file is in two splits: one name and the same bytes, wherever it lies."""
    seen: dict[tuple[str, int], list[tuple[str, Path]]] = {}
    for split, poses in parts.items():
        sources = (poses.images.source(row) for row in range(len(poses.images)))
        for file in (source for source in sources if isinstance(source, Path)):
            alike = seen.setdefault((file.name, file.stat().st_size), [])
            for other, same in alike:
                if other != split and filecmp.cmp(file, same, shallow=False):
                    raise LimbeckError(
                        f"{where}: {file.name} is in {other} and in {split}; a model must be measured on pictures that "
                        "it has not seen: take it out of one"
                    )
            alike.append((split, file))


def _cut(parts: Mapping[str, Poses], share: float, *, by_frame: bool) -> dict[str, tuple[Poses, Integers]]:
    """The poses of each split by their places. The author's test split stays whole; without one his validation split is
    the test; without either, a fifth of train is."""
    whole = {split: (poses, np.flatnonzero(~poses.ignored)) for split, poses in parts.items()}
    train, val, test = whole["train"], whole.get("validation"), whole.get("test")
    if test is None:
        test, val = val, None
    if test is None:
        train, test = _held(train, TEST_SHARE, TEST)
    if val is None:
        if by_frame:
            poses, at = train
            last = max(1, round(share * len(at)))
            train, val = (poses, at[:-last]), (poses, at[-last:])
        else:
            train, val = _held(train, share, VALIDATION)
    return {"train": train, "validation": val, "test": test}


def _held(
    part: tuple[Poses, Integers], share: float, purpose: int
) -> tuple[tuple[Poses, Integers], tuple[Poses, Integers]]:
    """What stays, and what is held out: whole pictures, as people in one are no strangers to each other."""
    poses, at = part
    rows = poses.rows[at]
    pictures, first = np.unique(rows, return_index=True)
    # A picture is chosen by its first pose's name, which does not depend on the others.
    out = held_out(np.zeros(len(pictures), np.int64), poses.ids[at][first], 1, share, purpose)
    held = np.isin(rows, pictures[out])
    return (poses, at[~held]), (poses, at[held])


def _changed(skeleton: Skeleton, given: Mapping[str, Any], *, named: bool) -> Skeleton:
    """The skeleton with what a recipe says of it; whether the data has named its joints."""
    known_keys = ("joints", "edges", "pairs", "sigmas")
    for key in given:
        if key not in known_keys:
            raise LimbeckError(f"data.skeleton: unknown key {key!r}{nearest(str(key), known_keys)}")
    if "joints" in given:
        names = given["joints"]
        if named:
            raise LimbeckError("data.skeleton.joints: the data names its joints itself; leave it out")
        if not isinstance(names, list | tuple) or len(names) != len(skeleton):
            raise LimbeckError(
                f"data.skeleton.joints: expected the names of the {len(skeleton)} joints, in order, got {names!r:.80}"
            )
        skeleton = skeleton_of([str(name) for name in names])
    changes: dict[str, Any] = {}
    for key in ("edges", "pairs"):
        if key in given:
            changes[key] = tuple(tuple(skeleton.at(str(name)) for name in each) for each in given[key])
    if "sigmas" in given:
        changes["sigmas"] = tuple(float(sigma) for sigma in given["sigmas"])
    return dataclasses.replace(skeleton, **changes)


def _measured_by(given: str | Sequence[str], skeleton: Skeleton) -> MeasuredBy:
    if isinstance(given, str):
        if given not in ("box", "joints"):
            raise LimbeckError(f"data.normaliser: expected `box`, `joints` or two joints, got {given!r}")
        return given
    if len(given) != 2:
        raise LimbeckError(f"data.normaliser: expected two joints, got {list(given)}")
    return skeleton.at(given[0]), skeleton.at(given[1])
