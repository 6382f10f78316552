"""Memory that a pass in chunks makes once."""

from __future__ import annotations

import torch
from torch import Tensor


class Room:
    """Buffers of a chunk's size, made once: memory that is asked for anew costs as much as what is done in it."""

    def __init__(self, items: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> None:
        self._items, self._vocabulary, self._dtype, self._device = items, vocabulary, dtype, device
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, items: int, vocabulary: int | None = None) -> Tensor:
        """An uninitialised (items, vocabulary)."""
        columns = vocabulary or self._vocabulary
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < items * columns:
            buffer = torch.empty(max(self._items, items) * columns, dtype=self._dtype, device=self._device)
            self._buffers[name] = buffer
        return buffer[: items * columns].view(items, columns)
