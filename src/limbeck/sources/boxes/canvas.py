"""Pictures of any size brought to one, and the way back for what is found in them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from limbeck.pictures import Fit, fitted, on_canvas, seen_size
from limbeck.sources.decode import Encoded, opened, progress
from limbeck.sources.pixels import Images, InMemory, normalise
from limbeck.types import Preprocessing

MEMORY = 1_000_000_000
"""Bytes of pixels up to which all pictures are decoded once and kept."""


def scales_of(sizes: Tensor, canvas: tuple[int, int], fit: Fit) -> Tensor:
    """By what x and y are multiplied on the way to the canvas, (pictures, 2) float64; `sizes` (pictures, 2) are heights
    and widths."""
    rows = []
    for height, width in sizes.tolist():
        new_height, new_width = fitted((height, width), canvas, fit)
        rows.append((new_width / width, new_height / height))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)


def sizes_of(encoded: Encoded, stated: list[tuple[int, int] | None], name: str) -> Tensor:
    """Heights and widths of pictures, (pictures, 2) int64: as stated, else read from the files."""
    found = list(stated)
    unknown = [row for row, each in enumerate(stated) if each is None]
    for row in progress(unknown, len(unknown), f"measuring {name}"):
        with opened(encoded, row) as image:
            found[row] = seen_size(image, None, encoded.name(row))[0]
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
            pixels = on_canvas(image, (height, width), self.canvas, self.fit, self.fill, name)
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
