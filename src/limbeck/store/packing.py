"""Numbers in as few bytes as they need: entries of a vocabulary, and log-probabilities."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 1024
"""Steps of a fixed-point log-probability a nat: an error of at most 1/2048 nat down to −63.99, and −inf beyond."""

NOTHING = 65_535


def pack_ids(ids: Tensor, vocabulary: int) -> dict[str, Tensor]:
    """Entries (items, k) of a vocabulary as `low` uint16 (items, k), and the bits above as `high` uint8 (items, …).

    Two bits an entry are kept above 65,536 entries, eight above 262,144; up to 65,536 there is no `high`.
    """
    packed = {"low": (ids & 0xFFFF).to(torch.uint16)}
    if vocabulary > 1 << 18:
        packed["high"] = (ids >> 16).to(torch.uint8)
    elif vocabulary > 1 << 16:
        bits = torch.nn.functional.pad(ids >> 16, (0, -ids.shape[1] % 4)).view(len(ids), -1, 4)
        packed["high"] = (bits << torch.tensor([0, 2, 4, 6])).sum(-1).to(torch.uint8)
    return packed


def unpack_ids(packed: dict[str, Tensor], vocabulary: int) -> Tensor:
    """What `pack_ids` packed, (items, k) int64."""
    ids = packed["low"].long()
    if vocabulary > 1 << 18:
        ids += packed["high"].long() << 16
    elif vocabulary > 1 << 16:
        bits = (packed["high"].long().unsqueeze(-1) >> torch.tensor([0, 2, 4, 6])) & 3
        ids += bits.flatten(1)[:, : ids.shape[1]] << 16
    return ids


def pack_ascending(ids: Tensor, vocabulary: int) -> dict[str, Tensor]:
    """Entries (items, k) of a vocabulary that do not descend along a row, as `ids` uint8 (items, …), in k · (2 +
    log₂(vocabulary / k)) bits or fewer a row: half of what their numbers take where the vocabulary is small.

    First the bits above in unary (entry i puts a one at its high part plus i), then the low bits of each (Elias 1974,
    "Efficient Storage and Retrieval by Content and Address of Static Files"; Fano 1971).
    """
    given: NDArray[np.int64] = ids.cpu().numpy()
    items, k = given.shape
    bits, width = _ascending_widths(k, vocabulary)
    row = np.zeros((items, width + k * bits), np.uint8)
    np.put_along_axis(row, (given >> bits) + np.arange(k), 1, axis=1)
    row[:, width:] = ((given[..., None] >> np.arange(bits)) & 1).reshape(items, k * bits)
    return {"ids": torch.from_numpy(np.packbits(row, axis=1))}


def unpack_ascending(packed: dict[str, Tensor], k: int, vocabulary: int) -> Tensor:
    """What `pack_ascending` packed, (items, k) int64."""
    bits, width = _ascending_widths(k, vocabulary)
    row = np.unpackbits(packed["ids"].numpy(), axis=1, count=width + k * bits)
    places = np.flatnonzero(row[:, :width]).reshape(-1, k)
    high = places - np.arange(len(places))[:, None] * width - np.arange(k)
    low = row[:, width:].reshape(len(row), k, bits) @ (1 << np.arange(bits))
    return torch.from_numpy((high << bits) | low)


def _ascending_widths(k: int, vocabulary: int) -> tuple[int, int]:
    """How many low bits an entry has, and how many marks a row."""
    bits = max(0, math.floor(math.log2(vocabulary / k)))
    return bits, k + ((vocabulary - 1) >> bits)


def pack_log(values: Tensor) -> Tensor:
    """Logarithms of probabilities as uint16 in fixed point."""
    steps = (values.double() * -STEPS).round().clamp(0, NOTHING)
    return torch.where(values == -math.inf, torch.tensor(float(NOTHING), dtype=torch.float64), steps).to(torch.uint16)


def unpack_log(packed: Tensor) -> Tensor:
    """What `pack_log` packed, float32."""
    steps = packed.int()
    return torch.where(steps == NOTHING, -math.inf, steps.float() * (-1.0 / STEPS))
