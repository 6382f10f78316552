"""What must not become a store: NaN, other data, two samples of one name; and a damaged store, labelled again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.test_labelling import digits_net, files
from torch import Tensor, nn
from torch.utils.data import Dataset

from limbeck import LabelStore, label
from limbeck.errors import LimbeckError
from limbeck.sources import load
from limbeck.store import Codec, DenseLogits, Features, HeadStates, SampledLogits, TopKLogits

VOCABULARY = 61


def quiet(_line: str) -> None:
    pass


def pictures(seed: int = 0, count: int = 40) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


class Rows(Dataset[dict[str, Any]]):
    """A user's own data set, of which nobody knows the ids before its samples are read."""

    def __init__(self, inputs: Tensor, ids: list[int]) -> None:
        self.inputs, self.own = inputs, ids

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": self.inputs[index], "id": self.own[index]}


class Says(nn.Module):
    """A teacher that says `value` of its third sample, of class 1."""

    def __init__(self, value: float, classes: int | slice = 1) -> None:
        super().__init__()
        self.net, self.value, self.classes = digits_net(), value, classes

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.net(inputs)
        third = (inputs == pictures()[2]).flatten(1).all(1)
        logits[third, self.classes] = self.value
        return logits


CODECS: list[Codec] = [DenseLogits(), TopKLogits(k=3), SampledLogits(draws=4), Features(), Features(bits=8)]


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_teacher_that_says_nothing_finite(tmp_path: Path, codec: Codec, value: float) -> None:
    """NaN that becomes certainty in each of k classes, or always the last one, and trains without a word."""
    data = Rows(pictures(), list(range(100, 140)))
    with pytest.raises(LimbeckError, match=r"nothing finite of sample 102 in view 0: it gives NaN or infinite"):
        label(Says(value), data, tmp_path / "store", signals={"logits": codec}, batch_size=16, say=quiet)


def test_a_class_may_be_impossible(tmp_path: Path) -> None:
    """A teacher that rules a class out, refused; or one that rules all of them out, not."""
    data = Rows(pictures(), list(range(40)))
    store = label(Says(-torch.inf), data, tmp_path / "store", signals={"logits": TopKLogits(k=10)}, say=quiet)
    assert store.manifest.records == 40
    with pytest.raises(LimbeckError, match="nothing finite of sample 2 in view 0"):
        label(Says(-torch.inf, slice(None)), data, tmp_path / "none", say=quiet)


Data = Callable[[int], Any]
DATA: dict[str, tuple[Data, Data]] = {
    "another array": (lambda n: (pictures(0, n), None), lambda n: (pictures(1, n), None)),
    "one row of an array": (lambda n: (pictures(0, n), None), lambda n: (_one_changed(pictures(0, n)), None)),
    "another order": (lambda n: (pictures(0, n), None), lambda n: (pictures(0, n).flip(0), None)),
    "another order of a set": (
        lambda n: load("digits").test.subset(range(n)),
        lambda n: load("digits").test.subset(range(n - 1, -1, -1)),
    ),
    "other contents under own ids": (
        lambda n: Rows(pictures(0, n), list(range(n))), lambda n: Rows(pictures(1, n), list(range(n))),
    ),
    "other ids": (
        lambda n: Rows(pictures(0, n), list(range(n))), lambda n: Rows(pictures(0, n), list(range(7, n + 7))),
    ),
}  # fmt: skip


def _one_changed(inputs: Tensor) -> Tensor:
    inputs[5] += 1
    return inputs


class Dies(nn.Module):
    """A teacher that is killed after some samples."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.net, self.left = digits_net(), after

    def forward(self, inputs: Tensor) -> Tensor:
        self.left -= len(inputs)
        if self.left < 0:
            raise KeyboardInterrupt
        logits: Tensor = self.net(inputs)
        return logits


@pytest.mark.parametrize("case", DATA)
def test_other_data_of_the_same_size(tmp_path: Path, case: str) -> None:
    """The old store given back for new data; or a killed labelling gone on with another order of the samples, so that
    some have two labels and others none."""
    first, second = DATA[case]
    label(digits_net(), first(40), tmp_path / "whole", batch_size=2, say=quiet)
    with pytest.raises(KeyboardInterrupt):
        label(Dies(2 + 32), first(40), tmp_path / "half", batch_size=2, say=quiet)
    assert (tmp_path / "half" / "labels-00000.safetensors").exists()
    assert not (tmp_path / "half" / "manifest.json").exists()
    for folder, teacher in (("whole", digits_net()), ("half", Dies(1000))):
        with pytest.raises(LimbeckError, match=r"holds labels of another plan \(data: '\w+…?'? there"):
            label(teacher, second(40), tmp_path / folder, batch_size=2, say=quiet)


@pytest.mark.parametrize("first", [0, 5], ids=["found at once", "found at the end"])
def test_two_samples_of_one_name(tmp_path: Path, first: int) -> None:
    """Training split and test split that both count from 0: either's label for both, found when a student trains."""
    train = Rows(pictures(0), list(range(40)))
    test = Rows(pictures(1, 20), [*range(100, 100 + first), *range(first, 19), 119])
    with pytest.raises(LimbeckError, match=rf"several samples are called {first} in view 0, and have other contents"):
        label(digits_net(), [train, test], tmp_path / "store", batch_size=8, say=quiet)
    same = Rows(torch.cat([pictures(), pictures()[:2]]), [*range(40), 0, 1])
    assert label(digits_net(), same, tmp_path / "doubles", say=quiet).manifest.records == 42


@pytest.mark.parametrize("harm", ["flipped", "cut", "deleted"])
def test_labelling_again_repairs_a_finished_store(tmp_path: Path, harm: str) -> None:
    """A store that is refused and whose advice, to label again, changes nothing."""
    data, folder, lines = load("digits").test, tmp_path / "store", list[str]()
    label(Dies(10_000), data, folder, batch_size=8, say=quiet)
    before = files(folder)
    path = folder / "labels-00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + (bytes([whole[-1] ^ 1]) if harm == "flipped" else b""))
    if harm == "deleted":
        path.unlink()
    seen = Dies(8 + 128)  # no more than the first batch and the one shard
    label(seen, data, folder, batch_size=8, say=lines.append)
    assert files(folder) == before
    assert "made again: " in lines[0]
    assert "labels-00001.safetensors" in lines[0]
    assert LabelStore.open(folder).verify() == []


def test_a_head_that_is_lost_is_written_again(tmp_path: Path) -> None:
    """Shards that are whole, beside a missing head that nothing brings back."""
    folder = tmp_path / "store"
    for _ in range(2):
        label(causal(), texts(), folder, signals={"logits": HeadStates()}, collate=padded, say=quiet)
        before = files(folder)
        (folder / "constants.safetensors").unlink()
    label(causal(), texts(), folder, signals={"logits": HeadStates()}, collate=padded, say=quiet)
    assert files(folder) == before


def test_without_a_whole_manifest(tmp_path: Path) -> None:
    """Advice that leads from one error to the next: a manifest cut off, which is deleted, and then the folder is not
    empty."""
    data, folder = load("digits").test, tmp_path / "store"
    label(digits_net(), data, folder, say=quiet)
    before = files(folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:200])
    with pytest.raises(LimbeckError, match=r"manifest\.json: is cut off or no JSON; restore it, or delete .*store and"):
        label(digits_net(), data, folder, say=quiet)
    manifest.unlink()
    with pytest.raises(LimbeckError, match=r"shards without the manifest\.json .* delete labels-\*\.safetensors and"):
        label(digits_net(), data, folder, say=quiet)
    for shard in folder.glob("labels-*.safetensors"):
        shard.unlink()
    label(digits_net(), data, folder, say=quiet)
    assert files(folder) == before


def causal() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def texts(lengths: tuple[int, ...] = (7, 3, 12, 5)) -> list[dict[str, Tensor]]:
    return [
        {"input_ids": torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))}
        for length in lengths
    ]


def padded(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([sample["input_ids"] for sample in samples], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_attention_within_texts(tmp_path: Path) -> None:
    """A traceback after the first batch of another length; or, padded on the left, maps of the tokens beside."""
    for samples in (texts(), texts((5, 5, 5))):
        with pytest.raises(LimbeckError, match=r"signal 'attention\.1': the attention within a text is a map of its"):
            label(
                causal(), samples, tmp_path / "store", signals={"attention.1": Features()}, batch_size=2,
                collate=padded, say=quiet,
            )  # fmt: skip


def test_a_signal_of_another_size_in_each_batch(tmp_path: Path) -> None:
    """A traceback from inside, hours after the start."""
    sizes = [{"inputs": torch.randn(1, 6 + 2 * (index // 4), 8)} for index in range(8)]
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    with pytest.raises(LimbeckError, match=r"signal '0': is \(2, 4, 6\) a sample in one batch and \(2, 6, 6\) in"):
        label(net, sizes, tmp_path / "store", signals={"0": Features()}, batch_size=4, say=quiet)


def test_mistakes_in_python(tmp_path: Path) -> None:
    """Tracebacks from inside instead of what to change."""
    data = load("digits").test
    with pytest.raises(LimbeckError, match="batch_size of at least 1, got 0"):
        label(digits_net(), data, tmp_path / "store", batch_size=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(LimbeckError, match="is a file; a label store is a folder"):
        label(digits_net(), data, tmp_path / "file", say=quiet)
    sparse = label(digits_net(), data, tmp_path / "sparse", signals={"logits": TopKLogits(k=3)}, say=quiet)
    with pytest.raises(LimbeckError, match="the teacher gives it as TopK, of which the whole is lost; label from a"):
        label(sparse, data, tmp_path / "store", say=quiet)
    store = label(causal(), texts(), tmp_path / "features", signals={"logits": Features()}, collate=padded, say=quiet)
    assert store.signals["logits"].shape == (VOCABULARY,)


def test_the_size_counts_the_head(tmp_path: Path) -> None:
    """A size said before that leaves out most of what is written."""
    lines: list[str] = []
    store = label(
        causal(), texts(), tmp_path / "store", signals={"logits": HeadStates()}, collate=padded, say=lines.append
    )
    assert store.manifest.constants is not None
    head = f"{store.manifest.constants.bytes / 1e6:,.1f} MB of the head"
    assert head in lines[0]
