"""limbeck.sources.images: batches assembled at once, the same however they are asked for."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from limbeck.errors import LimbeckError
from limbeck.sources import ImageSet, collate_samples
from limbeck.sources.mixing import Mixup
from limbeck.sources.names import load
from limbeck.sources.pixels import InMemory, normalise
from limbeck.sources.views import PerSample, compose, keys, named
from limbeck.types import Preprocessing


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("digits").train


@pytest.fixture(scope="module")
def viewed(digits: ImageSet) -> ImageSet:
    crop_flip = named("crop-flip", (8, 8))
    assert crop_flip is not None
    return digits.with_view(compose(crop_flip, PerSample(_brighter)), seed=3)


def _brighter(image: Tensor) -> Tensor:
    return (image // 2) + torch.randint(0, 100, (), dtype=torch.uint8)


def _by_id(loader: DataLoader[dict[str, Tensor]]) -> dict[int, Tensor]:
    return {
        int(sample): pixels for batch in loader for sample, pixels in zip(batch["ids"], batch["inputs"], strict=True)
    }


def _same(first: dict[int, Tensor], second: dict[int, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_batch_is_the_normalised_pixels(digits: ImageSet) -> None:
    """(pixels / 255 - mean) / std in float64, and the right label and id beside it."""
    rows = [5, 0, 1293]
    batch = digits.__getitems__(rows)
    mean, std = digits.preprocessing.mean[0], digits.preprocessing.std[0]
    expected = (digits.pixels(torch.tensor(rows)).double() / 255 - mean) / std
    torch.testing.assert_close(batch["inputs"].double(), expected, rtol=0, atol=1e-6)
    assert batch["inputs"].dtype == torch.float32
    assert torch.equal(batch["labels"], digits.labels[rows])
    assert torch.equal(batch["ids"], digits.ids[rows])
    assert batch["views"].tolist() == [0, 0, 0]


def test_pixels_belong_to_their_labels(digits: ImageSet) -> None:
    """A split that permuted images and labels apart would train on noise: each must be scikit-learn's own pair."""
    from sklearn.datasets import load_digits

    found = load_digits()
    ids = digits.ids.numpy()
    assert np.array_equal(digits.labels.numpy(), found.target[ids])
    pixels = digits.pixels(np.arange(len(digits))).numpy()[:, 0]
    assert np.array_equal(pixels, np.rint(found.images[ids] * 255 / 16).astype(np.uint8))


def test_one_sample_equals_its_place_in_a_batch(viewed: ImageSet) -> None:
    """An evaluation that goes sample by sample must see what the training saw."""
    stacked = collate_samples([viewed[index] for index in range(20)])
    for name, value in viewed.__getitems__(list(range(20))).items():
        assert torch.equal(stacked[name], value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_view_is_the_same_in_any_loader(viewed: ImageSet, workers: int) -> None:
    """Batch size, order and worker processes must not change what a sample looks like in an epoch."""
    viewed.set_epoch(4)
    plain = _by_id(DataLoader(viewed, batch_size=len(viewed), collate_fn=collate_samples))
    loader = DataLoader(viewed, batch_size=37, shuffle=True, num_workers=workers, collate_fn=collate_samples)
    assert _same(_by_id(loader), plain)


def test_set_epoch_reaches_workers_that_live_on(viewed: ImageSet) -> None:
    """With persistent workers an ordinary attribute would stay at the first epoch's views for the whole run."""
    loader = DataLoader(viewed, batch_size=256, num_workers=2, persistent_workers=True, collate_fn=collate_samples)
    seen = []
    for epoch in (0, 1, 0):
        viewed.set_epoch(epoch)
        seen.append(_by_id(loader))
    assert not _same(seen[0], seen[1])
    assert _same(seen[0], seen[2])


def test_workers_give_what_the_main_process_gives_without_a_view(digits: ImageSet) -> None:
    """Pixels normalised once and pixels normalised a batch must be equal to the bit."""
    fresh = pickle.loads(pickle.dumps(digits))
    plain = _by_id(DataLoader(digits, batch_size=500, collate_fn=collate_samples))
    assert _same(_by_id(DataLoader(fresh, batch_size=7, num_workers=2, collate_fn=collate_samples)), plain)


def test_pickling_keeps_the_view_and_the_epoch(viewed: ImageSet) -> None:
    """A spawned worker gets a pickled copy: it must be in the same epoch, and not carry the float pixels."""
    viewed.set_epoch(9)
    again = pickle.loads(pickle.dumps(viewed))
    assert again.epoch == 9
    assert torch.equal(again.__getitems__([3])["inputs"], viewed.__getitems__([3])["inputs"])
    plain = viewed.without_view()
    plain.__getitems__([0])
    assert len(pickle.dumps(plain)) < 2 * 1797 * 64 + 100_000


def test_without_view_is_the_same_in_every_epoch(viewed: ImageSet) -> None:
    """Evaluation must not see augmented pixels, nor change its data set's training twin."""
    viewed.set_epoch(0)
    plain = viewed.without_view()
    first = plain.__getitems__([1, 2])["inputs"]
    plain.set_epoch(5)
    assert torch.equal(plain.__getitems__([1, 2])["inputs"], first)
    assert viewed.epoch == 0
    assert torch.equal(first, normalise(plain.pixels(torch.tensor([1, 2])), plain.preprocessing))


def test_subset_keeps_ids_labels_and_views(viewed: ImageSet) -> None:
    """A sample's view hangs on its id, so a subset must show the same pixels."""
    viewed.set_epoch(0)
    chosen = [10, 3, 77]
    part = viewed.subset(chosen).__getitems__([0, 1, 2])
    for name, value in viewed.__getitems__(chosen).items():
        assert torch.equal(part[name], value)
    torch_subset = next(iter(DataLoader(Subset(viewed, chosen), batch_size=3, collate_fn=collate_samples)))
    assert torch.equal(torch_subset["inputs"], part["inputs"])


def test_with_labels_hides_the_others(digits: ImageSet) -> None:
    """Hidden labels must be -1, and the original must keep its own."""
    mask = np.arange(len(digits)) < 10
    hidden = digits.with_labels(mask)
    assert torch.equal(hidden.labels[:10], digits.labels[:10])
    assert (hidden.labels[10:] == -1).all()
    assert (digits.labels >= 0).all()


def test_with_preprocessing_changes_only_the_scale(digits: ImageSet) -> None:
    """A pretrained teacher's own mean and std replace the data's; another shape cannot."""
    plain = digits.with_preprocessing(Preprocessing((8, 8), 1, (0.0,), (1.0,)))
    expected = plain.pixels(torch.tensor([0])).float() / 255
    torch.testing.assert_close(plain.__getitems__([0])["inputs"], expected)
    with pytest.raises(LimbeckError, match=r"images are 1×\(8, 8\), the preprocessing wants 3×\(32, 32\)"):
        digits.with_preprocessing(Preprocessing((32, 32), 3, (0.0,) * 3, (1.0,) * 3))


def test_what_is_wrong_is_named() -> None:
    """Empty sets, labels without a class and misfitting lengths must fail when the set is made."""
    images = InMemory(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    how = Preprocessing((4, 4), 1, (0.0,), (1.0,))
    one = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(LimbeckError, match="mine: label 7 is out of range for 2 classes"):
        ImageSet(images, one + 7, one, ("a", "b"), how, name="mine")
    with pytest.raises(LimbeckError, match="got 2 images, 1 labels and 2 ids"):
        ImageSet(images, one[:1], one, ("a", "b"), how)
    with pytest.raises(LimbeckError, match="the split is empty"):
        ImageSet(images, one, one, ("a", "b"), how).subset([])


def test_copies_share_pixels_but_not_the_epoch(viewed: ImageSet) -> None:
    """A subset that advanced its parent's epoch would change the parent's views mid-epoch."""
    viewed.set_epoch(2)
    part = viewed.subset([0, 1])
    part.set_epoch(6)
    assert viewed.epoch == 2
    assert copy.deepcopy(viewed).epoch == 2
    assert part.view is not None
    expected = part.view(part.pixels(torch.tensor([0, 1])), keys(3, 6, part.ids.numpy()))
    assert torch.equal(part.__getitems__([0, 1])["inputs"], normalise(expected, part.preprocessing))


def _inputs(split: ImageSet) -> Tensor:
    return split.__getitems__(list(range(40)))["inputs"]


def test_batches_say_their_view(viewed: ImageSet) -> None:
    """A batch that does not say which view it is in would fetch the answer to other pixels; without augmentation
    there is only view 0, whatever the epoch."""
    split, plain = viewed.subset(range(40)), viewed.without_view()
    for epoch in (0, 7):
        split.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert split.__getitems__([3, 1])["views"].tolist() == [epoch, epoch]
        assert split[3]["views"] == epoch
        assert plain.__getitems__([3, 1])["views"].tolist() == [0, 0]
    assert split.__getitems__([0])["views"].dtype == torch.int64
    assert (split.view_count, plain.view_count) == (None, 1)


def test_a_counted_view_comes_round(viewed: ImageSet) -> None:
    """With K stored views, epoch e must show view e mod K, the pixels that epoch e mod K of an endless view shows."""
    endless = viewed.subset(range(40))
    counted = endless.with_view(endless.view, count=3)
    assert counted.view_count == 3
    for epoch in range(7):
        counted.set_epoch(epoch)
        endless.set_epoch(epoch % 3)
        assert counted.view_number == epoch % 3
        assert counted.epoch == epoch
        assert counted.__getitems__([0])["views"].item() == epoch % 3
        assert torch.equal(_inputs(counted), _inputs(endless))
    assert counted.subset(range(4)).view_count == 3
    assert counted.with_view(counted.view).view_count is None


def test_a_pinned_view_does_not_move(viewed: ImageSet) -> None:
    """Labelling goes view by view: an epoch that advanced meanwhile must not change what is stored under a number."""
    split = viewed.subset(range(40))
    pinned = split.in_view(2)
    split.set_epoch(2)
    pinned.set_epoch(9)
    assert torch.equal(_inputs(pinned), _inputs(split))
    assert pinned.view_number == pickle.loads(pickle.dumps(pinned)).view_number == 2
    assert pinned.subset([1]).__getitems__([0])["views"].item() == 2
    again = pinned.with_view(pinned.view)
    again.set_epoch(1)
    assert again.view_number == 1


def test_views_that_do_not_exist_are_refused(viewed: ImageSet) -> None:
    """View 3 of 3 would silently be stored and never shown."""
    counted = viewed.with_view(viewed.view, count=3)
    with pytest.raises(LimbeckError, match="digits train: expected a view from 0 to 2, got 3; with_view sets"):
        counted.in_view(3)
    with pytest.raises(LimbeckError, match="expected a view from 0 to 0, got 1"):
        viewed.without_view().in_view(1)
    with pytest.raises(LimbeckError, match="expected a view from 0 or above, got -1"):
        viewed.in_view(-1)
    with pytest.raises(LimbeckError, match="expected a count of at least 1 view, got 0; None is one an epoch"):
        viewed.with_view(viewed.view, count=0)


def test_evaluation_is_not_mixed(viewed: ImageSet) -> None:
    """Mixed images or float labels in an evaluation would measure something else."""
    mixed = viewed.with_mixing(Mixup())
    for plain in (mixed.without_view(), mixed.with_view(None).with_mixing(None)):
        assert plain.mixing is None
        batch, expected = plain.__getitems__([5, 6]), viewed.without_view().__getitems__([5, 6])
        assert all(torch.equal(batch[name], expected[name]) for name in expected)
    assert viewed.mixing is None
