"""Text sets, data sets of them by name, and batches in another tokenizer's words."""

from __future__ import annotations

import logging
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from limbeck.errors import LimbeckError
from limbeck.labelling import keys_of
from limbeck.sources import collate_samples
from limbeck.sources.places import VARIABLE
from limbeck.sources.texts import Retokenize, TextSet, Tokenizing, load_texts, train_tokenizer
from limbeck.sources.texts.tokenized import Tokenized

TEXTS = ["the fox", "a lazy dog jumps over it", "", "fox fox fox", "dog"]
PAIRS = ["a", "the dog", "it", "", "over"]
LABELS = torch.tensor([0, 1, -1, 1, 0])
IDS = torch.tensor([50, 10, 40, 20, 30])


def tokenizing(max_length: int = 32, **options: Any) -> Tokenizing:
    return Tokenizing(train_tokenizer(TEXTS, **{"vocabulary": 300, **options}), max_length)


def text_set(**options: Any) -> TextSet:
    settings: dict[str, Any] = {"texts": TEXTS, "labels": LABELS, "ids": IDS, "classes": "ab", **options}
    return TextSet(**{"tokenizing": tokenizing(), **settings})


def table(path: Path, count: int = 60, classes: int = 2) -> str:
    rows = [f"text number {i} of all\t{'abc'[i % classes]}" for i in range(count)]
    path.write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_batches_are_those_of_the_tokenizer(side: str, pairs: list[str] | None) -> None:
    """Rows of one text in the batch of another, padding on the wrong side, or longer than the batch needs."""
    own = tokenizing()
    own.tokenizer.padding_side = side
    data = text_set(pairs=pairs, tokenizing=own)
    for at in ([0, 1, 2, 3, 4], [3, 0], [2], [4, 4, 1]):
        batch = data.__getitems__(at)
        expected = own.tokenizer(
            [TEXTS[i] for i in at], None if pairs is None else [pairs[i] for i in at], padding=True, return_tensors="pt"
        )
        assert batch.keys() == {*expected, "labels", "ids"}
        for name, values in expected.items():
            assert batch[name].dtype is torch.int64
            assert torch.equal(batch[name], values), name
        assert torch.equal(batch["labels"], LABELS[at])
        assert torch.equal(batch["ids"], IDS[at])
    assert torch.equal(data[3]["input_ids"], data.__getitems__([3])["input_ids"][0])


def test_texts_longer_than_the_model() -> None:
    """A text of more tokens than the model has positions."""
    data = text_set(texts=["fox " * 100, *TEXTS[1:]], tokenizing=tokenizing(6))
    assert data.__getitems__(range(5))["input_ids"].shape == (5, 6)
    assert data.lengths.tolist() == [6, 6, 2, 5, 3]


def test_what_is_in_a_set() -> None:
    """The report shows another text than the one that was answered."""
    data = text_set(pairs=PAIRS)
    assert len(data) == 5
    assert (data.text(1), data.pair(1)) == (TEXTS[1], PAIRS[1])
    assert text_set().pair(0) is None
    assert data.view_count == 1
    assert not hasattr(data, "set_epoch")
    some = data.subset([3, 1], "some")
    assert (some.name, data.name, len(some)) == ("some", "texts", 2)
    assert (some.text(0), some.pair(0)) == ("fox fox fox", "")
    assert some.ids.tolist() == [20, 10]
    assert some.labels.tolist() == [1, 1]
    batch = some.__getitems__([1, 0])
    assert batch["ids"].tolist() == [10, 20]
    assert batch["input_ids"].tolist() == data.__getitems__([1, 3])["input_ids"].tolist()
    assert some.subset(torch.tensor([1])).text(0) == TEXTS[1]


def test_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch, subset and worker tokenises all texts again."""
    calls = []
    encode = Tokenizing.encode

    def counted(self: Tokenizing, texts: list[str], *rest: Any, **options: Any) -> Any:
        calls.append(len(texts))
        return encode(self, texts, *rest, **options)

    monkeypatch.setattr(Tokenizing, "encode", counted)
    data = text_set()
    assert calls == []
    for _ in range(2):
        data.__getitems__([0, 1])
        data.subset([1, 2]).with_labels(torch.tensor([True, False])).__getitems__([0])
    copied = pickle.loads(pickle.dumps(data))
    copied.__getitems__([0])
    assert calls == [5]
    pickle.loads(pickle.dumps(text_set())).__getitems__([0])
    assert calls == [5, 5]
    assert data.tokenised() is data


def test_hidden_labels() -> None:
    """Labels that were to be hidden reach the loss, or those of the whole set are hidden with them."""
    mask = torch.tensor([True, False, True, False, True])
    data = text_set()
    assert data.with_labels(mask).labels.tolist() == [0, -1, -1, -1, 0]
    assert data.with_labels(mask.numpy()).labels.tolist() == [0, -1, -1, -1, 0]
    assert data.labels.tolist() == LABELS.tolist()
    several = text_set(labels=torch.eye(5)[:, :2], problem="multi-label")
    assert several.with_labels(mask).labels.tolist() == [[1, 0], [-1, -1], [0, 0], [-1, -1], [0, 0]]
    number = text_set(labels=torch.arange(5) - 2.5, problem="regression", classes=["score"])
    np.testing.assert_array_equal(number.with_labels(mask).labels, [-2.5, math.nan, -0.5, math.nan, 1.5])
    assert number.__getitems__([1])["labels"].dtype is torch.float32


@pytest.mark.parametrize("workers", [0, 2])
def test_loads(workers: int) -> None:
    """The collator that training uses takes a batch of texts apart, or ids and labels go astray in workers."""
    data = text_set().tokenised()
    loader = DataLoader(data, 2, shuffle=True, collate_fn=collate_samples, num_workers=workers)
    batches = list(loader)
    assert sorted(torch.cat([batch["ids"] for batch in batches]).tolist()) == [10, 20, 30, 40, 50]
    labels = dict(zip(IDS.tolist(), LABELS.tolist(), strict=True))
    for batch in batches:
        assert [labels[each] for each in batch["ids"].tolist()] == batch["labels"].tolist()
        ids, views, content, real = keys_of(batch)
        assert torch.equal(ids, batch["ids"])
        assert not views.any()
        assert content.shape == ids.shape
        assert real is not None
        assert torch.equal(real, batch["attention_mask"].bool())


def test_other_tokens_for_the_same_texts() -> None:
    """The set of the student's tokens changes with the teacher's, or has other samples."""
    data = text_set(pairs=PAIRS).subset([3, 1])
    before = data.__getitems__([0, 1])
    other = tokenizing(40, kind="bytes")
    again = data.with_tokenizing(other)
    batch = again.__getitems__([0, 1])
    assert batch["ids"].tolist() == [20, 10]
    assert other.tokenizer.decode(batch["input_ids"][1], skip_special_tokens=True) == TEXTS[1] + PAIRS[1]
    assert all(torch.equal(values, before[name]) for name, values in data.__getitems__([0, 1]).items())


@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_retokenize(pairs: list[str] | None) -> None:
    """A teacher with another tokenizer answers other texts than the student is asked."""
    data = text_set(pairs=pairs)
    other = tokenizing(40, kind="bytes", lowercase=False)
    retokenize = Retokenize(other, [data.subset([0, 3]), data.subset([4, 2, 1]), data])
    batch = data.__getitems__([2, 3, 1]) | {"weights": torch.arange(3)}
    found = retokenize(batch)
    expected = data.with_tokenizing(other).__getitems__([2, 3, 1])
    assert found.keys() == {"input_ids", "attention_mask", "labels", "ids", "weights"}
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
    assert "token_type_ids" in batch


def test_retokenizing_is_named_by_its_tokenizer() -> None:
    """A teacher that a label store does not know again in another process, as its identity has the place in memory of
    what adapts its batches."""
    data = text_set()
    first, second = (Retokenize(tokenizing(kind="bytes"), [data]) for _ in range(2))
    assert first is not second
    assert repr(first) == repr(second) != repr(Retokenize(tokenizing(), [data]))


def test_retokenize_errors() -> None:
    """An id that is not known is answered with the text of its neighbour."""
    data = text_set()
    retokenize = Retokenize(tokenizing(kind="bytes"), [data.subset([0, 1, 2])])
    for unknown in (20, 5, 99):
        with pytest.raises(LimbeckError, match=f"sample {unknown} is in none of the 3 texts that it knows"):
            retokenize({"ids": torch.tensor([10, unknown])})
    with pytest.raises(LimbeckError, match="the batch has no `ids`, only input_ids"):
        retokenize({"input_ids": torch.zeros(1, 1)})
    with pytest.raises(LimbeckError, match="all with pairs or all without, got both"):
        Retokenize(tokenizing(), [data, text_set(pairs=PAIRS)])
    with pytest.raises(LimbeckError, match="got no set"):
        Retokenize(tokenizing(), [])


def test_mistakes_in_a_set() -> None:
    """Labels that do not fit are found in the first step, on the GPU."""
    with pytest.raises(LimbeckError, match="texts: the split is empty"):
        text_set(texts=[], labels=LABELS[:0], ids=IDS[:0])
    with pytest.raises(LimbeckError, match="got 5 texts, 4 labels and 5 ids"):
        text_set(labels=LABELS[:4])
    with pytest.raises(LimbeckError, match="and a pair, if there are some"):
        text_set(pairs=PAIRS[:3])
    with pytest.raises(LimbeckError, match="label 2 is out of range for 2 classes"):
        text_set(labels=LABELS + 1)
    with pytest.raises(LimbeckError, match=r"expected single-label labels of shape \(5,\), got torch.float32"):
        text_set(labels=LABELS.float())
    with pytest.raises(LimbeckError, match=r"expected multi-label labels of shape \(5, 2\)"):
        text_set(labels=LABELS, problem="multi-label")
    with pytest.raises(LimbeckError, match="unknown problem 'regresion'; did you mean 'regression'"):
        text_set(problem="regresion")
    with pytest.raises(LimbeckError, match="some: the split is empty"):
        text_set().subset([], "some")


def test_load_cuts_always_the_same(tmp_path: Path) -> None:
    """A test text of one run is a training text of the next, after the rows were shuffled or some were added."""
    found = load_texts(table(tmp_path / "a.tsv"), validation=0.2)
    lines = (tmp_path / "a.tsv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "b.tsv").write_text("\n".join([lines[0], *lines[:0:-1]]), encoding="utf-8")
    again = load_texts(str(tmp_path / "b.tsv"), validation=0.2)
    sizes = []
    for name in ("train", "validation", "test"):
        one, other = getattr(found, name), getattr(again, name)
        assert {one.text(i) for i in range(len(one))} == {other.text(i) for i in range(len(other))}
        assert torch.bincount(one.labels).tolist() == [len(one) // 2] * 2
        sizes.append(len(one))
    assert sizes == [38, 10, 12]
    assert (found.classes, found.problem) == (("a", "b"), "single-label")
    assert found.balance is not None
    assert found.balance.counts == (19, 19)
    assert found.tokenizing is found.test.tokenizing


def test_the_authors_splits_stay(tmp_path: Path) -> None:
    """The author's test is cut again; without one, his validation split is the test."""
    for name, first in (("train", 0), ("dev", 100), ("test", 200)):
        rows = [f"text {first + i}\t{'ab'[i % 2]}" for i in range(20)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    found = load_texts(f"table:{tmp_path}")
    assert [len(found.train), len(found.validation), len(found.test)] == [20, 20, 20]
    assert found.test.text(0) == "text 200"
    (tmp_path / "test.tsv").unlink()
    found = load_texts(f"table:{tmp_path}", validation=0.2)
    assert [len(found.train), len(found.validation), len(found.test)] == [16, 4, 20]
    assert found.test.text(0) == "text 100"


def test_no_text_is_on_both_sides_of_a_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Copies of one text fall into train and test."""
    rows = [f"text {i % 40}\t{'ab'[i % 2]}" for i in range(160)]
    (tmp_path / "a.csv").write_text("\n".join(["text\tlabel", *rows]).replace("\t", ","), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        found = load_texts(str(tmp_path / "a.csv"))
    sets = [{one.text(i) for i in range(len(one))} for one in (found.train, found.validation, found.test)]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert "are in a later split too; they were left out" in caplog.text
    assert any("left out" in note for note in found.notes)


def test_labels_kept(tmp_path: Path) -> None:
    """Unlabelled texts are thrown away, or those that keep their label are others with another number."""
    path = table(tmp_path / "a.tsv")
    few, more = (load_texts(path, labelled=count).train for count in (6, 0.5))
    assert len(few) == len(more) == 43
    assert [int((one.labels >= 0).sum()) for one in (few, more)] == [6, 22]
    assert set(few.ids[few.labels >= 0].tolist()) <= set(more.ids[more.labels >= 0].tolist())
    with pytest.raises(LimbeckError, match="labelled: expected from 2"):
        load_texts(path, labelled=1)
    with pytest.raises(LimbeckError, match="validation: expected a share between 0 and 1"):
        load_texts(path, validation=0.0)


@pytest.mark.parametrize("problem", ["multi-label", "regression"])
def test_other_problems(problem: Any, tmp_path: Path) -> None:
    """Splits and label shares are made for single classes alone."""
    label = (lambda i: "abc"[i % 3] + "|" + "d" * (i % 2)) if problem == "multi-label" else (lambda i: i / 2 - 9)
    rows = [f"text {i}\t{label(i) if i else ''}" for i in range(50)]
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *rows]), encoding="utf-8")
    found = load_texts(str(tmp_path / "a.tsv"), labelled=20)
    assert found.problem == problem
    assert found.balance is None
    assert [len(found.validation), len(found.test)] == [4, 10]
    labels = found.train.labels
    assert labels.shape == ((36, 4) if problem == "multi-label" else (36,))
    shown = labels.isnan().logical_not() if problem == "regression" else (labels >= 0).all(1)
    assert int(shown.sum()) == 20
    assert found.train.__getitems__([0])["labels"].dtype is torch.float32


def test_tokenizers_of_a_data_set(tmp_path: Path) -> None:
    """The tokenizer has seen the test, or a student with the teacher's tokenizer trains one of its own."""
    path = table(tmp_path / "a.tsv")
    found = load_texts(path, tokenizer="characters", max_length=20)
    train = "".join(found.train.text(i) for i in range(len(found.train)))
    tokens = set(found.tokenizing.tokenizer.get_vocab()) - {"<pad>", "<unk>", "<s>", "</s>"}
    assert tokens == set(train)
    assert found.tokenizing.max_length == 20
    found.tokenizing.save(tmp_path / "saved")
    opened = load_texts(path, tokenizer=str(tmp_path / "saved"), max_length=20)
    assert opened.tokenizing.identity() == found.tokenizing.identity()
    assert load_texts(path, tokenizing=found.tokenizing).tokenizing is found.tokenizing
    with pytest.raises(LimbeckError, match="no such file or folder"):
        load_texts(path, tokenizer=str(tmp_path / "nowhere"))


def test_flat_rows_hold_any_length() -> None:
    """Offsets go wrong where rows are empty or of very different lengths."""
    texts = ["fox " * n for n in (0, 1, 30, 0, 7)]
    held = Tokenized(texts, None, tokenizing(kind="characters"))
    assert held.lengths.tolist() == [1, 5, 32, 1, 29]
    for at in ([4, 0], [2, 2, 1], [3]):
        assert held.take(torch.tensor(at))["attention_mask"].sum(1).tolist() == held.lengths[at].tolist()


def test_real_texts(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real messages, with their copies and odd characters, cannot be cut, tokenised or read in batches."""
    if not (data_root / "text" / "sms_spam.tsv.gz").is_file():
        pytest.skip(f"{data_root} has no texts")
    monkeypatch.setenv(VARIABLE, str(data_root))
    found = load_texts("sms-spam", vocabulary=1000, max_length=48)
    assert len(found.test) == round(0.2 * 5574)
    every = torch.cat([found.train.ids, found.validation.ids, found.test.ids])
    assert len(every.unique()) == len(every)
    batch = found.test.__getitems__(range(len(found.test)))
    assert batch["input_ids"].shape == (len(found.test), 48)
    assert int(batch["input_ids"].max()) < found.tokenizing.vocabulary
    assert found.balance is not None
    assert found.balance.imbalanced
