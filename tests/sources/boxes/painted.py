"""Pictures with painted rectangles, written in each of the forms that readers know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from limbeck.sources.boxes import DetectionSet, Regions
from limbeck.sources.boxes.regions import annotation, cleaned
from limbeck.sources.pixels import InMemory
from limbeck.types import Preprocessing

NAMES = ("red", "green", "blue")
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))

Objects = Sequence[tuple[int, tuple[int, int, int, int]]]
"""Classes and corners."""

PICTURES: tuple[tuple[tuple[int, int], Objects], ...] = (
    ((40, 60), ((0, (5, 5, 25, 20)), (2, (30, 10, 55, 35)))),
    ((60, 40), ((1, (0, 0, 10, 10)),)),
    ((50, 50), ()),
    ((30, 80), ((2, (60, 5, 80, 30)), (0, (2, 2, 12, 12)), (1, (30, 8, 50, 28)))),
)
"""Height and width, and what is in them."""


def painted(size: tuple[int, int], objects: Objects) -> Image.Image:
    pixels = np.full((*size, 3), 40, np.uint8)
    for kind, (left, top, right, bottom) in objects:
        pixels[top:bottom, left:right] = COLOURS[kind]
    return Image.fromarray(pixels)


def write_pictures(folder: Path, start: int = 0, pictures: Any = PICTURES) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"p{start + number}.png" for number in range(len(pictures))]
    for name, (size, objects) in zip(names, pictures, strict=True):
        painted(size, objects).save(folder / name)
    return names


def coco_data(names: Sequence[str], pictures: Any = PICTURES) -> dict[str, Any]:
    """A COCO file's content; ids of categories have gaps."""
    images = [
        {"id": 10 + at, "file_name": name, "height": size[0], "width": size[1]}
        for at, (name, (size, _)) in enumerate(zip(names, pictures, strict=True))
    ]
    annotations = [
        {"id": 1, "image_id": 10 + at, "category_id": 3 + 4 * kind, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
         "area": (x1 - x0) * (y1 - y0)}
        for at, (_, objects) in enumerate(pictures)
        for kind, (x0, y0, x1, y1) in objects
    ]  # fmt: skip
    categories = [{"id": 3 + 4 * kind, "name": name} for kind, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, parts: Sequence[str] = ("train", "val", "test")) -> Path:
    (root / "annotations").mkdir(parents=True)
    for at, part in enumerate(parts):
        names = write_pictures(root / part, 10 * at)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(coco_data(names)))
    return root


def write_voc(root: Path) -> Path:
    names = write_pictures(root / "JPEGImages")
    (root / "Annotations").mkdir()
    for name, (size, objects) in zip(names, PICTURES, strict=True):
        things = "".join(
            f"<object><name>{NAMES[kind]}</name><difficult>0</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for kind, (x0, y0, x1, y1) in objects
        )
        text = f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{things}</annotation>"
        (root / "Annotations" / f"{Path(name).stem}.xml").write_text(text)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for part in ("train", "val", "test"):
        (lists / f"{part}.txt").write_text("\n".join(Path(name).stem for name in names) + "\n")
    return root


def write_yolo(root: Path) -> Path:
    for at, part in enumerate(("train", "val", "test")):
        names = write_pictures(root / "images" / part, 10 * at)
        labels = root / "labels" / part
        labels.mkdir(parents=True)
        for name, ((height, width), objects) in zip(names, PICTURES, strict=True):
            lines = [
                f"{kind} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} {(x1 - x0) / width} {(y1 - y0) / height}"
                for kind, (x0, y0, x1, y1) in objects
            ]
            (labels / f"{Path(name).stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text("names: {0: red, 1: green, 2: blue}\ntrain: images/train\nval: images/val\n")
    return root


def detection_set(
    pixels: torch.Tensor,
    objects: Sequence[Objects],
    classes: Sequence[str] = NAMES,
    *,
    crowds: Sequence[int] = (),
    **changes: Any,
) -> DetectionSet:
    """A set of uint8 pictures (n, 3, height, width) at their own size, normalised to 0…1; those of `crowds` show
    nothing else."""
    size: tuple[int, int] = (pixels.shape[2], pixels.shape[3])
    sizes = torch.tensor([size] * len(pixels))
    regions = regions_of(objects, sizes, len(classes), crowds)
    preprocessing = Preprocessing(size, 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    given = {"ids": torch.arange(len(pixels)), **changes}
    return DetectionSet(InMemory(pixels), regions, sizes, classes=classes, preprocessing=preprocessing, **given)


def regions_of(
    objects: Sequence[Objects], sizes: torch.Tensor, classes: int = 3, crowds: Sequence[int] = ()
) -> Regions:
    written = [
        annotation(
            f"picture {at}", [box for _, box in own], [kind for kind, _ in own], crowds=[at in crowds] * len(own)
        )
        for at, own in enumerate(objects)
    ]
    return cleaned(written, sizes, classes, "pictures")
