"""Names made from content: the same for the same, and for nothing else."""

from __future__ import annotations

import pytest
import torch

from limbeck.content import content_ids, text_content

KNOWN = 4206127296977517785
"""Computed in Python's own integers: SplitMix64 of (SplitMix64 of the sum over scrambled words, plus the length)."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8, torch.int64, torch.bool])
def test_one_name_a_sample(dtype: torch.dtype) -> None:
    """Two samples with one name, or one sample with two."""
    values = torch.randint(0, 2 if dtype is torch.bool else 100, (500, 3, 7)).to(dtype)
    values[7] = values[3]
    ids = content_ids(values)
    distinct = len({tuple(row.flatten().tolist()) for row in values})
    assert len(ids.unique()) == distinct
    order = torch.randperm(500)
    assert torch.equal(content_ids(values[order]), ids[order])
    assert torch.equal(content_ids(values.to(memory_format=torch.contiguous_format)), ids)
    assert torch.equal(content_ids(values[:1]), ids[:1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_numbers_of_few_digits(dtype: torch.dtype) -> None:
    """Samples of zeros and ones, of which hundreds share a name, since the bits of such floats end in zeros."""
    values = torch.randint(0, 2, (20_000, 40), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert len(content_ids(values).unique()) == len(values.unique(dim=0))


def test_every_value_and_its_place_count() -> None:
    """A name that does not notice one bit, a swap, or a zero more."""
    values = torch.randn(1, 64)
    ids = {int(content_ids(values))}
    for at in range(64):
        changed = values.clone()
        changed[0, at] += 1e-6 * changed[0, at].abs() + 1e-30
        swapped = values.clone()
        swapped[0, [at, at - 1]] = values[0, [at - 1, at]]
        ids |= {int(content_ids(changed)), int(content_ids(swapped))}
    assert len(ids) == 129
    assert len({int(content_ids(torch.zeros(1, length))) for length in range(1, 40)}) == 39


def test_padding_is_not_content() -> None:
    """A text with another name in a longer batch, or padded on the left."""
    text = torch.tensor([5, 9, 0, 3])
    names = set()
    for length, start in ((4, 0), (9, 0), (9, 5), (9, 2)):
        ids, mask = torch.full((2, length), 7), torch.zeros(2, length, dtype=torch.bool)
        ids[0, start : start + 4], mask[0, start : start + 4] = text, True
        mask[1] = True
        names.add(int(content_ids(ids, mask)[0]))
    assert len(names) == 1
    assert names == {int(content_ids(text[None]))}
    assert names != {int(content_ids(text[None, :3]))}


def test_the_numbers_do_not_change() -> None:
    """Stores of last year, whose names nobody finds any more."""
    assert content_ids(torch.tensor([[1, 2, 3]])).tolist() == [KNOWN]


def test_a_text_is_its_numbers_and_its_segments() -> None:
    """A text with another name as int32, or where a tokenizer writes down that it has one segment; and one name for a
    text in two segments, wherever they part."""
    ids, where = torch.tensor([[5, 9, 0, 3, 7]]).repeat(3, 1), torch.tensor([[1, 1, 1, 1, 0]] * 3).bool()
    names = text_content(ids, where)
    assert torch.equal(names, content_ids(ids, where))
    assert torch.equal(names, text_content(ids.int(), where))
    segments = torch.tensor([[0, 0, 0, 0, 1], [0, 1, 1, 1, 0], [0, 0, 1, 1, 0]])
    apart = text_content(ids, where, segments)
    assert apart[0] == names[0]
    assert len(set(apart.tolist())) == 3
    assert torch.equal(apart, text_content(ids, where, segments.int()))
