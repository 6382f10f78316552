"""Boxes in COCO's form: one JSON file a split, with images, annotations and categories."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.sources.boxes.parts import UNLABELLED_PART, BoxPart, BoxSource, part_of, same_names
from limbeck.sources.boxes.regions import Annotation, annotation
from limbeck.sources.boxes.trees import Folder, Tree, decoded_text, open_tree, rooted, stem, suffix

OTHERS = ("captions_", "person_keypoints_", "stuff_", "panoptic_", "image_info_")
"""COCO's own files that tell no boxes."""


def read_coco(path: str) -> BoxSource:
    """`coco:FILE-or-FOLDER`: a JSON file beside its pictures, or a folder (or zip) with one for each split, whose names
    say `train`, `val` or `test`, such as COCO's own `annotations/instances_train2017.json`.

    Pictures are looked for beside the file, in folders called as the file or the split, and in `images`. The classes
    are the categories in the order of their ids.

    Raises:
        LimbeckError: a file is broken, an annotation or an entry has no picture, a category or an image is not known.
    """
    file = Path(path).expanduser()
    if file.is_file() and file.suffix.lower() == ".json":
        tree: Tree = Folder(file.parent)
        files = {"train": file.name}
        if file.parent.name == "annotations":
            tree, files = Folder(file.parent.parent), {"train": f"annotations/{file.name}"}
    else:
        tree = rooted(open_tree(path, "COCO's JSON files and their pictures"), ["annotations"])
        files = _files(tree, path)
    read = {part: _read(tree, name) for part, name in files.items()}
    names = {part: _categories(data, tree.path(files[part])) for part, data in read.items()}
    classes = same_names({part: list(found.values()) for part, found in names.items()}, path)
    parts = {part: _part(tree, files[part], part, data, names[part], classes) for part, data in read.items()}
    return BoxSource(parts, classes)


def _files(tree: Tree, path: str) -> dict[str, str]:
    """The JSON file of each part."""
    found = [name for name in tree.names() if suffix(name) == ".json"]
    instances = [name for name in found if name.rpartition("/")[2].startswith("instances_")]
    unlabelled = [name for name in found if part_of(stem(name.rpartition("/")[2])) == UNLABELLED_PART]
    told = [name for name in instances or found if name not in unlabelled]
    files: dict[str, str] = {}
    for name in [*told, *unlabelled]:
        last = name.rpartition("/")[2]
        # Some exports put a file of one name into the folder of each split.
        part = part_of(stem(last)) or part_of(name.rpartition("/")[0].rpartition("/")[2])
        if last.startswith(OTHERS) and part != UNLABELLED_PART:
            continue
        if part is None and len(told) == 1:
            part = "train"
        if part is None:
            continue
        if part in files:
            raise LimbeckError(f"{path}: {files[part]} and {name} are both of the {part} split; leave one")
        files[part] = name
    if "train" not in files:
        raise LimbeckError(
            f"{path}: no JSON file of a train split; expected one whose name has `train` in it, such as "
            "annotations/instances_train2017.json"
        )
    return files


def _read(tree: Tree, name: str) -> dict[str, Any]:
    where = tree.path(name)
    try:
        data = json.loads(decoded_text(tree.read(name), where))
    except json.JSONDecodeError as error:
        raise LimbeckError(f"{where}: not valid JSON ({error}); restore it") from None
    wanted = ("images", "categories")
    if not isinstance(data, dict) or any(not isinstance(data.get(key), list) for key in wanted):
        raise LimbeckError(f"{where}: not in COCO's form; expected lists of images, annotations and categories")
    return data


def _categories(data: Mapping[str, Any], where: str) -> dict[int, str]:
    """The names of categories by id, in the order of the ids."""
    try:
        named = {int(each["id"]): str(each["name"]) for each in data["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise LimbeckError(f"{where}: a category without id or name ({error!r}); correct it") from None
    if len(set(named.values())) < len(data["categories"]):
        raise LimbeckError(f"{where}: two categories share an id or a name; correct them")
    return dict(sorted(named.items()))


def _part(
    tree: Tree, file: str, part: str, data: Mapping[str, Any], categories: Mapping[int, str], classes: Sequence[str]
) -> BoxPart:
    where = tree.path(file)
    names, stated, places = [], [], {}
    listed: set[str] = set()
    for number, entry in enumerate(data["images"]):
        try:
            name, key = str(entry["file_name"]), _id(entry["id"])
            size = (int(entry["height"]), int(entry["width"])) if entry.get("height") and entry.get("width") else None
        except (KeyError, TypeError, ValueError) as error:
            raise LimbeckError(f"{where}: image {number} has no id or file_name ({error!r}); correct it") from None
        if key in places:
            raise LimbeckError(f"{where}: two images have the id {key!r}; correct one")
        if name in listed:
            raise LimbeckError(f"{where}: lists {name} twice, as two images; leave one, with all its annotations")
        listed.add(name)
        places[key] = number
        names.append(name)
        stated.append(size)
    if not names:
        raise LimbeckError(f"{where}: the split is empty; it needs at least one image")
    found = _pictures(tree, file, part, names)
    annotations: list[Annotation | None] = [None] * len(names)
    # COCO's file of unlabelled pictures has no annotations; one of another split with none would be a mistake.
    if part != UNLABELLED_PART:
        annotations = _annotations(
            data, where, names, places, {key: classes.index(categories[key]) for key in categories}
        )
    return BoxPart(tree.encoded(found), [f"{part}/{name}" for name in names], stated, annotations)


def _pictures(tree: Tree, file: str, part: str, names: Sequence[str]) -> list[str]:
    """The paths of pictures, in the first of the folders in which they may be that has one of them."""
    beside = file.rpartition("/")[0]
    bare = stem(file.rpartition("/")[2]).removeprefix("instances_").removeprefix("image_info_")
    raw = {"validation": ("val", "valid", "validation"), "train": ("train",), "test": ("test",)}.get(part, (part,))
    folders = [beside, f"{beside}/images", bare, *raw, "images", f"images/{bare}", *(f"images/{each}" for each in raw)]
    folders = [each.strip("/") for each in [*folders, f"{beside}/{bare}", "JPEGImages", ""]]
    for folder in dict.fromkeys(folders):
        paths = [f"{folder}/{name}" if folder else name for name in names]
        if any(tree.has(path) for path in paths[:100]):
            missing = next((name for name, path in zip(names, paths, strict=True) if not tree.has(path)), None)
            if missing is None:
                return paths
            raise LimbeckError(
                f"{tree.path(file)}: lists {missing}, and there is no such picture in {tree.path(folder)}; restore it, "
                "or take it and its annotations out"
            )
    raise LimbeckError(
        f"{tree.path(file)}: lists {names[0]}, and there is no such picture beside it, in images, or in a folder "
        f"called {raw[0]} or {bare}; put the pictures there"
    )


def _annotations(
    data: Mapping[str, Any], where: str, names: Sequence[str], places: Mapping[Any, int], index: Mapping[Any, int]
) -> list[Annotation | None]:
    if not isinstance(data.get("annotations"), list):
        raise LimbeckError(f"{where}: has no annotations; a split needs them, but that of unlabelled pictures")
    rows: list[list[tuple[list[float], int, bool, float]]] = [[] for _ in names]
    for number, entry in enumerate(data["annotations"]):
        try:
            image, category = _id(entry["image_id"]), _id(entry["category_id"])
            left, top, width, height = (float(side) for side in entry["bbox"])
            crowd, area = entry.get("iscrowd", 0), entry.get("area")
        except (KeyError, TypeError, ValueError) as error:
            raise LimbeckError(
                f"{where}: annotation {number} ({_short(entry)}) needs image_id, category_id and a bbox of four "
                f"numbers ({error!r}); correct it"
            ) from None
        if crowd not in (0, 1):
            raise LimbeckError(f"{where}: annotation {number} has iscrowd {crowd!r:.40}; it is 0 or 1")
        area = abs(width * height) if area is None else area
        if not isinstance(area, int | float) or not 0 <= area < math.inf:
            raise LimbeckError(
                f"{where}: annotation {number} has the area {area!r:.40}; expected a number of square pixels, or none "
                "for that of the box"
            )
        if image not in places:
            raise LimbeckError(
                f"{where}: annotation {number} is of the image {image!r}, which is not among the images; add the "
                "image, or take the annotation out"
            )
        if category not in index:
            raise LimbeckError(
                f"{where}: annotation {number}, of {names[places[image]]}, is of the category {category!r}, which is "
                f"not among the {len(index)} categories; add it, or correct the annotation"
            )
        rows[places[image]].append(([left, top, left + width, top + height], index[category], bool(crowd), float(area)))
    return [
        annotation(
            f"{where}, image {name}", [row[0] for row in own], [row[1] for row in own],
            crowds=[row[2] for row in own], areas=[row[3] for row in own],
        )
        for name, own in zip(names, rows, strict=True)
    ]  # fmt: skip


def _id(value: Any) -> int | str:
    """A number or text by which one entry speaks of another."""
    if not isinstance(value, int | str):
        raise TypeError(f"{value!r:.40} is no id")
    return value


def _short(entry: Any) -> str:
    text = repr(entry)
    return text if len(text) <= 80 else text[:79] + "…"
