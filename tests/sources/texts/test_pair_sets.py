"""limbeck.sources.texts.pairs and parallel: texts and their translations, from a file's lines to a batch."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import BartConfig, BartForConditionalGeneration

from limbeck.errors import LimbeckError
from limbeck.sources import collate_samples, places
from limbeck.sources.texts import PairSet, Tokenizing, load_pairs, read_parallel, train_tokenizer

ENGLISH = ["A dog runs.", "Two men play a game of chess.", "A girl reads", "The dog sleeps."]
GERMAN = ["Ein Hund läuft.", "Zwei Männer spielen eine Partie Schach.", "Ein Mädchen liest", "Der Hund schläft."]


@pytest.fixture(scope="module")
def tokenizing() -> Tokenizing:
    return Tokenizing(train_tokenizer([*ENGLISH, *GERMAN], kind="bpe", vocabulary=320, lowercase=False), 40)


def pairs(tokenizing: Tokenizing, targets: list[str | None] | None = None, **options: int) -> PairSet:
    given = GERMAN if targets is None else targets
    return PairSet(ENGLISH, given, torch.tensor([7, 5, 9, 11]), tokenizing, **options)


def test_a_batch(tokenizing: Tokenizing) -> None:
    """Labels that are not the translation's tokens, an end that is never learned, inputs that show the answer."""
    data = pairs(tokenizing)
    batch = data.__getitems__([2, 1])
    encode = tokenizing.tokenizer
    end, begin, pad = encode.eos_token_id, encode.bos_token_id, encode.pad_token_id
    assert batch["ids"].tolist() == [9, 5]
    for row, index in enumerate((2, 1)):
        source, target = encode(ENGLISH[index]).input_ids, encode(GERMAN[index]).input_ids
        assert target[-1] == end
        length = len(target)
        assert batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist() == source
        assert batch["input_ids"][row][batch["attention_mask"][row] == 0].eq(pad).all()
        assert batch["labels"][row].tolist()[:length] == target
        assert batch["labels"][row, length:].eq(-100).all()
        assert batch["decoder_input_ids"][row].tolist()[:length] == [begin, *target[:-1]]
        padding = batch["decoder_input_ids"][row, length + 1 :]
        assert padding.eq(pad).all()
    longest = max(map(len, encode([GERMAN[1], GERMAN[2]]).input_ids))
    assert batch["labels"].shape == batch["decoder_input_ids"].shape == (2, longest)
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    one = data[1]
    assert torch.equal(one["labels"], batch["labels"][1])
    assert data.source_lengths.tolist() == [len(encode(text).input_ids) for text in ENGLISH]
    assert data.target_lengths.tolist() == [len(encode(text).input_ids) for text in GERMAN]
    assert torch.equal(data.lengths, data.source_lengths + data.target_lengths)


def test_decoder_inputs_are_those_that_transformers_makes(tokenizing: Tokenizing) -> None:
    """A model that learns from other inputs than it would make itself of the labels."""
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=tokenizing.vocabulary,
            d_model=8,
            encoder_layers=1,
            decoder_layers=1,
            pad_token_id=0,
            encoder_attention_heads=1,
            decoder_attention_heads=1,
            encoder_ffn_dim=8,
            decoder_ffn_dim=8,
            decoder_start_token_id=1,
            max_position_embeddings=64,
        )
    )
    batch = pairs(tokenizing, start_id=1).__getitems__([0, 1, 2, 3])
    assert torch.equal(batch["decoder_input_ids"], model.prepare_decoder_input_ids_from_labels(batch["labels"]))
    other = pairs(tokenizing).with_start(3).__getitems__([0])
    assert other["decoder_input_ids"][0, 0] == 3


def test_a_loader_gives_whole_batches(tokenizing: Tokenizing) -> None:
    """Rows that a collator stacks by itself, workers that lose the set, and a batch that depends on them."""
    data = pairs(tokenizing)
    for given in (data, pickle.loads(pickle.dumps(data))):
        batches = list(DataLoader(given, batch_size=3, collate_fn=collate_samples))
        assert [len(batch["ids"]) for batch in batches] == [3, 1]
        assert torch.equal(batches[0]["labels"], data.__getitems__([0, 1, 2])["labels"])


def test_long_texts_are_cut_and_counted(tokenizing: Tokenizing, caplog: pytest.LogCaptureFixture) -> None:
    """Rows beyond a model's positions, a cut row that never ends, texts lost without a word."""
    short = Tokenizing(tokenizing.tokenizer, 5)
    with caplog.at_level(logging.WARNING):
        data = PairSet(ENGLISH, GERMAN, torch.arange(4), tokenizing, short)
    assert data.target_lengths.tolist() == [5, 5, 5, 5]
    assert data.__getitems__([0, 1, 2, 3])["labels"][:, -1].eq(tokenizing.tokenizer.eos_token_id).all()
    assert caplog.messages == ["pairs: targets: 4 of 4 are longer than 5 tokens and were cut"]
    caplog.clear()
    exact = Tokenizing(tokenizing.tokenizer, max(len(tokenizing.tokenizer(text).input_ids) for text in ENGLISH))
    PairSet(ENGLISH, GERMAN, torch.arange(4), exact, tokenizing)
    assert not caplog.messages


def test_texts_without_a_translation(tokenizing: Tokenizing) -> None:
    """An empty text that is learned as a translation; -100 that is fed to a decoder."""
    data = pairs(tokenizing, [GERMAN[0], None, "", GERMAN[3]])
    assert data.labelled.tolist() == [True, False, False, True]
    assert data.references == (GERMAN[0], None, None, GERMAN[3])
    batch = data.__getitems__([1, 2])
    assert batch["labels"].tolist() == [[-100], [-100]]
    assert batch["decoder_input_ids"].tolist() == [[data.start_id], [data.start_id]]
    hidden = pairs(tokenizing).with_labels(torch.tensor([True, False, True, False]))
    assert hidden.labelled.tolist() == [True, False, True, False]
    assert hidden.references == (GERMAN[0], None, GERMAN[2], None)
    assert pairs(tokenizing, [None, None, None, None]).__getitems__([0])["labels"].tolist() == [[-100]]


def test_targets_of_a_teacher(tokenizing: Tokenizing) -> None:
    """A teacher's translation put beside another text, without its end, or judged as if it were the reference."""
    data = pairs(tokenizing, [GERMAN[0], None, GERMAN[2], GERMAN[3]])
    end = data.end_id
    taught = data.with_targets({5: [20, 21, 22], 7: "Der Hund schläft.", 9: [30, end], 999: [1]})
    assert taught.__getitems__([1])["labels"].tolist() == [[20, 21, 22, end]]
    assert torch.equal(taught.__getitems__([0])["labels"], data.__getitems__([3])["labels"])
    assert taught.__getitems__([2])["labels"].tolist() == [[30, end]]
    assert torch.equal(taught.__getitems__([3])["labels"], data.__getitems__([3])["labels"])
    assert taught.labelled.all()
    assert taught.references == data.references
    assert not data.labelled[1]
    assert torch.equal(taught.ids, data.ids)
    short = PairSet(ENGLISH, GERMAN, data.ids, tokenizing, Tokenizing(tokenizing.tokenizer, 8))
    assert short.with_targets({7: [20] * 30}).__getitems__([0])["labels"].tolist() == [[20] * 7 + [end]]
    assert data.with_targets({7: []}).__getitems__([0])["labels"].tolist() == [[end]]
    with pytest.raises(LimbeckError, match="none of the 1 given targets has an id of this set"):
        data.with_targets({3: [20]})
    with pytest.raises(LimbeckError, match=rf"target token {tokenizing.vocabulary} is not among the"):
        data.with_targets({7: [tokenizing.vocabulary]})


def test_subsets_and_texts(tokenizing: Tokenizing) -> None:
    """Texts, references and tokens of other rows; texts that do not come back."""
    data = pairs(tokenizing).subset([3, 1], "few")
    assert data.name == "few"
    assert data.ids.tolist() == [11, 5]
    assert data.sources == (ENGLISH[3], ENGLISH[1])
    assert data.references == (GERMAN[3], GERMAN[1])
    labels = data.__getitems__([0, 1])["labels"]
    assert data.decode([row[row >= 0].tolist() for row in labels]) == [GERMAN[3], GERMAN[1]]
    assert data.with_targets({5: [20]}).subset([1]).__getitems__([0])["labels"].tolist() == [[20, data.end_id]]
    with pytest.raises(LimbeckError, match="the split is empty"):
        data.subset([])


def test_two_tokenizers(tokenizing: Tokenizing) -> None:
    """One side's tokens read by the other's."""
    words = Tokenizing(train_tokenizer(GERMAN, kind="wordpiece", vocabulary=80), 40)
    batch = PairSet(ENGLISH, GERMAN, torch.arange(4), tokenizing, words).__getitems__([0])
    assert batch["input_ids"][0].tolist() == tokenizing.tokenizer(ENGLISH[0]).input_ids
    assert batch["labels"][0].tolist() == words.tokenizer(GERMAN[0]).input_ids
    assert batch["decoder_input_ids"][0, 0] == words.pad_id
    assert "token_type_ids" not in batch


def test_sets_that_cannot_be() -> None:
    """A traceback from deep inside, or a decoder that is never told to stop."""
    tokenizer = train_tokenizer(ENGLISH, kind="bpe", vocabulary=300)
    good = Tokenizing(tokenizer, 20)
    with pytest.raises(LimbeckError, match=r"expected a target .* got 1 texts, 0 targets and 1 ids"):
        PairSet(["a"], [], torch.tensor([0]), good)
    with pytest.raises(LimbeckError, match="the split is empty"):
        PairSet([], [], torch.tensor([]), good)
    tokenizer.eos_token = None
    with pytest.raises(LimbeckError, match="no token that ends a text"):
        PairSet(["a"], ["b"], torch.tensor([0]), good)


def written(folder: Path, texts: dict[str, list[str]], *, zipped: bool = False) -> None:
    for name, lines in texts.items():
        content = "".join(f"{line}\n" for line in lines).encode()
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)


def numbered(count: int, first: int = 0) -> tuple[list[str], list[str]]:
    return [f"text {n}" for n in range(first, first + count)], [f"Text {n}" for n in range(first, first + count)]


@pytest.mark.parametrize("zipped", [False, True])
def test_two_files_line_by_line(tmp_path: Path, zipped: bool) -> None:
    """Sides that are exchanged, a line that a strange character breaks, splits that are not the author's."""
    english, german = numbered(20)
    english[3] = "a\u2028b\x85c\x0bd"
    written(tmp_path, {"train.en": english, "train.de": german}, zipped=zipped)
    written(tmp_path, {"dev.en": ["x"], "dev.de": ["X"], "test.en": ["y", "z"], "test.de": ["Y", "Z"]})
    found = read_parallel(f"files:{tmp_path}/{{split}}.{{en,de}}")
    assert found.train.sources == tuple(english)
    assert found.train.targets == tuple(german)
    assert found.validation.targets == ("X",)
    assert found.test.sources == ("y", "z")
    turned = read_parallel(f"files:{tmp_path}/{{split}}.{{de,en}}")
    assert turned.test.sources == ("Y", "Z")
    cut = read_parallel(f"files:{tmp_path}/train.{{en,de}}", validation=0.25)
    assert [len(part.ids) for part in (cut.train, cut.validation, cut.test)] == [14, 4, 2]


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_tables(tmp_path: Path, kind: str) -> None:
    """Quotes that a TSV reader eats, columns that are exchanged, a missing translation that is a text."""
    english, german = numbered(30)
    english[0], german[1] = 'a "quoted" word', ""
    splits = ["train"] * 26 + ["val", "val", "test", "test"]
    columns = {"en": english, "de": german, "split": splits}
    path = tmp_path / f"data.{kind}"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if kind == "tsv" else ","
        cells = [
            [value.replace('"', '""').join('""') if kind == "csv" else value for value in row.values()] for row in rows
        ]
        path.write_text("\n".join(mark.join(line) for line in [list(columns), *cells]) + "\n")
    found = read_parallel(str(path), source_column="en", target_column="de")
    assert found.train.sources == tuple(english[:26])
    assert found.train.targets == (german[0], None, *german[2:26])
    assert found.test.targets == ("Text 28", "Text 29")
    with pytest.raises(LimbeckError, match=r"no column 'source'.*source_column"):
        read_parallel(f"table:{path}")


def test_data_sets_of_the_hub(tmp_path: Path) -> None:
    """WMT's column of translations by language, which no column is called."""
    english, german = numbered(12)
    rows = [{"en": one, "de": other} for one, other in zip(english, german, strict=True)]
    parts = {"train": rows[:8], "validation": rows[8:10], "test": rows[10:]}
    dataset = datasets.DatasetDict(
        {part: datasets.Dataset.from_dict({"translation": own}) for part, own in parts.items()}
    )
    dataset.save_to_disk(str(tmp_path / "saved"))
    found = read_parallel(f"datasets:{tmp_path / 'saved'}", source_column="de", target_column="en")
    assert found.train.sources == tuple(german[:8])
    assert found.test.targets == tuple(english[10:])


def test_ids_outlast_order_and_addition(tmp_path: Path) -> None:
    """A stored label given to another pair, where a line was added before it."""
    english, german = numbered(30)
    written(tmp_path, {"a.en": [*english, "text 3", "text 3"], "a.de": [*german, "Text 3", "another"]})
    written(tmp_path, {"b.en": ["new", *english[::-1]], "b.de": ["neu", *german[::-1]]})
    ids = []
    for name in ("a", "b"):
        found = read_parallel(f"files:{tmp_path}/{name}.{{en,de}}")
        parts = (found.train, found.validation, found.test)
        every = [each for part in parts for each in part.ids.tolist()]
        assert len(set(every)) == len(every)
        named = {}
        for part in parts:
            named |= dict(zip(zip(part.sources, part.targets, strict=True), part.ids.tolist(), strict=True))
        ids.append(named)
    assert all(ids[0][pair] == ids[1][pair] for pair in zip(english[:3], german[:3], strict=True))


def test_what_is_held_out_depends_on_the_texts_alone(tmp_path: Path) -> None:
    """A sentence that is learned with one translation and tested with another."""
    sources = [f"text {number // 3}" for number in range(120)]
    targets = [f"Text {number}" for number in range(120)]
    order = np.random.default_rng(0).permutation(120)
    written(tmp_path, {"a.en": sources, "a.de": targets})
    written(tmp_path, {"b.en": [sources[i] for i in order], "b.de": [targets[i] for i in order]})
    first, second = (read_parallel(f"files:{tmp_path}/{name}.{{en,de}}") for name in ("a", "b"))
    assert set(first.test.ids.tolist()) == set(second.test.ids.tolist())
    parts = [set(part.sources) for part in (first.train, first.validation, first.test)]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_leaks_and_gaps_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A test pair that was learned by heart; a pair without a source that teaches to write from nothing."""
    english, german = numbered(10)
    written(tmp_path, {"train.en": [*english, "x", " ", "y"], "train.de": [*german, "X", "Nichts", " "]})
    written(tmp_path, {"val.en": ["x"], "val.de": ["X"], "test.en": ["x ", "z"], "test.de": ["X", "Z"]})
    with pytest.raises(LimbeckError, match="every pair of validation is in a later split"):
        read_parallel(f"files:{tmp_path}/{{split}}.{{en,de}}")
    written(tmp_path, {"val.en": ["x", "v"], "val.de": ["X", "V"]})
    with caplog.at_level(logging.WARNING):
        found = read_parallel(f"files:{tmp_path}/{{split}}.{{en,de}}")
    assert found.train.sources == (*english, "y")
    assert found.train.targets == (*german, None)
    assert found.validation.sources == ("v",)
    assert [note.partition(": ")[2] for note in found.notes] == [
        "1 of 13 training pairs have no source; left out",
        "1 of 2 pairs of validation are in a later split; left out",
        "1 of 12 pairs of train are in a later split; left out",
    ]
    assert caplog.messages == list(found.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "train.de").write_text("a\n"), r"train\.en has 10 lines and .*train\.de 1; each line must"),
        (lambda f: (f / "train.de").unlink(), r"train\.de: no such file, nor .*train\.de\.gz"),
        (lambda f: (f / "train.de").write_bytes(b"a\n\xff\n" + b"a\n" * 8), r"train\.de: line 2 is not UTF-8"),
        (lambda f: (f / "test.de").write_text("A\n\n"), r"line 2, column 'target': is empty; only training texts"),
        (lambda f: [(f / f"valid.{x}").write_text("q\n") for x in ("en", "de")], "validation is there twice"),
        (lambda f: (f / "train.en").rename(f / "other.en"), r"no train split; expected .*train\.en \(or \.gz\)"),
    ],
)
def test_files_that_are_not_parallel(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    """Every pair after a lost line translated by its neighbour's translation."""
    english, german = numbered(10)
    written(tmp_path, {"train.en": english, "train.de": german, "val.en": ["v"], "val.de": ["V"]})
    written(tmp_path, {"test.en": ["a", "b"], "test.de": ["A", "B"]})
    change(tmp_path)
    with pytest.raises(LimbeckError, match=message):
        read_parallel(f"files:{tmp_path}/{{split}}.{{en,de}}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("multi30k-de-fr", "unknown parallel texts 'multi30k-de-fr'; did you mean 'multi30k-de-en'"),
        ("files:a.en", r"expected two files as files:PREFIX\.\{en,de\}"),
        ("files:/nowhere/a.{en,de}", r"/nowhere/a\.en: no such file"),
        ("multi30k-en-de", r"multi30k/train\.en and \.de \(or \.gz\) are neither in"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback for a typing mistake, or for data that was never fetched."""
    monkeypatch.setenv(places.VARIABLE, str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(LimbeckError, match=message):
        read_parallel(name)
    with pytest.raises(LimbeckError, match="expected a share between 0 and 1, got 1"):
        read_parallel(name, validation=1)


def test_labelled_keeps_some_translations(tmp_path: Path) -> None:
    """Fewer labels that are other ones, held-out references that are hidden, or ones that come back by another way."""
    english, german = numbered(60)
    german[5] = ""
    written(tmp_path, {"a.en": english, "a.de": german})
    name = f"files:{tmp_path}/a.{{en,de}}"
    options = {"vocabulary": 300, "max_length": 20}
    few, more = (load_pairs(name, labelled=kept, **options) for kept in (10, 0.5))  # type: ignore[arg-type]
    assert int(few.train.labelled.sum()) == 10
    assert sum(text is not None for text in few.train.references) == 10
    assert set(few.train.ids[few.train.labelled].tolist()) <= set(more.train.ids[more.train.labelled].tolist())
    assert few.validation.labelled.all()
    assert few.test.labelled.all()
    assert few.train.tokenizing.identity() == more.train.tokenizing.identity()
    for wrong in (0, 1000, 1.5):
        with pytest.raises(LimbeckError, match="labelled: expected"):
            load_pairs(name, labelled=wrong, **options)  # type: ignore[arg-type]


def test_multi30k(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files in another order or direction: counts and lines as published."""
    monkeypatch.setenv(places.VARIABLE, str(data_root))
    if not (data_root / "text" / "multi30k_train.en.gz").is_file():
        pytest.skip(f"Multi30k not found in {data_root}: set LIMBECK_DATA")
    found = read_parallel("multi30k-en-de")
    assert [len(part.ids) for part in (found.train, found.validation, found.test)] == [29000, 1014, 1000]
    assert found.notes == ()
    assert found.train.sources[0] == "Two young, White males are outside near many bushes."
    assert found.train.targets[0] == "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."
    assert found.test.sources[0] == "A man in an orange hat starring at something."
    assert len({*found.train.ids.tolist()}) == 29000
    turned = read_parallel("multi30k-de-en")
    assert turned.test.targets == found.test.sources
