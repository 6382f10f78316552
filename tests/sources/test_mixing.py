"""limbeck.sources.mixing: λ, box and partner from the sample's key, against loops and published distributions."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from limbeck.errors import LimbeckError
from limbeck.sources import ImageSet
from limbeck.sources.mixing import CutMix, Mixing, Mixup, Pool, lambdas, mixed_labels, mixing_keys
from limbeck.sources.pixels import InMemory
from limbeck.sources.views import Crop, Flip, compose, keys, uniform
from limbeck.types import Preprocessing

MANY = mixing_keys(keys(5, 2, np.arange(100_000, dtype=np.int64)))


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """30 noisy images of 3 classes; every fifth is unlabelled, and ids run against the rows."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (30, 3, 9, 7), dtype=torch.uint8, generator=generator)
    labels = torch.where(torch.arange(30) % 5 == 4, -1, torch.arange(30) % 3)
    how = Preprocessing((9, 7), 3, (0.48, 0.45, 0.4), (0.23, 0.22, 0.2))
    return ImageSet(InMemory(pixels), labels, 1000 - 7 * torch.arange(30), ("a", "b", "c"), how, name="noise")


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    """A λ of another distribution trains another method: mean 1/2 and variance 1/(4(2α + 1)) within 4 standard
    errors, and the whole distribution against scipy's."""
    drawn = lambdas(MANY, alpha)
    published = stats.beta(alpha, alpha)
    n, variance = len(drawn), 1 / (4 * (2 * alpha + 1))
    assert variance == pytest.approx(published.var())
    assert abs(drawn.mean() - 0.5) < 4 * np.sqrt(variance / n)
    fourth = (published.stats("k") + 3) * variance**2
    assert abs(drawn.var() - variance) < 4 * np.sqrt((fourth - variance**2) / n)
    # Where λ is rounded to 0 or 1 the distributions differ by the mass of half a step.
    assert stats.kstest(drawn, published.cdf).statistic < 1.95 / np.sqrt(n) + published.cdf(2.0**-17)


def test_lambda_is_exact_in_float32() -> None:
    """A share whose complement is rounded would make labels that do not add up to 1, and bits that hang on the
    mathematical library."""
    drawn = lambdas(MANY[:1000], 0.4)
    assert np.array_equal(drawn * 65536, np.rint(drawn * 65536))
    np.testing.assert_allclose(drawn, stats.beta.ppf(uniform(MANY[:1000], 1), 0.4, 0.4), atol=2.0**-17, rtol=1e-12)
    single = drawn.astype(np.float32)
    assert np.array_equal(single.astype(np.float64), drawn)
    assert np.array_equal((np.float32(1) - single).astype(np.float64), 1 - drawn)


def test_partners_are_drawn_evenly_and_apart_from_lambda() -> None:
    """A lopsided draw shows some samples more often; one that hangs on λ or on the crop mixes related samples."""
    pool = Pool(*(torch.arange(50),) * 3)
    places = pool.partners(MANY).numpy()
    assert stats.chisquare(np.bincount(places, minlength=50)).pvalue > 1e-4
    top, _ = Crop(4).offsets(keys(5, 2, np.arange(100_000, dtype=np.int64)))
    for other in (lambdas(MANY, 1.0), top, CutMix().boxes(MANY, 32, 32)[0], np.arange(100_000)):
        assert abs(np.corrcoef(places, other)[0, 1]) < 4 / np.sqrt(len(places))


@pytest.mark.parametrize(("height", "width"), [(9, 7), (32, 32), (1, 5), (1, 1)])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_cutmix_counts_the_pixels_that_it_pastes(height: int, width: int, alpha: float) -> None:
    """λ before the box is cut off at the border is not the share of the pixels: labels would be wrong there."""
    drawn = MANY[:200]
    own, other = torch.zeros(200, 2, height, width), torch.ones(200, 2, height, width)
    mixed, shares = CutMix(alpha)(own, other, drawn)
    pasted = mixed.sum((2, 3))
    assert torch.equal(pasted[:, 0], pasted[:, 1])
    np.testing.assert_array_equal(1 - pasted[:, 0].double().numpy() / (height * width), shares)
    assert own.sum() == 0, "the images themselves must stay"


def test_cutmix_pastes_the_papers_box() -> None:
    """The box must have sides √(1 − λ) of the image's, its centre anywhere in it: a loop over pixels says where."""
    generator = torch.Generator().manual_seed(1)
    own, other = torch.rand(2, 40, 1, 12, 10, generator=generator)
    drawn = MANY[:40]
    mixed, _ = CutMix(0.8)(own, other, drawn)
    shares, down, across = lambdas(drawn, 0.8), uniform(drawn, 2), uniform(drawn, 3)
    for index in range(40):
        halves = [int(np.sqrt(1 - shares[index]) * length) // 2 for length in (12, 10)]
        centre = int(down[index] * 12), int(across[index] * 10)
        for y in range(12):
            for x in range(10):
                inside = -halves[0] <= y - centre[0] < halves[0] and -halves[1] <= x - centre[1] < halves[1]
                assert mixed[index, 0, y, x] == (other if inside else own)[index, 0, y, x]


@pytest.mark.parametrize("mixing", [Mixup(0.4), CutMix()], ids=repr)
@pytest.mark.parametrize("view", [None, compose(Crop(2), Flip())], ids=["none", "crop-flip"])
def test_a_mixed_batch_equals_a_loop(images: ImageSet, mixing: Mixing, view: Crop | None) -> None:
    """Each sample with its partner by rank in the sorted pool, both in the same view by their own keys, and the labels
    in the same shares; computed one pair at a time in NumPy."""
    split = images.with_view(view, seed=3).with_mixing(mixing)
    split.set_epoch(4)
    plain = images.with_view(view, seed=3)
    plain.set_epoch(4)
    batch = split.__getitems__(list(range(30)))
    ranked = sorted(images.ids.tolist())
    partners = set()
    for row in range(30):
        drawn = mixing_keys(keys(3, 4, images.ids[row : row + 1].numpy()))
        partner = images.ids.tolist().index(ranked[int(uniform(drawn, 0)[0] * 30)])
        partners.add(partner)
        own, other = plain[row]["inputs"].numpy(), plain[partner]["inputs"].numpy()
        if isinstance(mixing, Mixup):
            share = np.float32(lambdas(drawn, 0.4)[0])
            expected = own * share + other * (np.float32(1) - share)
        else:
            assert isinstance(mixing, CutMix)
            top, bottom, left, right = mixing.boxes(drawn, 9, 7)[:, 0]
            expected = own.copy()
            expected[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / 63
        assert np.array_equal(batch["inputs"][row].numpy(), expected)
        first, second = int(images.labels[row]), int(images.labels[partner])
        if min(first, second) < 0:
            assert batch["labels"][row].tolist() == [-1] * 3
        else:
            hot = np.eye(3)
            np.testing.assert_allclose(batch["labels"][row], share * hot[first] + (1 - share) * hot[second], rtol=1e-7)
    assert len(partners) > 10
    assert batch["labels"].dtype == batch["inputs"].dtype == torch.float32
    assert batch["views"].tolist() == [4] * 30
    assert torch.equal(batch["ids"], images.ids)


def test_mixed_labels_add_up_to_one() -> None:
    """Probabilities that add up to less than 1 scale the loss; a sample mixed with its own class keeps its label."""
    labels, partners = torch.tensor([0, 1, 2, -1, 1]), torch.tensor([0, 2, -1, 0, 1])
    got = mixed_labels(labels, partners, np.array([0.3, 0.25, 0.5, 0.5, 1 / 3]), 3)
    expected = [[1, 0, 0], [0, 0.25, 0.75], [-1] * 3, [-1] * 3, [0, 1, 0]]
    assert torch.equal(got, torch.tensor(expected))


def test_subsets_keep_the_pool(images: ImageSet) -> None:
    """A subset that drew from itself would mix other pairs than the ones whose answers are stored."""
    split = images.with_mixing(Mixup())
    chosen = [3, 17, 8]
    part, whole = split.subset(chosen).__getitems__([0, 1, 2]), split.__getitems__(chosen)
    assert all(torch.equal(part[name], whole[name]) for name in whole)
    alone = images.subset(chosen).with_mixing(Mixup()).__getitems__([0, 1, 2])
    assert not torch.equal(alone["inputs"], whole["inputs"])


def test_hidden_labels_do_not_come_back_through_partners(images: ImageSet) -> None:
    """A label that is hidden after mixing was added would still teach the student as a partner's."""
    mask = torch.arange(30) < 20
    before = images.with_labels(mask).with_mixing(Mixup()).__getitems__(list(range(30)))
    after = images.with_mixing(Mixup()).with_labels(mask).__getitems__(list(range(30)))
    assert torch.equal(before["labels"], after["labels"])
    part = images.with_mixing(Mixup()).subset(range(10)).with_labels(torch.zeros(10, dtype=torch.bool))
    assert (part.__getitems__(list(range(10)))["labels"] == -1).all()
    assert (images.labels >= 0).sum() == 24


def _splitmix(word: int) -> int:
    z = (word + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_partners_never_change(images: ImageSet) -> None:
    """A changed hash would silently part all stored answers from their pairs: Python's own integers give the partner of
    every (seed, view, id), also in a process that unpickles the set."""
    split = images.with_view(None, seed=11).with_mixing(Mixup()).in_view(6)
    again = pickle.loads(pickle.dumps(split)).__getitems__(list(range(30)))
    ranked = sorted(images.ids.tolist())
    gamma = 0x9E3779B97F4A7C15
    for row, sample in enumerate(images.ids.tolist()):
        key = _splitmix(_splitmix(_splitmix(11) ^ 6) ^ sample)
        drawn = _splitmix((key + (2**32 + 1) * gamma) % 2**64)
        numbers = [(_splitmix((drawn + (stream + 1) * gamma) % 2**64) >> 11) / 2**53 for stream in range(2)]
        partner = images.ids.tolist().index(ranked[int(numbers[0] * 30)])
        share = round(numbers[1] * 65536) / 65536  # Beta(1, 1) is uniform
        expected = share * images[row]["inputs"] + (1 - share) * images[partner]["inputs"]
        assert torch.equal(again["inputs"][row], expected)


def test_a_sample_listed_twice_is_one_partner(images: ImageSet) -> None:
    """A pool that counted doubles would give all samples other partners as soon as one is listed twice."""
    twice = images.subset([*range(30), 4, 4])
    once, again = (split.with_mixing(Mixup()).__getitems__(list(range(30))) for split in (images, twice))
    assert torch.equal(once["inputs"], again["inputs"])


def test_what_is_wrong_is_named(images: ImageSet) -> None:
    """A partner that is not there must fail when mixing is added, not in epoch 30."""
    with pytest.raises(LimbeckError, match=r"noise: partner 1 of the pool is not among its 30 samples \(2 missing\)"):
        images.with_mixing(Mixup(), pool=[1000, 1, 5000])
    with pytest.raises(LimbeckError, match=r"partner 797 of the pool .*add mixing before the set is cut"):
        images.subset([1, 2]).with_mixing(CutMix(), pool=images.ids)
    with pytest.raises(LimbeckError, match="the pool of partners is empty"):
        images.with_mixing(Mixup(), pool=[])
    for kind in (Mixup, CutMix):
        for alpha in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(LimbeckError, match=f"{kind.__name__}: expected an alpha above 0, got {alpha}"):
                kind(alpha)


def test_reprs_say_everything() -> None:
    """A store's manifest tells mixings apart by their repr."""
    assert (repr(Mixup(0.2)), repr(CutMix())) == ("Mixup(alpha=0.2)", "CutMix(alpha=1.0)")
