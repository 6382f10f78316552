"""What a reader gives: the parts of a data set as its author cut it, before limbeck's own splits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.pixels import Images, InMemory, Resized, resize
from limbeck.types import UNLABELLED

Integers = NDArray[np.int64]
MEMORY_LIMIT = 512_000_000
"""Bytes of decoded or resized pixels up to which they are kept in memory."""

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""The names of splits in the wild, and what they are called here."""


@dataclass(frozen=True, slots=True)
class Part:
    """Images with `labels` (n,), -1 where unlabelled, and lasting `ids` (n,), different over all parts."""

    images: Images
    labels: Integers
    ids: Integers


@dataclass(frozen=True, slots=True)
class Source:
    """The parts of a data set by name: `train`, and `validation` and `test` where the author cut them."""

    parts: Mapping[str, Part]
    classes: tuple[str, ...]


def split_name(given: str, where: str) -> str:
    """The split's name here. Raises LimbeckError for one that is not known."""
    try:
        return SPLIT_NAMES[given.strip().lower()]
    except KeyError:
        raise LimbeckError(f"{where}: split {given!r} is not known{nearest(given.lower(), SPLIT_NAMES)}") from None


def in_memory(pixels: NDArray[np.uint8], size: int | None) -> Images:
    """uint8 (n, channels, height, width) as images of (size, size), resized now or, if too many, later."""
    tensor = torch.from_numpy(pixels)
    n, channels, height, width = tensor.shape
    if size is None:
        size = min(height, width)
    if (height, width) == (size, size):
        return InMemory(tensor)
    if n * channels * size * size > MEMORY_LIMIT:
        return Resized(tensor, size)
    return InMemory(torch.cat([resize(tensor[at : at + 1024], size) for at in range(0, n, 1024)]))


def numbered(arrays: Mapping[str, tuple[NDArray[np.uint8], Integers]], size: int | None) -> dict[str, Part]:
    """Parts from arrays (pixels, labels); ids count on from one part to the next."""
    parts, first = {}, 0
    for name, (pixels, labels) in arrays.items():
        ids = np.arange(first, first + len(labels), dtype=np.int64)
        parts[name] = Part(in_memory(pixels, size), labels.astype(np.int64), ids)
        first += len(labels)
    return parts


def check_classes(labels: Mapping[str, Integers], classes: Sequence[str], name: str) -> None:
    """Raises LimbeckError where a part is empty, a held-out class has no training label, or a label has no
    class."""
    for part, values in labels.items():
        if len(values) == 0:
            raise LimbeckError(f"{name}: the {part} split is empty; it needs at least one sample")
        if (values >= len(classes)).any() or (values < UNLABELLED).any():
            wrong = int(values[(values >= len(classes)) | (values < UNLABELLED)][0])
            raise LimbeckError(
                f"{name}: label {wrong} in {part} is out of range for {len(classes)} classes; "
                f"labels must be 0 to {len(classes) - 1}, or {UNLABELLED} for an unlabelled sample"
            )
        if part != "train" and (values == UNLABELLED).any():
            row = int(np.flatnonzero(values == UNLABELLED)[0])
            raise LimbeckError(f"{name}: sample {row} of {part} has no label; only training samples may have none")
        untrained = np.setdiff1d(values, labels["train"])
        if len(untrained):
            raise LimbeckError(
                f"{name}: class {classes[int(untrained[0])]!r} is in {part} but has no labelled sample in "
                "train; "
                "add some or take the class out"
            )


def number_classes(values: Iterable[int], where: str) -> tuple[str, ...]:
    """Classes from labels that are numbers. Raises LimbeckError where they do not run from 0 on without a
    gap, so that one mistyped number does not make a million classes."""
    numbers = sorted(set(values))
    gap = next((index for index, value in enumerate(numbers) if value != index), None)
    if gap is not None:
        raise LimbeckError(
            f"{where}: expected labels from 0 on without a gap (-1 where unlabelled), but {gap} is missing "
            "and "
            f"{numbers[-1] if numbers[0] >= 0 else numbers[0]} is there; correct the label"
        )
    return tuple(map(str, numbers))
