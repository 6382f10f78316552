"""limbeck.sources.wrap and .collate: whatever data the user has becomes inputs, labels and ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from limbeck.content import content_ids
from limbeck.errors import LimbeckError
from limbeck.sources import as_training_data, collate_samples, load
from limbeck.sources.ids import text_ids

X = torch.arange(24, dtype=torch.float32).view(6, 1, 2, 2)
Y = torch.tensor([0, 1, 2, -1, 1, 0])


class Items(Dataset[Any]):
    """A map-style data set of the given items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    """The samples, one after another."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


PAIRS = [(x, int(y)) for x, y in zip(X, Y, strict=True)]


def _batch(data: object, num_classes: int | None = 3) -> dict[str, Tensor]:
    dataset, collate = as_training_data(data, num_classes)
    return next(iter(DataLoader(dataset, batch_size=6, collate_fn=collate)))


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        (X.double(), Y.to(torch.int32)),
        PAIRS,
        Items(PAIRS),
        Subset(Items(PAIRS), range(6)),
        Items([(x.numpy(), np.int32(y)) for x, y in PAIRS]),
        Items([{"pixel_values": x, "label": y} for x, y in PAIRS]),
        Items([{"image": x, "labels": torch.tensor(y)} for x, y in PAIRS]),
        Items([{"x": x, "y": y} if y >= 0 else {"x": x} for x, y in PAIRS]),
        Items([{"inputs": x, "labels": None if y < 0 else y} for x, y in PAIRS]),
        datasets.Dataset.from_dict({"x": X.tolist(), "y": Y.tolist()}),
        datasets.Dataset.from_dict({"x": X.tolist(), "y": Y.tolist()}).with_format("torch"),
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_kind_gives_the_same_batch(data: object) -> None:
    """Two lines of Python must work with the data set that the user already has."""
    batch = _batch(data)
    assert torch.equal(batch["inputs"], X)
    assert batch["inputs"].dtype == torch.float32
    assert torch.equal(batch["labels"], Y)
    assert batch["labels"].dtype == torch.int64
    assert torch.equal(batch.get("ids", content_ids(batch["inputs"])), content_ids(X))


def test_streams_are_checked() -> None:
    """An iterable data set has no length, but its batches are checked all the same."""
    assert set(_batch(Stream())) == {"inputs", "labels"}
    with pytest.raises(LimbeckError, match="label 2 is out of range for 2 classes"):
        _batch(Stream(), 2)


@pytest.mark.parametrize("block", [1, 40, 4_000_000])
def test_ids_of_arrays_name_their_contents(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that were the position would fetch another sample's stored answer once the data is shuffled, cut or added
    to; and one hashed in blocks must be the one hashed at once."""
    monkeypatch.setattr("limbeck.sources.wrap.BLOCK", block)
    expected = dict(zip(content_ids(X).tolist(), X, strict=True))
    assert len(expected) == 6
    order = torch.tensor([4, 2, 5, 0])
    for inputs, labels in ((X, Y), (X[order], Y[order]), (torch.cat([X + 50, X]), None)):
        dataset, collate = as_training_data((inputs, labels), 3)
        seen = set()
        for batch in DataLoader(dataset, batch_size=4, shuffle=True, collate_fn=collate):
            assert torch.equal(batch["ids"], content_ids(batch["inputs"]))
            seen |= set(batch["ids"].tolist())
        assert len(seen & set(expected)) == (4 if len(inputs) == 4 else 6)


@pytest.mark.parametrize("name", ["id", "ids"])
@pytest.mark.parametrize("kind", [int, np.int32, torch.tensor, str])
def test_own_ids_are_kept(name: str, kind: Callable[[int], Any]) -> None:
    """The data set knows best what its samples are called; texts become the hash that files get."""
    own = [70, 7, 3, -5, 2**40, 1] if kind is not np.int32 else [70, 7, 3, -5, 2**30, 1]
    samples = [{"x": x, "y": int(y), name: kind(i)} for x, y, i in zip(X, Y, own, strict=True)]
    expected = text_ids([str(i) for i in own]).tolist() if kind is str else own
    assert _batch(samples)["ids"].tolist() == expected
    assert _batch(samples)["ids"].dtype == torch.int64
    if kind in (int, str):
        assert (
            _batch(datasets.Dataset.from_list([{**s, "x": s["x"].tolist()} for s in samples]))["ids"].tolist()
            == expected
        )
        whole = {"inputs": X, "labels": Y, name: [kind(i) for i in own]}
        assert collate_samples(whole)["ids"].tolist() == expected


def test_image_sets_pass_with_their_own_ids() -> None:
    """A subset of an ImageSet keeps the lasting ids, not its positions."""
    train = load("digits").train
    dataset, collate = as_training_data(train, 10)
    assert dataset is train
    batch = next(iter(DataLoader(Subset(train, [4, 9]), batch_size=2, collate_fn=collate)))
    assert torch.equal(batch["ids"], train.ids[[4, 9]])
    wrapped, collate = as_training_data(Subset(train, [4, 9]), 10)
    batch = next(iter(DataLoader(wrapped, batch_size=2, collate_fn=collate)))
    assert torch.equal(batch["ids"], train.ids[[4, 9]])
    with pytest.raises(LimbeckError, match="label 9 is out of range for 5 classes"):
        as_training_data(train, 5)


def test_labels_may_be_missing_or_several() -> None:
    """Unlabelled data distils; (n, classes) floats are several labels a sample."""
    assert _batch((X, None))["labels"].tolist() == [-1] * 6
    assert _batch([{"x": x} for x in X])["labels"].tolist() == [-1] * 6
    several = torch.eye(3).repeat(2, 1)
    assert torch.equal(_batch((X, several.double()))["labels"], several)
    assert torch.equal(_batch(list(zip(X, several, strict=True)))["labels"], several)
    with pytest.raises(LimbeckError, match="labels have 3 columns, the models 4 classes"):
        _batch((X, several), 4)


def test_text_keeps_its_names() -> None:
    """Token ids and attention masks go to the model by the names that it knows."""
    samples = [{"input_ids": torch.arange(4), "attention_mask": torch.ones(4), "label": 1}] * 2
    assert set(collate_samples(samples)) == {"input_ids", "attention_mask", "labels"}


def test_a_whole_batch_passes_through() -> None:
    """What `__getitems__` assembled is not stacked again; missing labels are filled in."""
    whole = {"inputs": X, "labels": Y}
    assert collate_samples(whole)["inputs"] is X
    assert collate_samples({"pixel_values": X})["labels"].tolist() == [-1] * 6


def test_arrays_work_in_workers() -> None:
    """In-memory data must give the same batches from worker processes."""
    dataset, collate = as_training_data((X, Y), 3)
    batches = list(DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=collate))
    assert torch.equal(torch.cat([batch["inputs"] for batch in batches]), X)


def _spoiled(value: float) -> Tensor:
    spoiled = X.clone()
    spoiled[4, 0, 1, 1] = value
    return spoiled


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((_spoiled(float("nan")), Y), "inputs: sample 4 has NaN or infinite values"),
        ((_spoiled(float("inf")), Y), "inputs: sample 4 has NaN or infinite values"),
        ((X, torch.tensor([0, 1, float("nan"), 1, 1, 0])), "labels: sample 2 has NaN"),
        ((X, torch.tensor([0.0, 1, 2, 0, 1, 0])), "labels are torch.float32 .*expected whole numbers"),
        ((X, Y + 1), "label 3 is out of range for 3 classes"),
        ((X, Y - 1), "label -2 is out of range for 3 classes"),
        ((X, Y[:5]), "got 6 samples and 5 labels"),
        ((X[:0], Y[:0]), "got 0 samples and 0 labels"),
        ((X.to(torch.uint8), Y), "inputs are uint8, .*ToDtype"),
        ((None, Y), "the inputs are None"),
        ((X, [0, 1, 2, 0, 1, 0]), r"as arrays or tensors, got \(Tensor, list\)"),
        (DataLoader(Items(PAIRS)), "got a DataLoader; give its `dataset`"),
        ([], "the data set is empty"),
        (X, "expected a data set or a tuple .*got Tensor"),
        ("mnist", r"got str; load one by name"),
        (17, "got int"),
        ([1, 2], r"expected samples \(input, label\) or mappings, got int;"),
        ([(X[0], 5)], "label 5 is out of range for 3 classes"),
        ([{"picture": X[0]}], "no input among picture; call it one of inputs, pixel_values, image, x"),
        ([(Image.new("L", (4, 4)), 0)], "inputs are PIL images; give the data set a transform"),
        ([(X[0], 0), (X[0, :, :1], 0)], "inputs of a batch do not stack to one tensor"),
        ([{"x": X[0], "y": 0, "name": "a.png"}], "name of a batch do not stack"),
        ([{"x": X[0], "id": 0.5}], "expected ids that are one whole number or one text a sample, got float; correct"),
        ([{"x": X[0], "id": "a"}, {"x": X[0], "id": 1}], "one text a sample, got int, str;"),
        ([{"x": X[0], "ids": X[0]}], r"one whole number .*got Tensor;"),
        ([{"x": X[0], "ids": True}], r"one whole number .*got torch.bool of shape \(1,\)"),
        ([{"x": X[0], "id": 1}, {"x": X[0]}], "one whole number .*got NoneType, int"),
        ([{"x": X[0]}, {"x": X[0], "id": 1}], "one whole number .*got NoneType, int"),
    ],
)
def test_what_is_wrong_is_named(data: object, message: str) -> None:
    """One line that says what was expected, before or at the first batch."""
    with pytest.raises(LimbeckError, match=message) as info:
        _batch(data)
    assert "\n" not in str(info.value)


def test_large_finite_values_are_not_refused() -> None:
    """A sum that overflows is not a NaN."""
    assert _batch((torch.full((6, 2), 3e38), None))["inputs"].shape == (6, 2)
