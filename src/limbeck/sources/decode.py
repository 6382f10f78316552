"""Decoding: image files of any kind brought to one size and one number of channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from tqdm.auto import tqdm

from limbeck.errors import LimbeckError
from limbeck.pictures import as_pixels, eight_bit, middle, opened_picture
from limbeck.sources.parts import MEMORY_LIMIT
from limbeck.sources.pixels import Images, InMemory, normalise
from limbeck.types import Preprocessing

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LARGEST_SIZE = 224
PROBED = 4096

_GREY = frozenset({"1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N"})


class Encoded(Protocol):
    """Encoded images by row number."""

    def __len__(self) -> int: ...

    def source(self, row: int) -> Path | bytes:
        """The file, or the bytes of one."""

    def name(self, row: int) -> str:
        """What an error calls the image."""


@dataclass(frozen=True, slots=True)
class Files:
    """Image files on disk."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def source(self, row: int) -> Path:
        """The file."""
        return self.paths[row]

    def name(self, row: int) -> str:
        """The file's path."""
        return str(self.paths[row])


@contextmanager
def opened(encoded: Encoded, row: int) -> Iterator[Image.Image]:
    """The image, its pixels not yet decoded; what cannot be read is a LimbeckError that names it."""
    name = encoded.name(row)
    try:
        source = encoded.source(row)
    except LimbeckError:
        raise
    except (OSError, ValueError) as error:
        raise LimbeckError(f"{name}: not a readable image ({error}); restore or remove it") from None
    with opened_picture(source, name) as image:
        yield image


def picture(encoded: Encoded, row: int, channels: int, annotated: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """One image at its own size, uint8 (height, width, channels), turned as its EXIF tag says.

    `annotated` is the (width, height) that an annotation gives of it; one made on the pixels as the file has them keeps
    the image so. Raises LimbeckError naming an image that is broken, or that is of another size.
    """
    with opened(encoded, row) as image:
        upright = ImageOps.exif_transpose(image)
        if annotated is not None and annotated not in (upright.size, image.size):
            raise LimbeckError(
                f"{encoded.name(row)}: is {upright.width}×{upright.height} pixels, and its annotation is of "
                f"{annotated[0]}×{annotated[1]}; restore the image that was annotated"
            )
        kept = upright if annotated is None or annotated == upright.size else image
        return as_pixels(eight_bit(kept, channels, encoded.name(row)), channels)


def decode(encoded: Encoded, row: int, size: int, channels: int) -> Tensor:
    """One image as uint8 (channels, size, size).

    It is turned as its EXIF tag says, its shorter side resized to `size`, and the middle cut out. `channels`
    is 1 (grey) or 3 (RGB; transparency is dropped). Raises LimbeckError naming an image that is broken.
    """
    with opened(encoded, row) as image:
        pixels = middle(image, size, channels, encoded.name(row))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class Decoded:
    """Images that are decoded when a batch takes them."""

    def __init__(self, encoded: Encoded, size: int, channels: int) -> None:
        self.encoded = encoded
        self.size = size
        self.channels = channels

    @property
    def kept(self) -> bool:
        """False: taking an image decodes it."""
        return False

    def __len__(self) -> int:
        return len(self.encoded)

    def take(self, rows: Tensor) -> Tensor:
        """uint8 (batch, channels, size, size) of `rows` (batch,) int64."""
        return torch.stack([decode(self.encoded, row, self.size, self.channels) for row in rows.tolist()])

    def normalised(self, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 (batch, channels, size, size) of `rows`, normalised."""
        return normalise(self.take(rows), preprocessing)


def progress(items: Iterable[int], total: int, what: str) -> Iterable[int]:
    """The items under a progress bar, on a terminal only."""
    return tqdm(items, total=total, desc=what, unit="image", disable=None, leave=False)


def _probe(encoded: Encoded) -> tuple[list[int], bool]:
    """Shorter sides in pixels, and whether all are grey, from the headers of up to PROBED images."""
    rows = np.unique(np.linspace(0, len(encoded) - 1, min(PROBED, len(encoded)), dtype=np.int64)).tolist()
    sides, grey = [], True
    for row in progress(rows, len(rows), "probing"):
        with opened(encoded, row) as image:
            sides.append(min(image.size))
            grey = grey and image.mode in _GREY
    return sides, grey


def decoded(parts: Mapping[str, Encoded], size: int | None) -> dict[str, Images]:
    """Images of every part at one size: decoded once where all fit in MEMORY_LIMIT, else in every batch.

    `size` None takes the median of the shorter sides, at most 224 pixels. There is one channel if every image
    is grey, else three.
    """
    probes = [_probe(encoded) for encoded in parts.values()]
    channels = 1 if all(grey for _, grey in probes) else 3
    if size is None:
        size = min(LARGEST_SIZE, int(np.median([side for sides, _ in probes for side in sides])))
    lazy = {name: Decoded(encoded, size, channels) for name, encoded in parts.items()}
    if sum(map(len, parts.values())) * channels * size * size > MEMORY_LIMIT:
        return dict(lazy)
    return {name: _kept(images, name) for name, images in lazy.items()}


def _kept(images: Decoded, name: str) -> InMemory:
    pixels = torch.empty((len(images), images.channels, images.size, images.size), dtype=torch.uint8)
    for row in progress(range(len(images)), len(images), f"decoding {name}"):
        pixels[row] = decode(images.encoded, row, images.size, images.channels)
    return InMemory(pixels)
