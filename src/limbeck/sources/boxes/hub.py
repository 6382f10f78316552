"""Boxes in a Hugging Face data set: a column of objects, each with a box and a category."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import datasets

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.boxes.parts import PART_NAMES, UNLABELLED_PART, BoxPart, BoxSource
from limbeck.sources.boxes.regions import Annotation, annotation
from limbeck.sources.hub import ArrowColumn, load_splits

OBJECTS = ("objects", "annotations", "faces", "boxes")
BOXES = ("bbox", "bboxes", "box", "boxes")
CATEGORIES = ("category", "categories", "category_id", "label", "labels", "class", "classes")
AREAS = ("area", "areas")
CROWDS = ("iscrowd", "is_crowd", "crowd")

BoxForm = Literal["xywh", "xyxy"]
FORMS: tuple[BoxForm, ...] = get_args(BoxForm)


def read_hub(name: str, form: BoxForm = "xywh") -> BoxSource:
    """`datasets:NAME-or-path`: an image column, and a column such as `objects` of lists of `bbox` and `category`.

    `form` says what the four numbers of a box are: left, top, width and height as in COCO, or the four edges. Classes
    are the names of the categories, or numbers from 0 on. Of a row without objects (null, not an empty list), and of a
    split `unlabelled`, nobody said what is in the pictures. Columns `width` and `height` are the pictures' sizes.

    Raises:
        LimbeckError: it cannot be loaded, a column is not there, or a box or category is broken.
    """
    where = f"datasets:{name}"
    splits = load_splits(name, PART_NAMES)
    features = splits["train"].features
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    objects = next((key for key in OBJECTS if key in features), None)
    if len(images) != 1 or objects is None:
        raise LimbeckError(
            f"{where}: expected one image column and one of objects ({', '.join(OBJECTS)}), got {', '.join(features)}"
        )
    rows: dict[str, list[Any]] = {
        part: [None] * len(data) if part == UNLABELLED_PART else list(data.select_columns([objects])[objects])
        for part, data in splits.items()
    }
    kinds = _fields(features[objects], where)
    box, category = (
        _field(kinds, known, what, where) for known, what in ((BOXES, "boxes"), (CATEGORIES, "categories"))
    )
    crowd, area = (next((key for key in known if key in kinds), None) for known in (CROWDS, AREAS))
    classes = _classes(kinds[category], [own for part in rows.values() for own in part], category, where)
    index = {each: number for number, each in enumerate(classes)}
    parts = {}
    for part, data in splits.items():
        column = data.select_columns(images).cast_column(images[0], datasets.Image(decode=False))
        encoded = ArrowColumn(column, images[0], f"{where}, {part}")
        annotations: list[Annotation | None] = [
            None
            if own is None
            else _annotation(_columns(own), (box, category, crowd, area), form, index, f"{where}, {part} row {row}")
            for row, own in enumerate(rows[part])
        ]
        names = [f"{part}/{row}" for row in range(len(data))]
        parts[part] = BoxPart(encoded, names, _sizes(data), annotations)
    return BoxSource(parts, classes)


def _sizes(data: datasets.Dataset) -> list[tuple[int, int] | None]:
    """Heights and widths where columns tell them."""
    if not {"height", "width"} <= data.features.keys():
        return [None] * len(data)
    sides = data.select_columns(["height", "width"])
    return [
        (int(height), int(width)) if height and width else None
        for height, width in zip(sides["height"], sides["width"], strict=True)
    ]


def _fields(feature: Any, where: str) -> dict[str, Any]:
    """The fields of one object: `datasets` writes them as a dict of lists, or as a list of dicts."""
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, list) and inner:
        inner = inner[0]
    if isinstance(inner, Mapping):
        return {key: getattr(value, "feature", value) for key, value in inner.items()}
    raise LimbeckError(f"{where}: the objects are {feature}; expected lists of bbox and category")


def _field(fields: Mapping[str, Any], known: tuple[str, ...], what: str, where: str) -> str:
    found = next((key for key in known if key in fields), None)
    if found is None:
        raise LimbeckError(f"{where}: objects have no {what} among {', '.join(fields)}{nearest(known[0], fields)}")
    return found


def _columns(objects: Any) -> dict[str, list[Any]]:
    if isinstance(objects, Mapping):
        return {key: list(value) for key, value in objects.items()}
    rows = list(objects or [])
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else {})}


def _classes(feature: Any, rows: list[Any], category: str, where: str) -> tuple[str, ...]:
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names)
    values = {value for own in rows for value in _columns(own).get(category, [])}
    if values and all(isinstance(value, str) for value in values):
        return tuple(sorted(values))
    if values and all(isinstance(value, int) and value >= 0 for value in values):
        return tuple(map(str, range(max(values) + 1)))
    raise LimbeckError(
        f"{where}: the categories are {sorted(map(str, values))[:5]}; expected names, or numbers from 0 on"
    )


def _annotation(
    own: Mapping[str, list[Any]],
    keys: tuple[str, str, str | None, str | None],
    form: BoxForm,
    index: Mapping[str, int],
    where: str,
) -> Annotation:
    box, category, crowd, area = keys
    try:
        boxes = [[float(side) for side in each] for each in own.get(box, [])]
        if form == "xywh":
            boxes = [[left, top, left + width, top + height] for left, top, width, height in boxes]
        elif any(len(each) != 4 for each in boxes):
            raise ValueError("a box is not of four numbers")
        classes = [index[each] if isinstance(each, str) else int(each) for each in own.get(category, [])]
        if len(classes) != len(boxes):
            raise ValueError(f"{len(boxes)} boxes and {len(classes)} categories")
        areas = [float(each) for each in own[area]] if area is not None and None not in own.get(area, [None]) else None
        if areas is not None and not all(0 <= each < math.inf for each in areas):
            raise ValueError(f"areas {areas}")
    except (KeyError, TypeError, ValueError) as error:
        raise LimbeckError(f"{where}: not a box and a category for each object ({error}); correct it") from None
    crowds = [bool(each) for each in own[crowd]] if crowd is not None and crowd in own else None
    return annotation(where, boxes, classes, crowds=crowds, areas=areas)
