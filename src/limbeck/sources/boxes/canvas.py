"""Pictures of any size brought to one, and the way back for what is found in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.sources.decode import Encoded, eight_bit, opened, progress
from limbeck.sources.pixels import Images, InMemory, normalise
from limbeck.types import Preprocessing

Fit = Literal["letterbox", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)

MEMORY = 1_000_000_000
"""Bytes of pixels up to which all pictures are decoded once and kept."""

_ORIENTATION = 0x0112
_ON_THEIR_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations with which width and height change places."""


def fitted(size: tuple[int, int], canvas: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """The height and width to which a picture is resized; with `letterbox` the rest of the canvas, on the right or at
    the bottom, is filled."""
    if fit == "stretch":
        return canvas
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (max(1, min(most, round(side * scale))) for side, most in zip(size, canvas, strict=True))
    return height, width


def scales_of(sizes: Tensor, canvas: tuple[int, int], fit: Fit) -> Tensor:
    """By what x and y are multiplied on the way to the canvas, (pictures, 2) float64; `sizes` (pictures, 2) are heights
    and widths."""
    rows = []
    for height, width in sizes.tolist():
        new_height, new_width = fitted((height, width), canvas, fit)
        rows.append((new_width / width, new_height / height))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)


def _upright(image: Image.Image, stated: tuple[int, int] | None, name: str) -> tuple[tuple[int, int], bool]:
    """The height and width of a picture as its annotation means it, and whether it is turned as its EXIF tag says.

    Raises:
        LimbeckError: the annotation states another size.
    """
    width, height = image.size
    turned = image.getexif().get(_ORIENTATION, 1) in _ON_THEIR_SIDE
    seen = (width, height) if turned else (height, width)
    if stated is None or stated == seen:
        return seen, True
    if stated == (height, width):  # whoever annotated it did not look at the tag
        return stated, False
    raise LimbeckError(
        f"{name}: the picture is {seen[1]}×{seen[0]} pixels, its annotation says {stated[1]}×{stated[0]}; "
        "they do not belong together: correct the one or the other"
    )


def sizes_of(encoded: Encoded, stated: list[tuple[int, int] | None], name: str) -> Tensor:
    """Heights and widths of pictures, (pictures, 2) int64: as stated, else read from the files."""
    found = list(stated)
    unknown = [row for row, each in enumerate(stated) if each is None]
    for row in progress(unknown, len(unknown), f"measuring {name}"):
        with opened(encoded, row) as image:
            found[row] = _upright(image, None, encoded.name(row))[0]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 2)


class Pictures:
    """Pictures that are decoded when a batch takes them.

    `sizes` (pictures, 2) are their heights and widths; `fill` is the colour of what they do not cover of the canvas.
    """

    def __init__(
        self, encoded: Encoded, sizes: Tensor, canvas: tuple[int, int], fit: Fit, fill: tuple[int, int, int]
    ) -> None:
        self.encoded = encoded
        self.sizes = sizes
        self.canvas = canvas
        self.fit: Fit = fit
        self.fill = fill

    @property
    def kept(self) -> bool:
        """False: taking a picture decodes it."""
        return False

    def __len__(self) -> int:
        return len(self.encoded)

    def decoded(self, row: int) -> Tensor:
        """One picture as uint8 (3, height, width). Raises LimbeckError naming one that is broken."""
        height, width = self.sizes[row].tolist()
        name = self.encoded.name(row)
        with opened(self.encoded, row) as image:
            size, turn = _upright(image, (height, width), name)
            new_height, new_width = fitted(size, self.canvas, self.fit)
            # A JPEG is decoded at a fraction of its size, if that is still twice as large as what is wanted.
            across, down = (new_width, new_height) if size == image.size[::-1] else (new_height, new_width)
            image.draft(None, (2 * across, 2 * down))
            image = eight_bit(ImageOps.exif_transpose(image) if turn else image, 3, name)
            if image.size != (new_width, new_height):
                image = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
            if (new_height, new_width) != self.canvas:
                whole = Image.new("RGB", self.canvas[::-1], self.fill)
                whole.paste(image, (0, 0))
                image = whole
            pixels = np.asarray(image)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def take(self, rows: Tensor) -> Tensor:
        """uint8 (batch, 3, height, width) of `rows` (batch,) int64."""
        return torch.stack([self.decoded(row) for row in rows.tolist()])

    def normalised(self, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 (batch, 3, height, width) of `rows`, normalised."""
        return normalise(self.take(rows), preprocessing)


def kept_in_memory(parts: Mapping[str, Pictures]) -> dict[str, Images]:
    """The pictures of every part: decoded now where all fit in MEMORY, else in every batch."""
    bytes_each = 3 * np.prod(next(each.canvas for each in parts.values()))
    if sum(map(len, parts.values())) * bytes_each > MEMORY:
        return dict(parts)
    return {name: _decoded(pictures, name) for name, pictures in parts.items()}


def _decoded(pictures: Pictures, name: str) -> InMemory:
    pixels = torch.empty((len(pictures), 3, *pictures.canvas), dtype=torch.uint8)
    for row in progress(range(len(pictures)), len(pictures), f"decoding {name}"):
        pixels[row] = pictures.decoded(row)
    return InMemory(pixels)
