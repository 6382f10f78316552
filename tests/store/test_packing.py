"""Numbers in few bytes come back as they were."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.store.packing import pack_ascending, pack_ids, pack_log, unpack_ascending, unpack_ids, unpack_log


@pytest.mark.parametrize("vocabulary", [2, 65_536, 65_537, 151_936, 262_144, 262_145, 1_000_000])
@pytest.mark.parametrize("k", [1, 3, 4, 32])
def test_ids_come_back(vocabulary: int, k: int) -> None:
    """Bits of a large vocabulary that are cut off, or put with another entry."""
    ids = torch.randint(0, vocabulary, (50, k))
    ids[0], ids[1] = 0, vocabulary - 1
    packed = pack_ids(ids, vocabulary)
    assert torch.equal(unpack_ids(packed, vocabulary), ids)
    bytes_each = sum(column.numel() * column.element_size() for column in packed.values()) / ids.numel()
    bits = 16 if vocabulary <= 65_536 else 18 if vocabulary <= 262_144 else 24
    assert bytes_each <= bits / 8 * math.ceil(k / 4) * 4 / k


@pytest.mark.parametrize("vocabulary", [1, 2, 10, 2_048, 50_304, 151_936])
@pytest.mark.parametrize("k", [1, 5, 16, 29])
def test_ascending_ids_come_back(vocabulary: int, k: int) -> None:
    """Entries that repeat, the first and the last, more draws than entries; and a size that grows past the bound."""
    ids = torch.randint(0, vocabulary, (50, k)).sort(1).values
    ids[0], ids[1], ids[2, -1], ids[3, 0] = 0, vocabulary - 1, vocabulary - 1, 0
    packed = pack_ascending(ids, vocabulary)
    assert torch.equal(unpack_ascending(packed, k, vocabulary), ids)
    assert torch.equal(unpack_ascending({n: c[:0] for n, c in packed.items()}, k, vocabulary), ids[:0])
    size = sum(column.shape[1] for column in packed.values())
    assert size <= k * (2 + max(0.0, math.log2(vocabulary / k))) / 8 + 1  # whole bytes


def test_logarithms_come_back_within_half_a_step() -> None:
    """A probability of one in ten that comes back as one in nine, or −inf as something."""
    values = torch.cat([torch.linspace(-63.9, 0.0, 10_001), torch.tensor([-math.inf, -200.0])])
    back = unpack_log(pack_log(values))
    assert float((back[:-2] - values[:-2]).abs().max()) <= 1 / 2048 + 1e-5
    assert back[-2] == -math.inf
    assert back[-1] == -math.inf  # e^-200 is no probability
