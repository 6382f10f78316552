"""Poses of a Hugging Face data set: a picture a row, with one pose or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.hub import ArrowColumn, image_column_of, load_splits
from limbeck.sources.ids import text_ids
from limbeck.sources.poses.annotations import Poses, checked, extents, sizes_of
from limbeck.sources.poses.coco import widened
from limbeck.sources.poses.skeletons import Skeleton, skeleton_of

KEYPOINTS = ("keypoints", "joints", "landmarks")
BOXES = ("bbox", "box", "boxes", "bboxes")
NESTED = ("objects", "annotations", "people")


def read(
    name: str, image_column: str | None = None, keypoints_column: str | None = None
) -> tuple[dict[str, Poses], Skeleton]:
    """`datasets:NAME-or-path`: poses by split.

    Keypoints are numbers (joints, 2 or 3) or flat, of one pose or a list of poses, in a column `keypoints` or in a
    column `objects` with `keypoints`; beside them `bbox` (left, top, width, height), where there is one, and `area`.
    Joints are called by their places, as a column of numbers has no names; a recipe's `skeleton` may name them.

    Raises:
        LimbeckError: the data set cannot be loaded, a column is not clear, or a row is broken; the message names it.
    """
    where = f"datasets:{name}"
    parts = load_splits(name)
    features = parts["train"].features
    image = image_column_of(features, image_column, where)
    column = keypoints_column or next((each for each in (*KEYPOINTS, *NESTED) if each in features), "")
    if column not in features:
        hint = nearest(column or "keypoints", features)
        raise LimbeckError(f"{where}: no column of keypoints{hint}; say which it is with data.keypoints_column")
    beside = [each for each in features if each != image]
    rows = {
        part: [_people(row, column, f"{where}, {part} row {at}") for at, row in enumerate(data.select_columns(beside))]
        for part, data in parts.items()
    }
    counts = {len(person) for people in rows.values() for row in people for person, _, _ in row}
    if len(counts) != 1:
        raise LimbeckError(f"{where}: expected one number of joints, got {sorted(counts) or 'no pose'}")
    skeleton = skeleton_of([f"joint_{at}" for at in range(counts.pop())])
    return {part: _poses(parts[part], rows[part], image, where, part) for part in parts}, skeleton


_Person = tuple[Any, Any, Any]
"""Joints (joints, 3), box xyxy or None, area or None."""


def _people(row: Mapping[str, Any], column: str, where: str) -> list[_Person]:
    given: Any = row[column]
    beside: Mapping[str, Any] = row
    if isinstance(given, Mapping):
        beside = given
        given = next((given[each] for each in KEYPOINTS if each in given), None)
    if given is None:
        return []
    box = next((beside[each] for each in BOXES if each in beside), None)
    area = beside.get("area")
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise LimbeckError(
            f"{where}, column {column!r}: expected numbers, (joints, 3) a pose, got {given!r:.60}"
        ) from None
    if values.size == 0:
        return []
    # (joints, 2 or 3) is one pose, and so is a flat list; one dimension more is a list of poses.
    several = values.ndim == 3 or (values.ndim == 2 and values.shape[1] > 3)
    poses = values if several else values[None]
    if poses.ndim == 2:
        if poses.shape[1] % 3:
            raise LimbeckError(f"{where}, column {column!r}: {poses.shape[1]} numbers are not x, y, visible a joint")
        poses = poses.reshape(len(poses), -1, 3)
        odd = poses[..., 2][~np.isin(poses[..., 2], (0, 1, 2))]
        if odd.size:
            raise LimbeckError(
                f"{where}, column {column!r}: of x, y, visible a joint the third must be 0, 1 or 2, got {odd[0]:g}; "
                "where there are x and y alone, give them as (joints, 2)"
            )
    if poses.ndim != 3 or poses.shape[2] not in (2, 3):
        raise LimbeckError(
            f"{where}, column {column!r}: expected (joints, 2 or 3) a pose, got numbers {values.shape}; give x and y, "
            "and whether the joint is visible"
        )
    if poses.shape[2] == 2:
        known = np.isfinite(poses).all(-1, keepdims=True)
        poses = np.concatenate([np.nan_to_num(poses), known], 2)
    boxes = [None] * len(poses) if box is None else (list(box) if several else [box])
    areas = [None] * len(poses) if area is None else (list(area) if several else [area])
    if not len(boxes) == len(areas) == len(poses):
        raise LimbeckError(f"{where}: {len(poses)} poses, {len(boxes)} boxes and {len(areas)} areas; expected one each")
    return list(zip(poses, boxes, areas, strict=True))


def _poses(data: datasets.Dataset, rows: list[list[_Person]], image: str, where: str, part: str) -> Poses:
    encoded = ArrowColumn(data.select_columns([image]).cast_column(image, datasets.Image(decode=False)), image, where)
    flat = [(at, number, person) for at, people in enumerate(rows) for number, person in enumerate(people)]
    if not flat:
        raise LimbeckError(f"{where}: no pose in the {part} split")
    joints = np.stack([person[0] for _, _, person in flat])
    around = widened(extents(joints))
    given = [person[1] for _, _, person in flat]
    boxes = np.array([
        around[at] if box is None else [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        for at, box in enumerate(given)
    ], np.float64)  # fmt: skip
    areas = np.array([
        np.prod(boxes[at, 2:] - boxes[at, :2]) if person[2] is None else float(person[2])
        for at, (_, _, person) in enumerate(flat)
    ])  # fmt: skip
    nobody = np.zeros(len(flat), np.bool_)
    names = [f"pose {number} of row {at}" for at, number, _ in flat]
    poses = Poses(
        encoded, sizes_of(encoded), np.array([at for at, _, _ in flat], np.int64), boxes, joints, areas,
        text_ids([f"{part}/{at}/{number}" for at, number, _ in flat]), nobody, nobody,
    )  # fmt: skip
    return checked(poses, names, f"{where} {part}")
