"""The order of samples that differ in length."""

from __future__ import annotations

from collections import Counter

import torch

from limbeck.sources import ByLength

LENGTHS = torch.randint(3, 60, (1003,), generator=torch.Generator().manual_seed(0))


def _order(epoch: int, batch_size: int = 8, seed: int = 0) -> list[int]:
    sampler = ByLength(LENGTHS, batch_size, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_sample_once() -> None:
    """A pool or a rest that is lost, so that some samples are never learned."""
    assert sorted(_order(0)) == list(range(len(LENGTHS)))


def test_batches_are_of_one_length() -> None:
    """A sort over too small a pool, or a shuffle within what was sorted, after which nothing is saved."""
    order = torch.tensor(_order(0))[:1000]
    padded = LENGTHS[order].view(-1, 8).amax(1).sum() * 8
    shuffled = LENGTHS[torch.randperm(1000)].view(-1, 8).amax(1).sum() * 8
    assert padded / LENGTHS[order].sum() < 1.1 < 1.5 < shuffled / LENGTHS[:1000].sum()


def test_batches_come_in_no_order_of_length() -> None:
    """Short texts first, or long ones, which biases the end of a training."""
    means = LENGTHS[torch.tensor(_order(0))[:1000]].view(-1, 8).float().mean(1)
    place = torch.arange(len(means)).float()
    assert torch.corrcoef(torch.stack([place, means]))[0, 1].abs() < 0.25
    assert (means.diff() > 0).float().mean() < 0.65


def test_epochs_and_seeds_differ_and_return() -> None:
    """The same order in each epoch; or one that a resumed training cannot have again."""
    assert _order(0) != _order(1)
    assert _order(0) != _order(0, seed=1)
    assert _order(3) == _order(3)


def test_the_rest_is_any_of_them() -> None:
    """What fills no batch is dropped in training: were it always the longest texts, these would never be learned."""
    left = Counter(index for epoch in range(60) for index in _order(epoch)[-3:])
    assert len(left) > 120
    assert LENGTHS[torch.tensor(list(left))].float().mean() < 40
