"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the binary version, or a zip of one WebP grid a class."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from limbeck.errors import LimbeckError
from limbeck.sources.parts import Integers, Source, check_classes, numbered
from limbeck.sources.places import download, find

SIDE = 32
_PIXELS = 3 * SIDE * SIDE
_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)

Arrays = tuple[NDArray[np.uint8], Integers]


@dataclass(frozen=True, slots=True)
class _Binary:
    """The official binary version: `label_bytes` before each image, the last of which is the class."""

    folder: str
    pickled: str
    archive: str
    md5: str
    train: tuple[str, ...]
    test: str
    classes: str
    label_bytes: int


_KNOWN = {
    "cifar10": _Binary(
        folder="cifar-10-batches-bin",
        pickled="cifar-10-batches-py",
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        classes="batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": _Binary(
        folder="cifar-100-binary",
        pickled="cifar-100-python",
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        train=("train.bin",),
        test="test.bin",
        classes="fine_label_names.txt",
        label_bytes=2,
    ),
}
NAMES = tuple(_KNOWN)


def read_zip(path: Path, split: str) -> tuple[Arrays, tuple[str, ...]]:
    """One split of a zip of `meta.json` and, for each class, a lossless grid of 32×32 tiles.

    Gives (pixels uint8 (n, 3, 32, 32), labels (n,)) and the classes. Raises LimbeckError for a broken file.
    """
    pixels, labels = [], []
    member = "meta.json"
    try:
        with zipfile.ZipFile(path) as archive:
            classes = tuple(json.loads(archive.read(member))["fine_label_names"])
            bar = tqdm(classes, desc=f"decoding {path.stem} {split}", unit="class", disable=None, leave=False)
            for index, label in enumerate(bar):
                member = f"{split}/{label}.webp"
                with Image.open(io.BytesIO(archive.read(member))) as image:
                    grid = np.asarray(image.convert("RGB"))
                rows, columns = grid.shape[0] // SIDE, grid.shape[1] // SIDE
                tiles = grid.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3)
                pixels.append(tiles.reshape(-1, 3, SIDE, SIDE))
                labels.append(np.full(rows * columns, index, dtype=np.int64))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise LimbeckError(f"{path}: cannot read {member} ({error}); restore the file") from None
    return (np.concatenate(pixels), np.concatenate(labels)), classes


def read_bin(path: Path, label_bytes: int) -> Arrays:
    """One file of the binary version as (pixels uint8 (n, 3, 32, 32), labels (n,)).

    Each record is `label_bytes` labels, the last one the class, then 3,072 bytes red, green, blue.
    Raises LimbeckError for a missing or cut file.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise LimbeckError(f"{path}: no such file; unpack the binary version of CIFAR again") from None
    record = label_bytes + _PIXELS
    if len(data) == 0 or len(data) % record:
        raise LimbeckError(
            f"{path}: expected a multiple of {record:,} bytes, got {len(data):,}; it was cut short or "
            "is not the binary version, download it again"
        )
    records = data.reshape(-1, record)
    pixels = records[:, label_bytes:].reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(pixels), records[:, label_bytes - 1].astype(np.int64)


def read_binary(folder: Path, name: str) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """The folder that the official binary archive unpacks to, as arrays by part and the classes."""
    known = _KNOWN[name]
    try:
        classes = tuple((folder / known.classes).read_text(encoding="utf-8").split())
    except FileNotFoundError:
        raise LimbeckError(f"{folder / known.classes}: no such file; unpack {known.archive} again") from None
    batches = [read_bin(folder / file, known.label_bytes) for file in known.train]
    train = (np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches]))
    return {"train": train, "test": read_bin(folder / known.test, known.label_bytes)}, classes


def read_known(name: str, size: int | None) -> Source:
    """`cifar10` or `cifar100`, from disk or downloaded. Raises LimbeckError for the pickled version alone."""
    known = _KNOWN[name]
    zipped = find((f"{name}.zip",))
    if zipped is not None:
        train, classes = read_zip(zipped, "train")
        arrays = {"train": train, "test": read_zip(zipped, "test")[0]}
        place = zipped
    else:
        found = find((known.folder, f"{name}/{known.folder}"))
        pickled = find((known.pickled, f"{name}/{known.pickled}"))
        if found is None and pickled is not None:
            raise LimbeckError(
                f"{pickled}: is the pickled version of {name}, which could run code when read; put the "
                f"binary version beside it: {_MIRRORS[0]}{known.archive}"
            )
        place = found or download(name, name, [(known.archive, known.md5)], _MIRRORS) / known.folder
        arrays, classes = read_binary(place, name)
    check_classes({part: labels for part, (_, labels) in arrays.items()}, classes, str(place))
    return Source(numbered(arrays, size), classes)
