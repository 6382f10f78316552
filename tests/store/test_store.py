"""A store that was written, read; and one that was damaged, refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.store import (
    DenseLogits,
    Features,
    Items,
    LabelStore,
    Plan,
    Records,
    SignalPlan,
    StoreWriter,
    TopKLogits,
    ViewPlan,
)  # fmt: skip
from limbeck.types import TopK

CLASSES = 5


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "teacher": "net", "weights": "abc123", "preprocessing": {"mean": [0.5]},
        "views": ViewPlan("Flip()", "None", 3, 2),
        "seed": 0, "shards": (4, 4, 2),
        "signals": {
            "logits": SignalPlan("sample", (CLASSES,), DenseLogits()),
            "words": SignalPlan("next-token", (CLASSES,), TopKLogits(k=2)),
            "hidden.1": SignalPlan("token", (3,), Features()),
        },
    }  # fmt: skip
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


class Truth:
    """Ten records with one to four tokens each, and what a store must give of them."""

    def __init__(self, ids: Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.arange(5).repeat(2) * 3 if ids is None else ids
        self.views = torch.tensor([0] * 5 + [1] * 5)
        self.lengths = torch.tensor([1, 4, 2, 3, 1, 1, 4, 2, 3, 1])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.logits = torch.randn(10, CLASSES, generator=generator)
        tokens = int(self.lengths.sum())
        self.words = torch.randn(tokens, CLASSES, generator=generator)
        self.hidden = torch.randn(tokens, 3, generator=generator)

    def records(self, start: int, stop: int) -> Records:
        at = slice(start, stop)
        tokens = slice(int(self.starts[start]), int(self.starts[stop - 1] + self.lengths[stop - 1]))
        each = self.ids.repeat_interleave(self.lengths)[tokens]
        none = torch.full_like(each, -1)
        sample = Items(self.ids[at], self.views[at], self.ids[at] * 0, torch.full((stop - start,), -1), 0)
        token = Items(each, each * 0, each * 0, none, 0)
        signals = {
            "logits": DenseLogits().encode(self.logits[at], sample),
            "words": TopKLogits(k=2).encode(self.words[tokens], token),
            "hidden.1": Features().encode(self.hidden[tokens], token),
        }
        return Records(self.ids[at], self.views[at], self.ids[at] + 1000, self.lengths[at], signals)

    def write(self, folder: Path) -> LabelStore:
        writer = StoreWriter(folder, plan())
        writer.begin()
        for number in writer.missing():
            writer.write(number, self.records(number * 4, min(number * 4 + 4, 10)))
        writer.finish()
        return LabelStore.open(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Truth().write(tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "mapped"])
@pytest.mark.parametrize("names", ["small", "large"])
def test_every_number_is_found_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, names: str
) -> None:
    """A label of another sample, view or token: in a shuffled batch, over shards, by position or by hash."""
    monkeypatch.setattr("limbeck.store.reader.IN_MEMORY", memory)
    ids = None if names == "small" else (torch.arange(5).repeat(2) + 1) * 0x1234567890ABCDE - (1 << 62)
    truth = Truth(ids)
    store = truth.write(tmp_path / "store")
    for order in (torch.randperm(10), torch.tensor([9, 0, 9, 5])):
        rows = store.rows(truth.ids[order], truth.views[order])
        torch.testing.assert_close(store.read("logits", rows), truth.logits[order], rtol=1e-3, atol=2e-3)
        assert torch.equal(store.content[rows], truth.ids[order] + 1000)
    tokens = torch.randperm(len(truth.words))
    owner = torch.arange(10).repeat_interleave(truth.lengths)[tokens]
    rows = store.rows(truth.ids[owner], truth.views[owner])
    places = tokens - truth.starts[owner]
    torch.testing.assert_close(store.read_items("hidden.1", rows, places), truth.hidden[tokens], rtol=1e-3, atol=1e-4)
    words = store.read_items("words", rows, places)
    assert isinstance(words, TopK)
    assert torch.equal(words.ids, truth.words[tokens].topk(2).indices)
    known = dict(zip(zip(truth.ids.tolist(), truth.views.tolist(), strict=True), range(10), strict=True))
    asked = torch.cat([truth.ids, torch.tensor([-1, 2, 10**15, int(truth.ids.max()) + 1])])
    for view in (0, 1, 2, 7):
        expected = [known.get((sample, view), -1) for sample in asked.tolist()]
        found = store.rows(asked, view)
        got = [-1 if row < 0 else known[int(store.ids[row]), int(store.views[row])] for row in found.tolist()]
        assert got == expected


def test_a_text_that_was_shorter(folder: Path) -> None:
    """The first token of the next text, given for one that grew."""
    store = LabelStore.open(folder)
    rows = store.rows(torch.tensor([3]), 0)
    with pytest.raises(LimbeckError, match="token 4 of text 3 was never labelled: its text had 4 tokens then"):
        store.read_items("hidden.1", rows, torch.tensor([4]))


def test_others_can_read_it(folder: Path) -> None:
    """A format of our own in which labels are locked."""
    columns = load_file(folder / "labels-00000.safetensors")
    assert columns["id"].tolist() == [0, 3, 6, 9]
    assert {"view", "content", "start", "logits/below", "words/log_p", "hidden.1/values"} <= columns.keys()
    assert sorted(path.name for path in folder.iterdir()) == [
        "labels-00000.safetensors", "labels-00001.safetensors", "labels-00002.safetensors", "manifest.json",
    ]  # fmt: skip


def use(folder: Path) -> None:
    """Opens a store and reads all of it."""
    store = LabelStore.open(folder)
    rows = store.rows(torch.arange(5) * 3, 0)
    store.read("logits", rows)


SHARD = "labels-00001.safetensors"


@pytest.mark.parametrize("memory", [1 << 30, 0], ids=["in memory", "mapped"])
def test_one_byte_anywhere_in_a_shard(folder: Path, monkeypatch: pytest.MonkeyPatch, memory: int) -> None:
    """A flipped bit that trains a student."""
    monkeypatch.setattr("limbeck.store.reader.IN_MEMORY", memory)
    path = folder / SHARD
    whole = path.read_bytes()
    for at in (0, 9, *np.linspace(20, len(whole) - 1, 40, dtype=int).tolist()):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(LimbeckError, match=rf"{SHARD}: is corrupt \(its SHA-256 is .* the manifest says"):
            use(folder)
        assert [SHARD in line for line in LabelStore.open(folder).verify()] == [True]
    path.write_bytes(whole)
    use(folder)
    assert LabelStore.open(folder).verify() == []


def test_a_shard_that_is_gone_short_or_another(folder: Path) -> None:
    """A traceback, or labels of other samples."""
    path = folder / SHARD
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(LimbeckError, match=f"{SHARD}: is missing from the label store; restore it, or label"):
        LabelStore.open(folder)
    path.write_bytes(whole[:-1])
    with pytest.raises(LimbeckError, match=f"{SHARD}: has {len(whole) - 1} bytes, the manifest says {len(whole)}"):
        LabelStore.open(folder)
    shutil.copy(folder / "labels-00000.safetensors", path)
    with pytest.raises(LimbeckError, match=SHARD):
        use(folder)


def test_a_manifest_that_is_cut_off_or_edited(folder: Path) -> None:
    """A store whose description is not its own: another temperature, other weights, fewer shards."""
    path = folder / "manifest.json"
    whole = path.read_text()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 3):
        path.write_text(whole[:length])
        with pytest.raises(LimbeckError, match=r"manifest\.json"):
            LabelStore.open(folder)
    content = json.loads(whole)
    for key, value in (("weights", "zzz"), ("seed", 5), ("shards", [4, 4])):
        path.write_text(json.dumps({**content, key: value}))
        with pytest.raises(LimbeckError, match=r"manifest\.json: was changed after it was written"):
            LabelStore.open(folder)
    path.write_text(json.dumps({**content, "format": "limbeck-labels/9"}))
    with pytest.raises(LimbeckError, match="has format 'limbeck-labels/9', this limbeck reads"):
        LabelStore.open(folder)
    for text in ("[]", "{}", "null"):
        path.write_text(text)
        with pytest.raises(LimbeckError, match="is not the manifest of a label store"):
            LabelStore.open(folder)


def test_no_store_and_half_a_store(tmp_path: Path) -> None:
    """Training on the half of the labels that was there."""
    with pytest.raises(LimbeckError, match="holds no label store"):
        LabelStore.open(tmp_path)
    writer = StoreWriter(tmp_path / "half", plan())
    writer.begin()
    writer.write(0, Truth().records(0, 4))
    with pytest.raises(LimbeckError, match="labelling was not finished; run the same `limbeck label` command again"):
        LabelStore.open(tmp_path / "half")
    with pytest.raises(LimbeckError, match="2 of 3 shards are missing"):
        writer.finish()
    with pytest.raises(LimbeckError, match="shard 1 was to hold 4 samples, the data now gives 2"):
        writer.write(1, Truth().records(4, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "def456"}, "weights: 'abc123' there, 'def456' now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"views": None}, "views: .* there, None now"),
        ({"preprocessing": {"mean": [0.4]}}, r"preprocessing.mean: \[0.5\] there, \[0.4\] now"),
        (
            {"signals": {"logits": SignalPlan("sample", (CLASSES,), TopKLogits())}},
            "signals.logits.codec: 'dense' there",
        ),
    ],
)
def test_a_folder_with_other_labels(folder: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """Labels of two teachers in one store, in a finished or an unfinished one."""
    StoreWriter(tmp_path / "half", plan()).begin()
    for there in (folder, tmp_path / "half"):
        with pytest.raises(LimbeckError, match=f"holds labels of another plan \\({message}"):
            StoreWriter(there, plan(**changes)).begin()
    StoreWriter(folder, plan()).begin()


def test_a_folder_with_something_else(tmp_path: Path) -> None:
    """Somebody's files between the shards."""
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(LimbeckError, match="is not empty and holds no label store"):
        StoreWriter(tmp_path, plan()).begin()


def test_resuming_trusts_only_whole_shards(folder: Path, tmp_path: Path) -> None:
    """A shard that was being written when the machine went away, kept; or a finished one made again."""
    half = tmp_path / "half"
    writer = StoreWriter(half, plan())
    writer.begin()
    for number in (0, 1):
        writer.write(number, Truth().records(number * 4, number * 4 + 4))
    (half / "labels-00001.safetensors").write_bytes(b"half")
    (half / ".labels-00002.safetensors.xyz.partial").write_bytes(b"left over")
    again = StoreWriter(half, plan())
    again.begin()
    assert again.missing() == [1, 2]
    Truth().write(half)
    assert {path.name: path.read_bytes() for path in half.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
