"""Data by name: train, validation and test split in one size, with the pixels' mean and deviation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from limbeck.errors import LimbeckError, nearest
from limbeck.sources import cifar, folders, hub, idx, tables
from limbeck.sources.images import ImageSet
from limbeck.sources.parts import Integers, Part, Source, numbered
from limbeck.sources.pixels import Images
from limbeck.sources.splits import (
    SPLIT_SEED,
    TEST,
    VALIDATION,
    ClassBalance,
    describe,
    held_out,
    labelled_mask,
)
from limbeck.sources.views import keys
from limbeck.types import UNLABELLED, Preprocessing

TEST_SHARE = 0.2
"""What is held out for the test where the author cut none."""
MEASURED = 2048
"""Images that give mean and standard deviation where not all are in memory; decoding all takes too long."""

KINDS = ("folder", "table", "idx", "datasets")
NAMES = ("digits", *idx.NAMES, *cifar.NAMES)


@dataclass(frozen=True, slots=True)
class Data:
    """A data set ready for a run. `balance` describes the training labels that are shown."""

    name: str
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    balance: ClassBalance

    @property
    def preprocessing(self) -> Preprocessing:
        """How the pixels of all three splits are normalised."""
        return self.train.preprocessing


def load(
    name: str,
    *,
    size: int | None = None,
    labelled: int | float | None = None,
    validation: float = 0.1,
    seed: int = 0,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    classes: Sequence[str] | None = None,
) -> Data:
    """Loads a data set by name, from disk or, for the known ones, downloaded into the user's cache.

    Args:
        name: `digits`, `mnist`, `fashion-mnist`, `kmnist`, `cifar10`, `cifar100`, `folder:PATH` (images by
            class), `table:PATH` (or any name ending in .csv or .parquet), `idx:FOLDER`, or
            `datasets:NAME-or-path`.
        size: height and width in pixels; the images' own (at most 224 where they are files) by default.
        labelled: how many training samples keep their label (an int) or which share (a float), over the
            classes as they come; the rest becomes unlabelled. None keeps all.
        validation: the share of train to hold out, where the author cut no validation split.
        seed: chooses the views of the training split. Splits and labels kept are the same for every seed.
        image_column: the column of a table or data set that has the images, where it is not the usual one.
        label_column: the same for labels.
        split_column: the same for a table's splits.
        classes: a table's classes in order, where it does not hold a sample of each.

    The author's test split stays whole. Without one the author's validation split is the test; without
    either, a fifth of train is. Raises LimbeckError, in one line, for what is missing or broken.
    """
    if size is not None and size < 1:
        raise LimbeckError(f"data {name!r}: expected a size of at least 1 pixel, got {size}")
    source = _read(name, size, image_column, label_column, split_column, classes)
    train, val, test = _cut(source, validation)
    shown = train.labels
    if labelled is not None:
        kept = labelled_mask(train.labels, train.ids, len(source.classes), labelled)
        shown = np.where(kept, train.labels, UNLABELLED)
    preprocessing = _measure(train)
    sets = {
        split: ImageSet(
            part.images,
            torch.from_numpy(shown if split == "train" else part.labels),
            torch.from_numpy(part.ids),
            source.classes,
            preprocessing,
            rows=torch.from_numpy(part.rows),
            seed=seed,
            name=f"{name} {split}",
        )
        for split, part in (("train", train), ("validation", val), ("test", test))
    }
    return Data(name=name, classes=source.classes, balance=describe(shown, source.classes), **sets)


def _read(
    name: str,
    size: int | None,
    image_column: str | None,
    label_column: str | None,
    split_column: str | None,
    classes: Sequence[str] | None,
) -> Source:
    kind, _, rest = name.partition(":")
    columns = tables.Columns(image_column or "path", label_column or "label", split_column or "split")
    by_kind: dict[str, Callable[[], Source]] = {
        "folder": lambda: folders.read(rest, size),
        "idx": lambda: idx.read_path(rest, size),
        "datasets": lambda: hub.read(rest, size, image_column, label_column),
        "table": lambda: tables.read(Path(rest).expanduser(), size, columns, classes),
    }
    if rest and kind in by_kind:
        return by_kind[kind]()
    if name.lower().endswith(tables.SUFFIXES):
        return tables.read(Path(name).expanduser(), size, columns, classes)
    if name in idx.NAMES:
        return idx.read_known(name, size)
    if name in cifar.NAMES:
        return cifar.read_known(name, size)
    if name == "digits":
        return _digits(size)
    known = (*NAMES, *(f"{kind}:" for kind in KINDS))
    raise LimbeckError(f"data {name!r} is not known{nearest(name, known)}")


def _digits(size: int | None) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8×8 greyscale, whose 17 shades (0 to 16) are spread over 0 to
    255."""
    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None]
    return Source(numbered({"train": (pixels, found.target)}, size), tuple("0123456789"))


@dataclass(frozen=True, slots=True)
class _Cut:
    """The samples of a split: rows of `images`, with their labels and ids."""

    images: Images
    rows: Integers
    labels: Integers
    ids: Integers

    @classmethod
    def whole(cls, part: Part) -> _Cut:
        return cls(part.images, np.arange(len(part.labels)), part.labels, part.ids)

    def split(self, num_classes: int, share: float, purpose: int) -> tuple[_Cut, _Cut]:
        """What stays, and the share that is held out."""
        out = held_out(self.labels, self.ids, num_classes, share, purpose)
        stays, held = (_Cut(self.images, self.rows[mask], self.labels[mask], self.ids[mask]) for mask in (~out, out))
        return stays, held


def _cut(source: Source, validation: float) -> tuple[_Cut, _Cut, _Cut]:
    parts = {name: _Cut.whole(part) for name, part in source.parts.items()}
    train, val, test = parts["train"], parts.get("validation"), parts.get("test")
    if test is None:
        test, val = val, None
    if test is None:
        train, test = train.split(len(source.classes), TEST_SHARE, TEST)
    if val is None:
        train, val = train.split(len(source.classes), validation, VALIDATION)
    return train, val, test


def _measure(train: _Cut) -> Preprocessing:
    """Mean and standard deviation (of the population) a channel, from exact counts of the 256 shades."""
    rows = torch.from_numpy(train.rows)
    if not train.images.kept:
        rows = rows[torch.from_numpy(np.argsort(keys(SPLIT_SEED, -1, train.ids))[:MEASURED].copy())]
    channels, height, width = train.images.take(rows[:1]).shape[1:]
    counts = torch.zeros(channels, 256, dtype=torch.float64)
    for at in range(0, len(rows), 1024):
        pixels = train.images.take(rows[at : at + 1024])
        for channel in range(channels):
            counts[channel] += torch.bincount(pixels[:, channel].flatten(), minlength=256)
    share = counts / counts.sum(dim=1, keepdim=True)
    shades = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ shades
    variance = (share * (shades - mean[:, None]) ** 2).sum(dim=1)
    # A channel of one shade has no spread to divide by.
    std = variance.sqrt().clamp_min(1 / 255)
    return Preprocessing((height, width), channels, tuple(mean.tolist()), tuple(std.tolist()))
