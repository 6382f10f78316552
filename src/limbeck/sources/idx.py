"""MNIST and its kin: the idx format (http://yann.lecun.com/exdb/mnist), plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import KMNIST, MNIST, FashionMNIST

from limbeck.errors import LimbeckError
from limbeck.sources.parts import Source, check_classes, numbered
from limbeck.sources.places import download, find

_STEMS = {"train": "train", "test": "t10k"}
_BYTE_TYPE = 0x08
_DIGITS = tuple("0123456789")


@dataclass(frozen=True, slots=True)
class _Known:
    folder: str
    torchvision: type[MNIST]
    classes: tuple[str, ...]


_KNOWN = {
    "mnist": _Known("mnist", MNIST, _DIGITS),
    "fashion-mnist": _Known("fashion-mnist", FashionMNIST, tuple(FashionMNIST.classes)),
    "kmnist": _Known("kmnist", KMNIST, tuple(KMNIST.classes)),
}
NAMES = tuple(_KNOWN)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The bytes of an idx file of so many dimensions. Raises LimbeckError when it is cut short or another."""
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except FileNotFoundError:
        raise LimbeckError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise LimbeckError(f"{path}: not readable as gzip ({error}); download it again") from None
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, _BYTE_TYPE, dimensions))
    if data[:4] != magic:
        raise LimbeckError(
            f"{path}: expected an idx file that starts with {magic.hex()} (bytes, {dimensions} dimensions), "
            f"got {data[:4].hex() or 'nothing'}; check that it is the right file"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header]) if len(data) >= header else (0,)
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected or len(data) < header:
        raise LimbeckError(
            f"{path}: expected {expected:,} bytes for shape {shape}, got {len(data):,}; it was cut short, "
            "download it again"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape).copy()


def _file(folder: Path, prefix: str, name: str) -> Path:
    plain = folder / f"{prefix}{name}"
    return plain if plain.exists() else folder / f"{prefix}{name}.gz"


def read_folder(folder: Path, size: int | None, prefix: str = "", classes: tuple[str, ...] = ()) -> Source:
    """The four files train/t10k-images-idx3/labels-idx1-ubyte[.gz] of a folder, their names after `prefix`.

    Classes are the numbers up to the largest training label unless named. Raises LimbeckError for files that
    are missing, cut short or do not fit together.
    """
    arrays = {}
    for part, stem in _STEMS.items():
        image_file = _file(folder, prefix, f"{stem}-images-idx3-ubyte")
        images = read_idx(image_file, 3)
        labels = read_idx(_file(folder, prefix, f"{stem}-labels-idx1-ubyte"), 1).astype(np.int64)
        if len(images) != len(labels):
            raise LimbeckError(f"{image_file}: {len(images)} images but {len(labels)} labels; take files of one set")
        arrays[part] = (images[:, None], labels)
    if not classes:
        largest = max((int(labels.max()) for _, labels in arrays.values() if len(labels)), default=-1)
        classes = tuple(map(str, range(largest + 1)))
    check_classes({part: labels for part, (_, labels) in arrays.items()}, classes, str(folder))
    return Source(numbered(arrays, size), classes)


def read_path(path: str, size: int | None) -> Source:
    """`idx:FOLDER`: the four files of a folder, with or without the prefix `mnist_`."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise LimbeckError(f"idx:{path}: no such folder; it must hold train-images-idx3-ubyte[.gz] and its three kin")
    prefix = "mnist_" if any(folder.glob("mnist_train-images-idx3-ubyte*")) else ""
    return read_folder(folder, size, prefix)


def read_known(name: str, size: int | None) -> Source:
    """`mnist`, `fashion-mnist` or `kmnist`, from disk or downloaded."""
    known = _KNOWN[name]
    first = "train-images-idx3-ubyte"
    prefix = f"{name.replace('-', '_')}_"
    prefixed = find((prefix + first, f"{prefix}{first}.gz"))
    if prefixed is not None:
        return read_folder(prefixed.parent, size, prefix, known.classes)
    places = (known.folder, f"{known.torchvision.__name__}/raw")
    plain = find(f"{place}/{first}{suffix}" for place in places for suffix in ("", ".gz"))
    if plain is not None:
        return read_folder(plain.parent, size, "", known.classes)
    folder = download(name, known.folder, known.torchvision.resources, known.torchvision.mirrors)
    return read_folder(folder, size, "", known.classes)
