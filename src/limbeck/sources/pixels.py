"""Pixels: images by row number, in memory or resized when taken, and their normalisation."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision.transforms.v2 import functional

from limbeck.errors import LimbeckError
from limbeck.types import Preprocessing

NORMALISED_LIMIT = 1_000_000_000
"""Bytes of float32 pixels up to which a set is normalised once instead of in every batch."""


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """`(pixels / 255 - mean) / std` as float32, from uint8 (batch, channels, height, width)."""
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std, dtype=torch.float64).view(-1, 1, 1)
    # Two rounded steps: a fused one may round otherwise in the tail of a batch, and a sample's place must not
    # matter.
    return pixels.float().mul_((1 / (255 * std)).float()).add_((-mean / std).float())


def resize(pixels: Tensor, size: int) -> Tensor:
    """uint8 (…, height, width) with the shorter side brought to `size`, the middle (size, size) cut out."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    resized: Tensor = functional.center_crop(functional.resize(pixels, [size], antialias=True), [size, size])
    return resized


class Images(Protocol):
    """Images by row number, wherever they are."""

    @property
    def kept(self) -> bool:
        """Whether taking an image costs only a copy."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) of `rows` (batch,) int64."""

    def normalised(self, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 (batch, channels, height, width) of `rows`, normalised."""


class InMemory:
    """Images held as one uint8 tensor (n, channels, height, width)."""

    def __init__(self, pixels: Tensor) -> None:
        if pixels.ndim != 4 or pixels.dtype != torch.uint8:
            raise LimbeckError(
                f"images: expected uint8 (n, channels, height, width), got {pixels.dtype} "
                f"{tuple(pixels.shape)}; convert them first"
            )
        self.pixels = pixels
        self._normalised: tuple[Preprocessing, Tensor] | None = None

    @property
    def kept(self) -> bool:
        """True: taking an image costs only a copy."""
        return True

    def __len__(self) -> int:
        return len(self.pixels)

    def __getstate__(self) -> dict[str, Any]:
        # A spawned worker gets the small pixels, not the floats as well.
        return {**self.__dict__, "_normalised": None}

    def take(self, rows: Tensor) -> Tensor:
        """uint8 (batch, channels, height, width) of `rows` (batch,) int64."""
        return self.pixels.index_select(0, rows)

    def normalised(self, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 (batch, channels, height, width) of `rows`; all are normalised once where memory allows."""
        if self._normalised is None or self._normalised[0] != preprocessing:
            # A worker would keep its own floats, once a worker; there the batch alone is cheaper.
            if 4 * self.pixels.numel() > NORMALISED_LIMIT or get_worker_info() is not None:
                return normalise(self.take(rows), preprocessing)
            self._normalised = (preprocessing, normalise(self.pixels, preprocessing))
        return self._normalised[1].index_select(0, rows)


class Resized:
    """Images in memory, resized when a batch takes them: for sizes at which all would not fit."""

    def __init__(self, pixels: Tensor, size: int) -> None:
        self.pixels = pixels
        self.size = size

    @property
    def kept(self) -> bool:
        """False: taking an image resizes it."""
        return False

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Tensor) -> Tensor:
        """uint8 (batch, channels, size, size) of `rows` (batch,) int64."""
        return resize(self.pixels.index_select(0, rows), self.size)

    def normalised(self, rows: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 (batch, channels, size, size) of `rows`, normalised."""
        return normalise(self.take(rows), preprocessing)
