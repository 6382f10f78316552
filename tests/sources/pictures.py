"""Scikit-learn's digits written as image files, for the tests of readers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def digits(count: int, classes: int = 3) -> Iterator[tuple[Image.Image, int]]:
    """The first `count` digits below `classes`, each 8×8 grey, with its class."""
    found = load_digits(n_class=classes)
    for pixels, label in zip(found.images[:count], found.target[:count], strict=True):
        yield Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8)), int(label)


def write_folder(root: Path, count: int = 60, classes: int = 3) -> None:
    """One folder a class under `root`, called `zero`, `one`, …"""
    for index, (image, label) in enumerate(digits(count, classes)):
        folder = root / ("zero", "one", "two", "three")[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index:03}.png")
