"""Numbers in as few bytes as they need: entries of a vocabulary, and log-probabilities."""

from __future__ import annotations

import math

import torch
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


def pack_log(values: Tensor) -> Tensor:
    """Logarithms of probabilities as uint16 in fixed point."""
    steps = (values.double() * -STEPS).round().clamp(0, NOTHING)
    return torch.where(values == -math.inf, torch.tensor(float(NOTHING), dtype=torch.float64), steps).to(torch.uint16)


def unpack_log(packed: Tensor) -> Tensor:
    """What `pack_log` packed, float32."""
    steps = packed.int()
    return torch.where(steps == NOTHING, -math.inf, steps.float() * (-1.0 / STEPS))
