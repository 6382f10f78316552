"""Content ids: a sample's name made from what is in it, the same in any order, batch, subset or process."""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA, _FIRST, _SECOND = (value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""The constants of SplitMix64 as signed words: torch multiplies those modulo 2⁶⁴."""


BLOCK = 1 << 15
"""Words that are hashed at a time on a CPU: what stays in its cache."""


def _shifted(words: Tensor, bits: int) -> Tensor:
    """A logical right shift of int64 words; torch's own keeps the sign."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def mixed(words: Tensor) -> Tensor:
    """One step of SplitMix64 from each int64 word (Steele, Lea & Flood 2014): the next random word."""
    words = words + _GAMMA
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def content_ids(values: Tensor, where: Tensor | None = None) -> Tensor:
    """A 64-bit hash of each sample of (batch, …), (batch,) int64, on the tensor's device.

    Two samples have one id exactly when they have the same values, dtype and length, up to the 2⁻⁶³ chance of a
    collision a pair: every word is scrambled, multiplied by a number of its own, and they are summed modulo 2⁶⁴ (a
    multilinear hash). `where` (batch, length) keeps the positions that count, as padding would change the name of a
    text; they are taken together in their order.
    """
    batch = len(values)
    rows = values.reshape(batch, -1)
    lengths = torch.full((batch,), rows.shape[1], device=rows.device)
    if where is not None:
        lengths = where.sum(1)
        # A stable sort moves what counts to the front, so left and right padding give one name.
        order = torch.argsort((~where.bool()).to(torch.int8), dim=1, stable=True)
        rows = rows.gather(1, order) * where.gather(1, order)
    words = _as_words(rows)
    factors = mixed(torch.arange(words.shape[1], device=rows.device) * 2 + 1) | 1
    # A zero must count at its place, and must count as nothing where it is padding: lengths tell them apart.
    step = max(1, BLOCK // max(1, words.shape[1])) if words.device.type == "cpu" else max(1, batch)
    summed = torch.cat([_scrambled(block).mul_(factors).sum(1) for block in words.split(step)])
    return mixed(mixed(summed) + lengths)


def text_content(ids: Tensor, where: Tensor, segments: Tensor | None = None) -> Tensor:
    """The content ids of texts, (batch,) int64: of `ids` (batch, length), whole numbers of any width, where `where`.

    `segments` (batch, length) are a model's `token_type_ids`; all 0 is the same as none, as it is to the model.
    """
    names = content_ids(ids.long(), where)
    if segments is None:
        return names
    other = ((segments != 0) & where).any(1)
    return torch.where(other, mixed(names + content_ids(segments.long(), where)), names)


def _scrambled(words: Tensor) -> Tensor:
    """Each word with all of its bits in its low ones too, one to one; 0 stays 0.

    Floats of few digits, as whole numbers and one-hot inputs are, end in zeros. Their products would too, and a sum of
    them would have few values: of 500 samples of whole float64 numbers below 100, two would often share a name.
    """
    words = words ^ _shifted(words, 32)
    words *= _FIRST
    return words.bitwise_xor_(_shifted(words, 29))


def _as_words(rows: Tensor) -> Tensor:
    """Each row's bits as int64 words; rows of an odd number of bytes end in zeros."""
    if rows.dtype is torch.int64:
        return rows
    if rows.dtype is torch.bool:
        rows = rows.to(torch.uint8)
    data = rows.contiguous().view(torch.uint8)
    rest = -data.shape[1] % 8
    if rest:
        data = torch.nn.functional.pad(data, (0, rest))
    return data.view(torch.int64)
