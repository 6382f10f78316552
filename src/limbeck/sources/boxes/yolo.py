"""Boxes in YOLO's form: a text file a picture, with a class and the middle and size of a box in shares of the picture
in each line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from limbeck.errors import LimbeckError
from limbeck.sources.boxes.parts import UNLABELLED_PART, BoxPart, BoxSource, part_of, without_objects
from limbeck.sources.boxes.regions import Annotation, annotation
from limbeck.sources.boxes.trees import Tree, decoded_text, images_in, open_tree, stem, suffix

PICTURES, LABELS, NAMES = "images", "labels", "classes.txt"


def read_yolo(path: str) -> BoxSource:
    """`yolo:FOLDER-or-zip`: `images` and `labels`, both with the same folders for the splits (or each split with both),
    and the names of the classes in `data.yaml` (`names`) or `classes.txt`, a line each.

    A picture without a file in `labels` has nothing in it.

    Raises:
        LimbeckError: a file is broken, there are no names, a class is out of their range, or labels have no picture.
    """
    tree = _rooted(open_tree(path, f"{PICTURES}, {LABELS} and data.yaml or {NAMES}"))
    everything = tree.names()
    classes = _classes(tree, everything, path)
    pictures = [name for name in images_in(tree, "") if PICTURES in name.split("/")[:-1]]
    by_label = {_label_of(name): name for name in pictures}
    written = [name for name in everything if suffix(name) == ".txt" and LABELS in name.split("/")[:-1]]
    written = [name for name in written if name.rpartition("/")[2] != NAMES]
    for name in written:
        if name not in by_label:
            raise LimbeckError(
                f"{tree.path(name)}: there is no picture for these labels; restore it, or delete the file"
            )
    known, parts = set(written), {}
    by_part: dict[str, list[str]] = {}
    for name in pictures:
        folders = name.split("/")[:-1]
        part = next((found for each in folders if (found := part_of(each)) is not None), "train")
        by_part.setdefault(part, []).append(name)
    if "train" not in by_part:
        raise LimbeckError(f"{path}: no pictures of a train split; expected {PICTURES}/train and {LABELS}/train")
    for part, names in by_part.items():
        annotations: list[Annotation | None] = [None] * len(names)
        if part != UNLABELLED_PART:
            bare = iter(without_objects([tree.path(n) for n in names if _label_of(n) not in known], f"{path} {part}"))
            labels = [_label_of(name) for name in names]
            annotations = [_read(tree, label) if label in known else next(bare) for label in labels]
        parts[part] = BoxPart(tree.encoded(names), names, [None] * len(names), annotations)
    return BoxSource(parts, classes)


def _rooted(tree: Tree) -> Tree:
    """The tree of the folder with the names of the classes: many a zip has one more folder around all."""
    tops = {name.partition("/")[0] for name in tree.names() if "/" in name}
    inside = len(tops) == 1 and not tops & {PICTURES, LABELS}
    return tree.inside(tops.pop()) if inside else tree


def _label_of(picture: str) -> str:
    """The file of a picture's labels: `labels` stands where the last `images` stood in its path."""
    folders = picture.split("/")
    at = len(folders) - 2 - folders[-2::-1].index(PICTURES)
    return stem("/".join([*folders[:at], LABELS, *folders[at + 1 :]])) + ".txt"


def _classes(tree: Tree, everything: list[str], path: str) -> tuple[str, ...]:
    described = [name for name in everything if suffix(name) in (".yaml", ".yml") and "/" not in name]
    for name in described:
        where = tree.path(name)
        try:
            data: Any = yaml.safe_load(decoded_text(tree.read(name), where))
        except yaml.YAMLError as error:
            raise LimbeckError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None
        names = data.get("names") if isinstance(data, Mapping) else None
        if isinstance(names, Mapping) and sorted(names) == list(range(len(names))):
            names = [names[number] for number in range(len(names))]
        if isinstance(names, list) and names:
            return tuple(map(str, names))
        if names is not None or len(described) == 1:
            raise LimbeckError(f"{where}: expected `names`, a list of classes or a name for each number from 0 on")
    found = [name for name in everything if name.rpartition("/")[2] == NAMES]
    if not found:
        raise LimbeckError(f"{path}: nothing names the classes; add data.yaml with `names`, or {NAMES}, a line each")
    lines = decoded_text(tree.read(found[0]), tree.path(found[0])).rstrip().splitlines()
    empty = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if empty is not None:
        raise LimbeckError(f"{tree.path(found[0])}, line {empty}: is empty; each line names the class of its number")
    return tuple(line.strip() for line in lines)


def _read(tree: Tree, name: str) -> Annotation:
    where = tree.path(name)
    boxes, classes = [], []
    for number, line in enumerate(decoded_text(tree.read(name), where).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            kind, (x, y, width, height) = int(words[0]), (float(word) for word in words[1:])
        except ValueError:
            raise LimbeckError(
                f"{where}, line {number}: expected a class and four numbers (the middle, the width and the height of a "
                f"box), got {line.strip()!r:.60}"
            ) from None
        boxes.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        classes.append(kind)
    return annotation(where, boxes, classes, relative=True)
