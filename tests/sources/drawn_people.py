"""Pictures of stick people, for the tests of poses: a coloured square at each joint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

JOINTS = ("nose", "left_hand", "right_hand", "tail")
EDGES = ((1, 2), (1, 3), (1, 4))
"""As COCO counts, from 1."""
COLOURS = ((255, 60, 60), (60, 255, 60), (80, 80, 255), (255, 255, 60))
REACH = 2


def person(random: np.random.Generator, box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """Where the joints are in a box (left, top, width, height): nose above, hands at the sides, tail below."""
    left, top, width, height = box
    middle = left + width // 2 + int(random.integers(-width // 8, width // 8 + 1))
    hands = top + height // 2 + int(random.integers(-height // 6, height // 6 + 1))
    return [
        (middle, top + int(random.integers(3, height // 4))),
        (left + 3 + int(random.integers(0, width // 6)), hands),
        (left + width - 4 - int(random.integers(0, width // 6)), hands),
        (middle, top + height - 4 - int(random.integers(0, height // 6))),
    ]


def draw(image: Image.Image, joints: list[tuple[int, int]]) -> None:
    pen = ImageDraw.Draw(image)
    for colour, (x, y) in zip(COLOURS, joints, strict=True):
        pen.rectangle([x - REACH, y - REACH, x + REACH, y + REACH], fill=colour)


def write_people(
    root: Path,
    counts: Mapping[str, int],
    *,
    size: tuple[int, int] = (72, 60),
    change: Callable[[dict[str, Any]], None] | None = None,
    seed: int = 0,
) -> Path:
    """COCO keypoint files `annotations/person_keypoints_SPLIT.json` with so many pictures each, (width, height) `size`,
    in folders called as the split. `change` may spoil the content of each file before it is written."""
    random = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        (root / split).mkdir(exist_ok=True)
        images, annotations = [], []
        for number in range(count):
            image = Image.new("RGB", size, tuple(random.integers(0, 60, 3).tolist()))
            box = (int(random.integers(2, 14)), int(random.integers(2, 10)), 50, 46)
            joints = person(random, box)
            draw(image, joints)
            name = f"{split}-{number:03}.png"
            image.save(root / split / name)
            images.append({"id": number + 1, "file_name": name, "width": size[0], "height": size[1]})
            flat = [value for x, y in joints for value in (x, y, 2)]
            annotations.append({
                "id": 100 * (len(split) + 1) + number, "image_id": number + 1, "category_id": 1, "bbox": list(box),
                "area": float(box[2] * box[3]), "iscrowd": 0, "num_keypoints": 4, "keypoints": flat,
            })  # fmt: skip
        category = {"id": 1, "name": "person", "keypoints": list(JOINTS), "skeleton": [list(edge) for edge in EDGES]}
        content: dict[str, Any] = {"images": images, "annotations": annotations, "categories": [category]}
        if change is not None:
            change(content)
        path = root / "annotations" / f"person_keypoints_{split}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
    return root
