"""Poses of COCO's keypoint files: a JSON file a split, and the pictures beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.decode import Files
from limbeck.sources.ids import text_ids
from limbeck.sources.parts import split_name
from limbeck.sources.poses.annotations import Floats, Integers, Poses, checked, extents, size_of
from limbeck.sources.poses.skeletons import Skeleton, skeleton_of

MARGIN = 0.1
"""What is added on each side to the joints of a pose that has no box, in shares of the longer side."""


def find_files(path: Path) -> dict[str, Path]:
    """The annotation files of a folder (or of its folder `annotations`) by split; a file is that of `train`.

    Raises:
        LimbeckError: there is none that holds keypoints, or several are of one split.
    """
    if path.is_file():
        return {"train": path}
    if not path.is_dir():
        raise LimbeckError(f"coco-keypoints:{path}: no such file or folder; give a JSON file or the folder of COCO's")
    found: dict[str, Path] = {}
    for file in sorted([*path.glob("*.json"), *path.glob("annotations/*.json")]):
        words = file.stem.lower().replace("-", "_").split("_")
        if words[0] in ("instances", "captions", "stuff", "panoptic", "image"):
            continue  # COCO's other tasks
        split = next((each for word in words if (each := _split_of(word)) is not None), None)
        if split is None:
            continue
        if split in found:
            raise LimbeckError(
                f"coco-keypoints:{path}: {found[split].name} and {file.name} are both of {split}; keep one"
            )
        found[split] = file
    if "train" not in found:
        raise LimbeckError(
            f"coco-keypoints:{path}: no JSON file of a training split (person_keypoints_train2017.json, train.json); "
            "give the file itself"
        )
    return found


def _split_of(word: str) -> str | None:
    try:
        return split_name(word.rstrip("0123456789"), "")
    except LimbeckError:
        return None


def read_file(path: Path, images: Path | None = None, category: str | None = None) -> tuple[Poses, Skeleton]:
    """The poses of one annotation file.

    Args:
        images: the folder of the pictures; by default the places where COCO's and others have them.
        category: the name of the category, where several have keypoints.

    Raises:
        LimbeckError: the file or an annotation in it is broken, or its picture is missing; the message names it.
    """
    content = _content(path)
    chosen = _category(content["categories"], category, path)
    skeleton = _skeleton(chosen, path)
    of_it = [each for each in content["annotations"] if each.get("category_id") == chosen["id"]]
    wanted = {each.get("image_id") for each in of_it}
    pictures = [each for each in content["images"] if each.get("id") in wanted]
    _listed_once(pictures, of_it, path)
    places = {each["id"]: at for at, each in enumerate(pictures)}
    for each in of_it:
        if each.get("image_id") not in places:
            raise LimbeckError(
                f"{path}: annotation {each.get('id')} is of picture {each.get('image_id')}, which `images` does not "
                "list; add it, or remove the annotation"
            )
    files = _files(pictures, path, images)
    sizes = _sizes(pictures, files, path)
    people = [_person(each, len(skeleton), path) for each in of_it]
    names = [f"annotation {each.get('id')}" for each in of_it]
    joints = np.stack([person.joints for person in people]) if people else np.zeros((0, len(skeleton), 3))
    own = np.array([person.box for person in people]).reshape(-1, 4)
    boxes = np.where(np.isnan(own[:, :1]), widened(extents(joints)), own)
    areas = np.array([person.area for person in people])
    areas = np.where(np.isnan(areas), np.prod(boxes[:, 2:] - boxes[:, :2], 1), areas)
    crowds = np.array([person.crowd for person in people], np.bool_)
    lasting = [f"{pictures[places[each['image_id']]]['file_name']}#{each.get('id')}" for each in of_it]
    poses = Poses(
        files, sizes, np.array([places[each["image_id"]] for each in of_it], np.int64), boxes, joints, areas,
        text_ids(lasting), crowds, crowds,
    )  # fmt: skip
    return checked(poses, names, str(path)), skeleton


def widened(boxes: Floats) -> Floats:
    """Boxes around joints with room on each side; a line or a point gets a box as well."""
    sides = boxes[:, 2:] - boxes[:, :2]
    room = np.maximum(MARGIN * sides.max(1, keepdims=True), 1.0)
    return np.concatenate([boxes[:, :2] - room, boxes[:, 2:] + room], 1)


def _content(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LimbeckError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise LimbeckError(f"{path}: not a JSON file ({error}); restore it") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise LimbeckError(f"{path}: not a COCO keypoints file: no list {key!r} in it")
        for at, each in enumerate(content[key]):
            if not isinstance(each, dict):
                raise LimbeckError(f"{path}: {key}[{at}]: expected an object, got {each!r:.60}; correct or remove it")
    return dict(content)


def _category(categories: Sequence[Mapping[str, Any]], wanted: str | None, path: Path) -> Mapping[str, Any]:
    found = {str(each.get("name")): each for each in categories if each.get("keypoints")}
    if not found:
        raise LimbeckError(f"{path}: no category has `keypoints`, so its joints have no names; add them")
    if wanted is not None and wanted not in found:
        raise LimbeckError(f"{path}: no category {wanted!r} with keypoints{nearest(wanted, found)}")
    if wanted is None and len(found) > 1:
        raise LimbeckError(f"{path}: {', '.join(found)} have keypoints; say which with data.category")
    return found[wanted if wanted is not None else next(iter(found))]


def _skeleton(category: Mapping[str, Any], path: Path) -> Skeleton:
    where = f"{path}: category {category.get('name')}"
    names, bones = category["keypoints"], category.get("skeleton") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LimbeckError(f"{where}: expected keypoints as a list of names, got {names!r:.80}")
    if not isinstance(bones, list) or not all(
        isinstance(bone, list) and len(bone) == 2 and all(type(end) is int for end in bone) for bone in bones
    ):
        raise LimbeckError(f"{where}: expected a skeleton as pairs of joints' numbers from 1, got {bones!r:.80}")
    try:
        return skeleton_of(names, [[a - 1, b - 1] for a, b in bones])
    except LimbeckError as error:
        raise LimbeckError(f"{where}: {error}") from None


def _listed_once(pictures: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Raises LimbeckError where what is known by its id or file has none, or shares it."""
    for what, keys in (
        ("the picture id", [each["id"] for each in pictures]),
        ("the file", [each.get("file_name") for each in pictures]),
        ("the annotation id", [each.get("id") for each in annotations]),
    ):
        seen: set[Any] = set()
        for key in keys:
            if what != "the file" and not isinstance(key, int | str):
                raise LimbeckError(f"{path}: {what} {key!r} is no number; give each one of its own")
            if key is not None and key in seen:
                raise LimbeckError(f"{path}: {what} {key!r} is there twice; give each one of its own")
            seen.add(key)


def _sizes(pictures: Sequence[Mapping[str, Any]], files: Files, path: Path) -> Integers:
    """Width and height (pictures, 2) as annotated, of the pictures that lack one as the file has them."""
    found = np.zeros((len(pictures), 2), np.int64)
    for row, each in enumerate(pictures):
        given: list[Any] = [each.get("width"), each.get("height")]
        if None in given:
            found[row] = size_of(files, row)
        elif all(isinstance(side, int | float) and side >= 1 and side == int(side) for side in given):
            found[row] = given
        else:
            raise LimbeckError(
                f"{path}: picture {each['id']} ({each.get('file_name')}): expected width and height in pixels, got "
                f"{given[0]!r} and {given[1]!r}; correct them, or leave both out"
            )
    return found


def _files(pictures: Sequence[Mapping[str, Any]], path: Path, images: Path | None) -> Files:
    """The files of the pictures; the folder that has the first is looked into for all."""
    if not pictures:
        return Files(())
    beside = path.parent.parent if path.parent.name == "annotations" else path.parent
    split = path.stem.split("_")[-1]
    tried = (
        [images] if images is not None else [beside, *(beside / name for name in (split, "images", f"images/{split}"))]
    )
    first = pictures[0].get("file_name", "")
    folder = next((each for each in tried if first and (each / first).is_file()), tried[0])
    for each in pictures:
        name = each.get("file_name")
        if not name or not (folder / name).is_file():
            looked = f" (looked in {', '.join(map(str, tried))})" if name == first and images is None else ""
            raise LimbeckError(
                f"{path}: picture {each.get('id')} ({name}) is not in {folder}{looked}; restore it, take it out of the "
                "annotations, or say where the pictures are with data.images"
            )
    return Files(tuple(folder / each["file_name"] for each in pictures))


@dataclass(frozen=True, slots=True)
class _Person:
    joints: Floats
    box: tuple[float, ...]
    area: float
    crowd: bool


def _person(annotation: Mapping[str, Any], joints: int, path: Path) -> _Person:
    """One annotation; NaN for a box or an area that it has not."""
    where = f"{path}: annotation {annotation.get('id')}"
    crowd = bool(annotation.get("iscrowd", 0))
    flat = annotation.get("keypoints", [0] * (3 * joints) if crowd else None)
    if not isinstance(flat, list) or len(flat) != 3 * joints:
        got = "none" if flat is None else f"{len(flat)} numbers" if isinstance(flat, list) else repr(flat)
        raise LimbeckError(f"{where}: expected keypoints as {3 * joints} numbers (x, y, visible a joint), got {got}")
    box = annotation.get("bbox", [np.nan] * 4)
    if not isinstance(box, list) or len(box) != 4:
        raise LimbeckError(f"{where}: expected a bbox of left, top, width and height, got {box!r:.60}")
    try:
        left, top, width, height = (float(each) for each in box)
        xyv = np.array(flat, np.float64).reshape(joints, 3)
        area = float(annotation.get("area", np.nan))
    except (TypeError, ValueError):
        raise LimbeckError(f"{where}: keypoints, bbox and area must be numbers") from None
    return _Person(xyv, (left, top, left + width, top + height), area, crowd)
