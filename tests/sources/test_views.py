"""limbeck.sources.views: augmentation that depends on (seed, view, sample id) and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from limbeck.errors import LimbeckError
from limbeck.sources.views import Composed, Crop, Flip, PerSample, View, compose, keys, mix, named, uniform

IDS = np.arange(64, dtype=np.int64)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (64, 3, 12, 10), dtype=torch.uint8, generator=generator)


def test_mix_gives_the_published_numbers() -> None:
    """A changed hash would silently change every split and every stored view: the reference generator seeded with
    1234567 gives these three numbers first."""
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * gamma) % 2**64 for step in range(3)], dtype=np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_differ_by_seed_view_and_id() -> None:
    """Keys that mixed seed and view by a sum would give epoch 1 of seed 0 the pixels of epoch 0 of seed 1."""
    every = np.concatenate([keys(seed, view, IDS) for seed in range(-2, 6) for view in range(8)])
    assert len(np.unique(every)) == len(every)


def test_keys_take_negative_and_large_ids() -> None:
    """Ids are int64 hashes of paths; a float in between would merge neighbours."""
    ids = np.array([-1, 2**62, 2**62 + 1], dtype=np.int64)
    assert len(np.unique(keys(0, 0, ids))) == 3


def test_uniform_is_uniform_and_streams_are_independent() -> None:
    """A bad hash makes lopsided augmentation: mean 1/2, variance 1/12, no correlation, within 4 standard errors."""
    drawn = keys(3, 1, np.arange(100_000, dtype=np.int64))
    first, second = uniform(drawn, 0), uniform(drawn, 1)
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(first.mean() - 0.5) < 4 * np.sqrt(1 / 12 / len(first))
    assert abs(first.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / len(first))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(len(first))


def test_crop_equals_a_loop_over_samples(images: torch.Tensor) -> None:
    """The vectorised gather must cut what pad-then-slice cuts, sample by sample."""
    crop, drawn = Crop(3), keys(0, 5, IDS)
    tops, lefts = crop.offsets(drawn)
    assert set(tops.tolist()) == set(range(7)), "every offset must occur"
    assert set(lefts.tolist()) == set(range(7))
    for image, top, left, got in zip(images, tops, lefts, crop(images, drawn), strict=True):
        padded = torch.nn.functional.pad(image, (3, 3, 3, 3))
        assert torch.equal(got, padded[:, top : top + 12, left : left + 10])


def test_flip_mirrors_about_half_and_keeps_its_input(images: torch.Tensor) -> None:
    """An in-place flip would corrupt the pixels that all epochs share."""
    before = images.clone()
    got = Flip()(images, keys(0, 0, IDS))
    assert torch.equal(images, before)
    mirrored = [torch.equal(new, v2.functional.horizontal_flip(old)) for new, old in zip(got, images, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(got, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 16 <= sum(mirrored) <= 48


@pytest.mark.parametrize(
    "view",
    [
        Crop(2),
        Flip(),
        compose(Crop(1), Flip()),
        PerSample(v2.Compose([v2.RandomCrop(8), v2.ColorJitter(0.4, 0.4)])),
        compose(Crop(2), PerSample(v2.RandomErasing(p=0.5, value=0))),
    ],
    ids=lambda view: type(view).__name__,
)
def test_a_view_is_the_same_in_any_batching(view: View, images: torch.Tensor) -> None:
    """A teacher's stored answer belongs to exact pixels, whatever batch the sample is in."""
    drawn = keys(7, 2, IDS)
    whole = view(images, drawn)
    order = np.random.default_rng(0).permutation(64)
    for part in np.array_split(order, 5):
        assert torch.equal(view(images[part], drawn[part]), whole[part])
    assert not torch.equal(view(images, keys(7, 3, IDS)), whole)
    assert not torch.equal(view(images, keys(8, 2, IDS)), whole)


def test_per_sample_leaves_every_generator_as_it_was(images: torch.Tensor) -> None:
    """Seeding per sample and not putting back would give dropout the same mask after every batch."""

    def noisy(image: torch.Tensor) -> torch.Tensor:
        shift = random.randrange(9) + int(np.random.randint(9)) + int(torch.randint(9, ()))  # noqa: NPY002
        return image + shift

    view = PerSample(noisy)
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(()), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
    first = view(images, keys(0, 0, IDS))
    assert (torch.rand(()), random.random(), np.random.rand()) == expected  # noqa: NPY002
    assert torch.equal(view(images, keys(0, 0, IDS)), first), "all three generators must be seeded by the key"


def test_per_sample_puts_generators_back_after_an_error(images: torch.Tensor) -> None:
    """A failing transform must not leave the process with a seeded generator."""
    torch.manual_seed(1)
    expected = torch.rand(())
    torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError):
        PerSample(lambda image: image // (1 // 0))(images, keys(0, 0, IDS))
    assert torch.rand(()) == expected


@pytest.mark.parametrize("transform", [v2.ToDtype(torch.float32, scale=True), v2.RandomResize(4, 9)])
def test_per_sample_refuses_floats_and_mixed_shapes(transform: v2.Transform, images: torch.Tensor) -> None:
    """A normalising transform before limbeck's own would normalise twice without a word."""
    with pytest.raises(
        LimbeckError, match=r"expected uint8 images of one shape, got .*leave ToDtype and Normalize out"
    ):
        PerSample(transform)(images, keys(0, 0, IDS))


def test_repr_is_the_same_in_every_process() -> None:
    """A store's manifest holds the repr: an address in it would refuse the same view in the next process."""
    view = compose(Crop(2), PerSample(v2.Compose([v2.RandomErasing(p=0.5), v2.Lambda(abs), _Shift(3), _identity])))
    expected = (
        "Composed(views=(Crop(padding=2), PerSample(Compose( RandomErasing(p=0.5, scale=(0.02, 0.33), "
        "ratio=(0.3, 3.3), value=[0.0], inplace=False) Lambda(abs, types=['object']) "
        "<test_views._Shift object> <function _identity> ))))"
    )
    assert repr(view).replace("tests.sources.", "") == expected
    assert "0x" not in repr(PerSample(lambda image: image))


class _Shift:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.by


def _identity(image: torch.Tensor) -> torch.Tensor:
    return image


def test_stages_draw_apart(images: torch.Tensor) -> None:
    """Two flips with the same keys would cancel out and leave every sample as it was."""
    assert not torch.equal(compose(Flip(), Flip())(images, keys(0, 0, IDS)), images)


def test_named() -> None:
    """The padding follows the size, and a wrong name says which is near."""
    assert named("none", (32, 32)) is None
    assert named("crop", (32, 32)) == Crop(4)
    assert named("crop", (4, 4)) == Crop(1)
    assert named("crop-flip", (28, 28)) == Composed((Crop(3), Flip()))
    with pytest.raises(LimbeckError, match="did you mean 'crop-flip'"):
        named("crop_flip", (8, 8))
    with pytest.raises(LimbeckError, match="at least one view"):
        compose()
    with pytest.raises(LimbeckError, match="at least 1 pixel, got 0"):
        Crop(0)
