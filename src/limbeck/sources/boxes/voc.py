"""Boxes in PASCAL VOC's form: an XML file a picture, lists of pictures a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from limbeck.errors import LimbeckError
from limbeck.sources.boxes.parts import BoxPart, BoxSource, part_of, same_names, without_objects
from limbeck.sources.boxes.regions import Annotation, annotation
from limbeck.sources.boxes.trees import Tree, decoded_text, images_in, open_tree, rooted, stem, suffix
from limbeck.sources.decode import SUFFIXES
from limbeck.sources.places import cache_root, data_root, find

ANNOTATIONS, PICTURES, LISTS = "Annotations", "JPEGImages", "ImageSets/Main"

BCCD = "bccd_voc.zip"


@dataclass(frozen=True, slots=True)
class _Written:
    """What a file says: the names of objects and their boxes, whether they are hard to tell, and the picture's size."""

    where: str
    names: list[str]
    boxes: list[list[float]]
    difficult: list[bool]
    size: tuple[int, int] | None


def read_bccd() -> BoxSource:
    """`bccd`: blood cells in 364 micrographs, with the author's splits. Raises LimbeckError where it is not there."""
    path = find([BCCD])
    if path is None:
        raise LimbeckError(
            f"bccd: {BCCD} is neither in {data_root()} nor in {cache_root()}; put a zip of BCCD_Dataset's folder BCCD "
            "there"
        )
    return read_voc(str(path))


def read_voc(path: str) -> BoxSource:
    """`voc:FOLDER-or-zip`: `Annotations/*.xml` and `JPEGImages`, with the splits that `ImageSets/Main/train.txt`,
    `val.txt` and `test.txt` list; or a folder for each split with XML files beside their pictures.

    Edges are taken as they are written. The classes are the names in train in alphabetical order. A `difficult` object
    is to be ignored.

    Raises:
        LimbeckError: a file is broken, an annotation has no picture, or a class is not in train.
    """
    tree = rooted(open_tree(path, f"{ANNOTATIONS}/*.xml and {PICTURES}"), [ANNOTATIONS])
    pictures = {stem(name): name for name in images_in(tree, "")}
    listed = _listed(tree) if any(name.startswith(f"{ANNOTATIONS}/") for name in tree.names()) else _by_folder(tree)
    if not listed.get("train"):
        raise LimbeckError(f"{path}: no annotations of a train split; expected {ANNOTATIONS}/*.xml and {PICTURES}")
    read: dict[str, list[_Written | None]] = {}
    files: dict[str, list[str]] = {}
    for part, names in listed.items():
        files[part], read[part] = [], []
        for picture, xml in names:
            if picture not in pictures:
                told = tree.path(xml) if tree.has(xml) else f"{path}: the list of the {part} split"
                raise LimbeckError(f"{told}: there is no picture {picture}.*; restore it, or take the annotation out")
            files[part].append(pictures[picture])
            read[part].append(_read(tree, xml) if tree.has(xml) else None)
    named = {part: sorted({name for each in own if each for name in each.names}) for part, own in read.items()}
    classes = same_names(named, path)
    return BoxSource({part: _part(tree, part, files[part], read[part], classes, path) for part in read}, classes)


def _listed(tree: Tree) -> dict[str, list[tuple[str, str]]]:
    """Of each part the pictures, without their suffix, and the annotations that belong to them."""
    lists = {name.rpartition("/")[2]: name for name in tree.names(LISTS) if suffix(name) == ".txt"}
    found: dict[str, list[tuple[str, str]]] = {}
    whole_train = "train.txt" not in lists and "trainval.txt" in lists  # of which val.txt is a part
    named = (("train", "trainval.txt"),) if whole_train else (("train", "train.txt"), ("validation", "val.txt"))
    if lists.keys() & {"val.txt", "test.txt"} and named[0][1] not in lists:
        raise LimbeckError(f"{tree.path(LISTS)}: lists no train split; add train.txt or trainval.txt")
    for part, file in (*named, ("test", "test.txt")):
        if file in lists:
            words = (line.split() for line in decoded_text(tree.read(lists[file]), tree.path(lists[file])).splitlines())
            names = [each[0] for each in words if each]
            found[part] = [(f"{PICTURES}/{name}", f"{ANNOTATIONS}/{name}.xml") for name in names]
    if found:
        return found
    whole = {stem(name).removeprefix(f"{ANNOTATIONS}/") for name in tree.names(ANNOTATIONS) if suffix(name) == ".xml"}
    whole |= {stem(name).removeprefix(f"{PICTURES}/") for name in images_in(tree, PICTURES)}
    return {"train": [(f"{PICTURES}/{name}", f"{ANNOTATIONS}/{name}.xml") for name in sorted(whole)]}


def _by_folder(tree: Tree) -> dict[str, list[tuple[str, str]]]:
    """The same where XML files lie beside their pictures, in a folder for each part."""
    found: dict[str, set[str]] = {}
    for name in tree.names():
        if suffix(name) == ".xml" or suffix(name) in SUFFIXES:
            found.setdefault(part_of(name.partition("/")[0]) or "train", set()).add(stem(name))
    return {part: [(name, f"{name}.xml") for name in sorted(names)] for part, names in found.items()}


def _read(tree: Tree, name: str) -> _Written:
    where = tree.path(name)
    try:
        root = ElementTree.fromstring(tree.read(name))
        names, boxes, difficult = [], [], []
        for thing in root.iter("object"):
            names.append(_text(thing, "name"))
            boxes.append([float(_text(thing, f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")])
            difficult.append((thing.findtext("difficult") or "0").strip() not in ("0", ""))
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
    except (ElementTree.ParseError, ValueError) as error:
        raise LimbeckError(f"{where}: not an annotation in VOC's form ({error}); correct it") from None
    return _Written(where, names, boxes, difficult, (height, width) if height > 0 and width > 0 else None)


def _text(thing: ElementTree.Element, path: str) -> str:
    found = (thing.findtext(path) or "").strip()
    if not found:
        raise ValueError(f"an object has no {path}")
    return found


def _part(
    tree: Tree, part: str, files: list[str], written: Sequence[_Written | None], classes: Sequence[str], name: str
) -> BoxPart:
    index: Mapping[str, int] = {each: number for number, each in enumerate(classes)}
    bare = iter(
        without_objects([tree.path(f) for f, own in zip(files, written, strict=True) if own is None], f"{name} {part}")
    )
    annotations: list[Annotation | None] = [
        next(bare)
        if own is None
        else annotation(own.where, own.boxes, [index[each] for each in own.names], crowds=own.difficult)
        for own in written
    ]
    stated = [own.size if own is not None else None for own in written]
    return BoxPart(tree.encoded(files), files, stated, annotations)
