"""Replaying a view: (id, view) gives the same bits in any batch, order, subset, process and grown data set."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from limbeck.sources import CutMix, ImageSet, Mixing, Mixup, collate_samples
from limbeck.sources.pixels import InMemory
from limbeck.sources.views import PerSample, View, compose, named
from limbeck.types import Preprocessing

N, ADDED, SIDE = 40, 25, 17
"""An odd side leaves a tail to every vectorised loop."""
BILINEAR = v2.InterpolationMode.BILINEAR
TRANSFORMS = [
    v2.RandomCrop(SIDE, padding=2),
    v2.RandomHorizontalFlip(),
    v2.RandomVerticalFlip(),
    v2.RandomResizedCrop(SIDE, antialias=True),
    v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    v2.RandomPhotometricDistort(),
    v2.RandAugment(),
    v2.TrivialAugmentWide(),
    v2.AutoAugment(),
    v2.AugMix(),
    v2.RandomErasing(p=0.5),
    v2.RandomErasing(p=0.5, value="random", inplace=True),
    v2.RandomRotation(30, interpolation=BILINEAR),
    v2.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), 10, interpolation=BILINEAR),
    v2.RandomPerspective(),
    v2.ElasticTransform(sigma=2.0),
    v2.GaussianBlur(3),
    v2.RandomAdjustSharpness(2),
    v2.RandomAutocontrast(),
    v2.RandomEqualize(),
    v2.RandomInvert(),
    v2.RandomPosterize(4),
    v2.RandomSolarize(128),
    v2.RandomGrayscale(),
    v2.RandomChannelPermutation(),
    v2.JPEG((30, 90)),
    v2.RandomApply([v2.ColorJitter(0.4)]),
    v2.RandomChoice([v2.RandomHorizontalFlip(), v2.RandomRotation(20)]),
]


def _named(name: str) -> View | None:
    return named(name, (SIDE, SIDE))


def _cases() -> Iterator[tuple[str, View | None, Mixing | None]]:
    for transform in TRANSFORMS:
        yield type(transform).__name__, PerSample(transform), None
    for name in ("none", "crop", "crop-flip"):
        for mixing in (None, Mixup(0.4), CutMix()):
            yield f"{name}-{mixing}", _named(name), mixing
    whole = v2.Compose([v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip(), v2.RandAugment()])
    for mixing in (Mixup(), CutMix(0.5)):
        yield f"whole-{mixing}", PerSample(whole), mixing
        crop = _named("crop")
        assert crop is not None
        yield f"composed-{mixing}", compose(crop, PerSample(v2.RandomErasing())), mixing


CASES = list(_cases())
Bits = dict[tuple[int, int], tuple[Tensor, Tensor]]


def _images(order: Tensor) -> ImageSet:
    """Images by number, in this order; number 3 is unlabelled, and ids are spread over all int64."""
    pixels = torch.randint(0, 256, (N + ADDED, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    ids = torch.randint(-(2**63), 2**63 - 1, (N + ADDED,), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(N + ADDED) % 4
    labels[3] = -1
    how = Preprocessing((SIDE, SIDE), 3, (0.48, 0.45, 0.4), (0.23, 0.22, 0.2))
    return ImageSet(InMemory(pixels[order].byte()), labels[order], ids[order], tuple("abcd"), how, seed=5)


FIRST = _images(torch.arange(N))
GROWN = _images(torch.randperm(N + ADDED, generator=torch.Generator().manual_seed(2)))


def _seen(split: ImageSet, batch_size: int = N, shuffle: bool = False, workers: int = 0) -> Bits:
    """Inputs and labels by (id, view)."""
    loader = DataLoader(split, batch_size, shuffle=shuffle, num_workers=workers, collate_fn=collate_samples)
    return {
        (int(sample), int(view)): (inputs, label)
        for batch in loader
        for sample, view, inputs, label in zip(
            batch["ids"], batch["views"], batch["inputs"], batch["labels"], strict=True
        )
    }


def _all_equal(got: Bits, expected: Bits) -> bool:
    return all(torch.equal(a, b) for key in got for a, b in zip(got[key], expected[key], strict=True))


@pytest.mark.parametrize(("view", "mixing"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_same_bits_however_it_is_asked_for(view: View | None, mixing: Mixing | None) -> None:
    """One pixel that hung on the batch, the order, the process or the rest of the data would pair a stored answer with
    an image that the teacher never saw."""
    split = FIRST.with_view(view, count=2).with_mixing(mixing)
    number = 1 if split.view_count == 2 else 0
    split.set_epoch(number)
    expected = _seen(split)
    assert len(expected) == N
    assert {key[1] for key in expected} == {number}
    split.set_epoch(2)
    elsewhere = _seen(split)
    assert number == 0 or not torch.equal(
        *(torch.stack([x for x, _ in each.values()]) for each in (expected, elsewhere))
    )
    split.set_epoch(3)
    assert _all_equal(_seen(split, batch_size=7, shuffle=True), expected)
    assert _all_equal(_seen(split, batch_size=11, shuffle=True, workers=2), expected)
    part = split.subset(np.arange(N - 1, 3, -3))
    part.set_epoch(5)
    assert _all_equal(_seen(part), expected)
    assert _all_equal(_seen(split.in_view(number), batch_size=1), expected)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 if threads == 1 else 1)
    try:
        assert _all_equal(_seen(split), expected)
    finally:
        torch.set_num_threads(threads)
    grown = _seen(GROWN.with_view(view, count=2).with_mixing(mixing, pool=FIRST.ids).in_view(number), batch_size=9)
    assert len(grown) == N + ADDED
    assert _all_equal({key: grown[key] for key in expected}, expected)


def test_another_pool_mixes_otherwise() -> None:
    """The guard on the test above: with the grown set's own pool the pairs are others."""
    first, grown = _seen(FIRST.with_mixing(Mixup())), _seen(GROWN.with_mixing(Mixup()))
    assert not _all_equal(first, grown)
