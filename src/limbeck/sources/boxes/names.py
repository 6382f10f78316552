"""Pictures with boxes by name: train, validation and test split at one size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError, nearest
from limbeck.pictures import FITS, Fit
from limbeck.sources.boxes.canvas import Pictures, kept_in_memory, sizes_of
from limbeck.sources.boxes.coco import read_coco
from limbeck.sources.boxes.detection_set import DetectionSet
from limbeck.sources.boxes.hub import FORMS, BoxForm, read_hub
from limbeck.sources.boxes.parts import UNLABELLED_PART, BoxPart, BoxSource
from limbeck.sources.boxes.regions import annotation, cleaned
from limbeck.sources.boxes.voc import read_bccd, read_voc
from limbeck.sources.boxes.yolo import read_yolo
from limbeck.sources.decode import Encoded
from limbeck.sources.ids import text_ids
from limbeck.sources.names import TEST_SHARE
from limbeck.sources.splits import TEST, VALIDATION, held_out
from limbeck.types import UNLABELLED, Preprocessing

KINDS = ("coco", "voc", "yolo", "datasets")


@dataclass(frozen=True, slots=True, eq=False)
class DetectionData:
    """Pictures with boxes, ready for a run."""

    name: str
    train: DetectionSet
    validation: DetectionSet
    test: DetectionSet
    classes: tuple[str, ...]


def load_boxes(
    name: str,
    size: tuple[int, int],
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    fit: Fit = "letterbox",
    validation: float = 0.1,
    box_form: BoxForm = "xywh",
) -> DetectionData:
    """Loads a data set by name.

    Args:
        name: `coco:FILE-or-FOLDER`, `voc:FOLDER-or-zip`, `yolo:FOLDER-or-zip`, `datasets:NAME-or-path`, or `bccd`.
        size: height and width that pictures are brought to, in pixels.
        mean, std: of the pixels' channels in 0…1, by which they are normalised.
        fit: `letterbox` keeps a picture's shape and fills the rest of the canvas with the mean colour; `stretch` does
            not.
        validation: the share of train to hold out, where the author cut no validation split.
        box_form: what the four numbers of a box are in a Hugging Face data set.

    The author's test split stays whole. Without one the author's validation split is the test; without either, a fifth
    of train is. Pictures are turned as their EXIF tag says, unless the size in their annotation is that of the picture
    as it is stored.

    Raises:
        LimbeckError: in one line, for what is missing or broken, with the name of the file.
    """
    if min(size) < 1:
        raise LimbeckError(f"data {name!r}: expected a size of at least 1 pixel, got {size}")
    if fit not in FITS:
        raise LimbeckError(f"data {name!r}: unknown fit {fit!r}{nearest(str(fit), FITS)}")
    if box_form not in FORMS:
        raise LimbeckError(f"data {name!r}: unknown form of boxes {box_form!r}{nearest(str(box_form), FORMS)}")
    source = _read(name, box_form)
    parts = dict(source.parts)
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    preprocessing = Preprocessing(size, 3, mean, std)
    fill = (round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2]))
    learned = _joined(parts["train"], parts.pop(UNLABELLED_PART, None))
    parts["train"] = learned
    pictures, tables, sizes = {}, {}, {}
    for part, own in parts.items():
        where = f"{name} {part}"
        for each in own.annotations:
            if each is None and part != "train":
                raise LimbeckError(f"{where}: has pictures without an annotation; only training pictures may have none")
        sizes[part] = sizes_of(own.encoded, own.stated, where)
        known = [
            annotation(own.names[row], [], []) if each is None else each for row, each in enumerate(own.annotations)
        ]
        tables[part] = cleaned(known, sizes[part], len(source.classes), where)
        pictures[part] = Pictures(own.encoded, sizes[part], size, fit, fill)
    images = kept_in_memory(pictures)
    whole = {
        part: DetectionSet(
            images[part],
            tables[part],
            sizes[part],
            torch.from_numpy(text_ids(own.names)),
            source.classes,
            preprocessing,
            fit=fit,
            name=f"{name} {part}",
        ).with_labels(np.array([each is not None for each in own.annotations]))
        for part, own in parts.items()
    }
    train, val, test = _cut(whole, validation, name)
    return DetectionData(name, train, val, test, source.classes)


def _read(name: str, box_form: BoxForm) -> BoxSource:
    kind, _, rest = name.partition(":")
    by_kind: dict[str, Callable[[], BoxSource]] = {
        "coco": lambda: read_coco(rest),
        "voc": lambda: read_voc(rest),
        "yolo": lambda: read_yolo(rest),
        "datasets": lambda: read_hub(rest, box_form),
    }
    if rest and kind in by_kind:
        return by_kind[kind]()
    if name == "bccd":
        return read_bccd()
    raise LimbeckError(f"data {name!r} is not known{nearest(name, ('bccd', *(f'{kind}:' for kind in KINDS)))}")


@dataclass(frozen=True, slots=True)
class _Both:
    """Encoded pictures of two parts, one after the other."""

    first: Encoded
    second: Encoded

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def source(self, row: int) -> Path | bytes:
        return self.first.source(row) if row < len(self.first) else self.second.source(row - len(self.first))

    def name(self, row: int) -> str:
        return self.first.name(row) if row < len(self.first) else self.second.name(row - len(self.first))


def _joined(train: BoxPart, unlabelled: BoxPart | None) -> BoxPart:
    """Pictures of which nobody said what is in them are learned from as well."""
    if unlabelled is None:
        return train
    return BoxPart(
        _Both(train.encoded, unlabelled.encoded),
        [*train.names, *unlabelled.names],
        [*train.stated, *unlabelled.stated],
        [*train.annotations, *unlabelled.annotations],
    )


def _cut(
    whole: dict[str, DetectionSet], validation: float, name: str
) -> tuple[DetectionSet, DetectionSet, DetectionSet]:
    train, val, test = whole["train"], whole.get("validation"), whole.get("test")
    if test is None:
        train, test = _held_out(train, TEST_SHARE, TEST, f"{name} test")
    if val is None:
        train, val = _held_out(train, validation, VALIDATION, f"{name} validation")
    return train, val, test


def _held_out(split: DetectionSet, share: float, purpose: int, name: str) -> tuple[DetectionSet, DetectionSet]:
    """What stays, and the share of the annotated pictures that is held out."""
    kinds = np.where(split.labels.numpy() == UNLABELLED, UNLABELLED, 0)
    out = held_out(kinds, split.ids.numpy(), 1, share, purpose)
    return split.subset(_at(~out)), split.subset(_at(out), name)


def _at(mask: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))
