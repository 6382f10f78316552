"""Pictures cut and turned to the crops that models see."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from limbeck.pictures import Pixels, cut_out, shrunk
from limbeck.sources.decode import Encoded, picture
from limbeck.sources.parts import MEMORY_LIMIT
from limbeck.sources.poses.annotations import Floats, Integers


class Pictures:
    """Decoded pictures: all at once where they fit into memory, else when they are asked for."""

    def __init__(self, images: Encoded, sizes: Integers, channels: int) -> None:
        self._images, self._sizes, self._channels = images, sizes, channels
        self._kept: list[Pixels] | None = None
        self._shrunk: dict[tuple[int, int], Pixels] = {}
        if int(sizes.prod(1).sum()) * channels <= MEMORY_LIMIT:
            self._kept = [self._decoded(row) for row in range(len(images))]

    def _decoded(self, row: int) -> Pixels:
        width, height = self._sizes[row].tolist()
        return picture(self._images, row, self._channels, (width, height))

    def _at(self, row: int, factor: int) -> Pixels:
        """A picture of which `factor` × `factor` pixels are averaged to one."""
        key = (row, factor)
        if key in self._shrunk:
            return self._shrunk[key]
        pixels = self._kept[row] if self._kept is not None else self._decoded(row)
        if factor > 1:
            pixels = shrunk(pixels, factor)
            if self._kept is not None:
                self._shrunk[key] = pixels
        return pixels

    def cut(self, rows: Integers, matrices: Floats, size: tuple[int, int], factors: Integers) -> Tensor:
        """Crops of `size` (height, width), uint8 (crops, channels, height, width), black where there is no picture.

        `matrices` (crops, 2, 3) take places in a crop to places in the picture of `rows`, where 0 is the edge of the
        first pixel; the picture is first shrunk by the whole numbers `factors` (crops,), so that no pixel is skipped.
        """
        height, width = size
        crops = np.empty((len(rows), height, width, self._channels), np.uint8)
        for at, (row, factor) in enumerate(zip(rows.tolist(), factors.tolist(), strict=True)):
            crops[at] = cut_out(self._at(row, factor), matrices[at], size, factor)
        return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
