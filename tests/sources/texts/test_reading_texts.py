"""Labelled texts from tables, folders, Hugging Face data sets and the known sets."""

from __future__ import annotations

import csv
import gzip
import json
import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from limbeck.errors import LimbeckError
from limbeck.sources.ids import text_ids
from limbeck.sources.places import VARIABLE
from limbeck.sources.texts import TextPart, TextSource, read_texts
from limbeck.sources.texts.tabular import SUFFIXES, read_table

Row = Mapping[str, object]

ROWS = [
    {"text": 'He said "no"', "label": "good"},
    {"text": "Grüße, Welt", "label": "bad"},
    {"text": "a third\u2028line", "label": "good"},
]


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Rows as a table of the kind that the path's suffix names, gzipped where it ends in .gz."""
    plain = path.with_name(path.name.removesuffix(".gz"))
    names = list(rows[0])
    if plain.suffix == ".jsonl":
        plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif plain.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), plain)
    elif plain.suffix == ".csv":
        with plain.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, names)
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = ["\t".join(names), *("\t".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        plain.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


@pytest.mark.parametrize("suffix", [kind + gz for kind in SUFFIXES for gz in ("", ".gz")])
def test_every_kind_of_table_reads_the_same(suffix: str, tmp_path: Path) -> None:
    """Quotes, commas, umlauts or unusual line separators that one format reads otherwise than the next."""
    path = write(tmp_path / f"data{suffix}", ROWS)
    for name in (str(path), f"table:{path}"):
        found = read_texts(name)
        assert found.train.texts == [row["text"] for row in ROWS]
        assert found.classes == ("bad", "good")
        assert found.train.labels.tolist() == [1, 0, 1]
        assert found.train.pairs is None
        assert found.validation is None
        assert found.test is None


def test_windows_files(tmp_path: Path) -> None:
    """A byte order mark in the first column's name, or \\r at the end of each label."""
    for suffix, between in ((".tsv", "\t"), (".csv", ",")):
        path = tmp_path / f"data{suffix}"
        path.write_bytes(f"\ufefftext{between}label\r\none{between}a\r\n\r\ntwo{between}b\r\n".encode())
        found = read_texts(str(path))
        assert (found.train.texts, found.classes) == (["one", "two"], ("a", "b"))


def test_long_and_broken_lines_in_csv(tmp_path: Path) -> None:
    """A review of more than 128 kB is refused by Python's reader; a quoted line end is taken for the next row."""
    rows = [{"text": "x" * 200_000, "label": "a"}, {"text": "two\nlines", "label": "b"}]
    limit = csv.field_size_limit()
    found = read_texts(str(write(tmp_path / "data.csv", rows)))
    assert found.train.texts == [row["text"] for row in rows]
    assert csv.field_size_limit() == limit


def test_a_folder_of_tables(tmp_path: Path) -> None:
    """GLUE's layout, where a test without labels takes the place of the one that can be measured."""
    write(tmp_path / "train.tsv", [{"sentence": f"train {i}", "label": i % 2} for i in range(4)])
    write(tmp_path / "dev.tsv", [{"sentence": f"dev {i}", "label": i % 2} for i in range(2)])
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tnobody knows\n")
    (tmp_path / "readme.md").write_text("not a table")
    found = read_texts(f"table:{tmp_path}")
    assert found.test is None
    assert found.validation is not None
    assert (len(found.train), found.validation.texts) == (4, ["dev 0", "dev 1"])
    assert any("the test has no labels and was left out" in note for note in found.notes)


def test_splits_of_a_column(tmp_path: Path) -> None:
    """Rows of the author's test get into training."""
    parts = ("Train", "val", "TEST")
    rows = [{"text": f"{part} {i}", "label": "ab"[i], "part": part} for part in parts for i in (0, 1)]
    path = write(tmp_path / "data.csv", rows)
    found = read_texts(str(path), split_column="part")
    assert found.test is not None
    assert found.validation is not None
    assert [found.train.texts[0], found.validation.texts[0], found.test.texts[0]] == ["Train 0", "val 0", "TEST 0"]
    renamed = [{"split" if key == "part" else key: value for key, value in row.items()} for row in rows]
    assert read_texts(str(write(tmp_path / "again.csv", renamed))).test is not None


def test_pairs(tmp_path: Path) -> None:
    """The second sentence of a pair is left out, or its column is guessed where another text was asked for."""
    rows = [{"idx": i, "sentence1": f"a {i}", "sentence2": f"b {i}", "label": i % 2} for i in range(4)]
    path = write(tmp_path / "data.tsv", rows)
    found = read_texts(str(path))
    assert found.train.pairs == ["b 0", "b 1", "b 2", "b 3"]
    assert any("'sentence1' is compared with its 'sentence2'" in note for note in found.notes)
    assert read_texts(str(path), text_column="sentence1").train.pairs is None
    swapped = read_texts(str(path), text_column="sentence2", pair_column="sentence1").train
    assert (swapped.texts[0], (swapped.pairs or [""])[0]) == ("b 0", "a 0")
    assert not set(swapped.ids) & set(found.train.ids)


def test_header(tmp_path: Path) -> None:
    """The first row of a table without a head is lost."""
    path = tmp_path / "data.tsv"
    path.write_text("ham\tone\nspam\ttwo\n")
    assert read_texts(str(path), header=["label", "text"]).train.texts == ["one", "two"]
    with pytest.raises(LimbeckError, match="no text column among ham, one; say which it is with text_column, or name"):
        read_texts(str(path))


def test_numbers_as_labels(tmp_path: Path) -> None:
    """Class 10 comes before class 2, a float 1.0 is no class, or -1 is a class of its own."""
    path = write(tmp_path / "data.jsonl", [{"text": f"t{i}", "label": float(i)} for i in range(11)])
    assert read_texts(str(path)).train.labels.tolist() == list(range(11))
    labels = ("0", "1", "-1", "")
    path = write(tmp_path / "data.tsv", [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)])
    found = read_texts(str(path))
    assert (found.classes, found.train.labels.tolist()) == (("0", "1"), [0, 1, -1, -1])
    path = write(tmp_path / "data.jsonl", [{"text": f"t{i}", "label": label} for i, label in enumerate((0, 1, None))])
    assert read_texts(str(path)).train.labels.tolist() == [0, 1, -1]


def test_classes_in_their_order(tmp_path: Path) -> None:
    """A student whose classes are in another order than its teacher's."""
    path = write(tmp_path / "data.csv", ROWS)
    found = read_texts(str(path), classes=["good", "fair", "bad"])
    assert (found.classes, found.train.labels.tolist()) == (("good", "fair", "bad"), [0, 2, 0])
    stars = write(tmp_path / "stars.csv", [{"text": f"t{i}", "label": i + 1} for i in range(5)])
    assert read_texts(str(stars), classes=["1", "2", "3", "4", "5"]).train.labels.tolist() == [0, 1, 2, 3, 4]
    zero = write(tmp_path / "zero.csv", [{"text": f"t{i}", "label": i} for i in range(2)])
    assert read_texts(str(zero), classes=["no", "yes"]).train.labels.tolist() == [0, 1]


def test_several_labels(tmp_path: Path) -> None:
    """A text with no class is taken for unlabelled, or the reverse."""
    labels = ["joy|anger", "joy", "|", "", " anger | joy "]
    expected = [[1, 1], [0, 1], [0, 0], [-1, -1], [1, 1]]
    rows: list[Row] = [{"text": f"t{i}", "label": each} for i, each in enumerate(labels)]
    found = read_texts(str(write(tmp_path / "a.csv", rows)))
    assert (found.problem, found.classes) == ("multi-label", ("anger", "joy"))
    assert found.train.labels.dtype == np.float32
    assert found.train.labels.tolist() == expected
    assert any("has a '|', so the problem is multi-label" in note for note in found.notes)
    lists = [["joy", "anger"], ["joy"], [], None, ["anger", "joy"]]
    rows = [{"text": f"t{i}", "label": each} for i, each in enumerate(lists)]
    for suffix in (".jsonl", ".parquet"):
        found = read_texts(str(write(tmp_path / f"b{suffix}", rows)))
        assert found.train.labels.tolist() == expected
        assert any("labels are lists" in note for note in found.notes)
    one = write(tmp_path / "c.csv", [{"text": f"t{i}", "label": "ab"[i]} for i in range(2)])
    assert read_texts(str(one), problem="multi-label").train.labels.tolist() == [[1, 0], [0, 1]]
    hot = write(tmp_path / "hot.jsonl", [{"text": "a", "label": [0, 1, 0, 0]}])
    with pytest.raises(LimbeckError, match="line 1, column 'label': expected each class that applies once"):
        read_texts(str(hot))


def test_regression(tmp_path: Path) -> None:
    """Numbers become classes, -1 and other negative values are unlabelled, or what is missing becomes 0."""
    labels = ["2.5", "-1", "0", "", "nan", "1e1"]
    path = write(tmp_path / "a.csv", [{"text": f"t{i}", "score": each} for i, each in enumerate(labels)])
    found = read_texts(str(path))
    assert (found.problem, found.classes) == ("regression", ("score",))
    assert found.train.labels.dtype == np.float32
    np.testing.assert_array_equal(found.train.labels, np.array([2.5, -1, 0, np.nan, np.nan, 10], np.float32))
    assert any("2.5 is no whole number, so the problem is regression" in note for note in found.notes)
    whole = write(tmp_path / "b.csv", [{"text": f"t{i}", "score": i + 1} for i in range(3)])
    with pytest.raises(LimbeckError, match=r"0 is missing and 3 is there; .*or give the problem as regression"):
        read_texts(str(whole))
    assert read_texts(str(whole), problem="regression").train.labels.tolist() == [1, 2, 3]


def test_ids_last(tmp_path: Path) -> None:
    """A teacher's stored answer is read for another text after rows were added, removed or shuffled."""
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(6)]
    found = read_texts(str(write(tmp_path / "a.csv", rows))).train
    assert found.ids.dtype == np.int64
    assert (found.ids >= 0).all()
    assert found.ids.tolist() == text_ids(found.texts).tolist()
    more = [{"text": "new", "label": "a"}, *reversed(rows[1:])]
    others = read_texts(str(write(tmp_path / "b.jsonl", more))).train
    known = dict(zip(found.texts, found.ids, strict=True))
    assert all(known.get(text, number) == number for text, number in zip(others.texts, others.ids, strict=True))


def test_a_text_that_occurs_twice_has_two_ids(tmp_path: Path) -> None:
    """A loss that remembers each sample gives two of them one memory."""
    rows = [{"text": text, "label": label} for text, label in (("a", "x"), ("a", "y"), ("a", "x"), ("b", "y"))]
    ids = read_texts(str(write(tmp_path / "a.csv", rows))).train.ids
    assert len(set(ids.tolist())) == 4


def parts_of(found: TextSource) -> dict[str, TextPart]:
    """The parts that there are."""
    every = {"train": found.train, "validation": found.validation, "test": found.test}
    return {name: part for name, part in every.items() if part is not None}


def test_leaks_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A test text that training has seen makes the test too good."""
    splits = {"train": ("a", "b ", "c", "d", "a"), "dev": ("c", "e", "b  c"), "test": ("b", "e", "f")}
    for name, texts in splits.items():
        write(tmp_path / f"{name}.tsv", [{"text": text, "label": i % 2} for i, text in enumerate(texts)])
    with caplog.at_level(logging.WARNING):
        found = read_texts(f"table:{tmp_path}")
    left = {name: part.texts for name, part in parts_of(found).items()}
    assert left == {"train": ["a", "d", "a"], "validation": ["c", "b  c"], "test": ["b", "e", "f"]}
    message = "2 of 5 texts of train and 1 of 3 texts of validation are in a later split too; they were left out"
    assert message in caplog.text
    assert any(message in note for note in found.notes)
    every = np.concatenate([part.ids for part in parts_of(found).values()])
    assert len(set(every.tolist())) == len(every)


def test_a_pair_is_another_text(tmp_path: Path) -> None:
    """A question that is in two splits beside other texts is taken for a leak."""
    for name, pairs in (("train", "xy"), ("test", "zy")):
        write(tmp_path / f"{name}.tsv", [{"text": "a", "text_pair": p, "label": 0} for p in pairs])
    assert read_texts(f"table:{tmp_path}").train.pairs == ["x"]


def test_nothing_left(tmp_path: Path) -> None:
    """A copy of the training file as test leaves an empty training set, which fails much later."""
    for name in ("train", "test"):
        write(tmp_path / f"{name}.tsv", [{"text": t, "label": y} for t, y in (("a", 0), ("b", 1))])
    with pytest.raises(LimbeckError, match="every text of train is in a later split too; give splits that differ"):
        read_texts(f"table:{tmp_path}")


def folder(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_folders_of_classes(tmp_path: Path) -> None:
    """IMDB's layout: unlabelled reviews become a class, or the test is not found."""
    classes = [f"{split}/{name}" for split in ("train", "test") for name in ("neg", "pos")]
    files = {f"{each}/{i}.txt": f"{each} {i}\n" for each in classes for i in (0, 1)}
    root = folder(tmp_path / "imdb", files | {"train/unsup/0.txt": "who knows", "train/urls.txt": "x"})
    found = read_texts(f"folder:{root}")
    assert found.classes == ("neg", "pos")
    assert found.train.labels.tolist() == [0, 0, 1, 1, -1]
    assert found.train.texts[-1] == "who knows"
    assert found.test is not None
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    flat = folder(tmp_path / "flat", {"a/1.txt": "one", "a/deep/2.txt": "two", "b/1.txt": "three"})
    assert read_texts(f"folder:{flat}").train.labels.tolist() == [0, 0, 1]


def test_hugging_face_data_sets(tmp_path: Path) -> None:
    """The author's order of classes is lost, or the hub's hidden test labels (-1) are measured."""
    text, label = datasets.Value("string"), datasets.ClassLabel(names=["yes", "no"])
    features = datasets.Features({"sentence": text, "label": label, "idx": datasets.Value("int32")})

    def split(name: str, labels: list[int]) -> datasets.Dataset:
        every = list(range(len(labels)))
        columns = {"sentence": [f"{name} {i}" for i in every], "label": labels, "idx": every}
        return datasets.Dataset.from_dict(columns, features)

    saved = datasets.DatasetDict(
        train=split("train", [0, 1, -1]), validation=split("validation", [1, 0]), test=split("test", [-1, -1])
    )
    saved.save_to_disk(tmp_path / "saved")
    found = read_texts(f"datasets:{tmp_path / 'saved'}")
    assert found.classes == ("yes", "no")
    assert found.train.labels.tolist() == [0, 1, -1]
    assert found.test is None
    assert found.validation is not None
    assert found.validation.labels.tolist() == [1, 0]


def test_hugging_face_several_labels(tmp_path: Path) -> None:
    """Lists of class numbers lose the names of their classes."""
    several = datasets.List(datasets.ClassLabel(names=["anger", "joy"]))
    features = datasets.Features({"text": datasets.Value("string"), "labels": several})
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "labels": [[1], [], [0, 1]]}, features)
    data.save_to_disk(tmp_path / "saved")
    found = read_texts(f"datasets:{tmp_path / 'saved'}")
    assert (found.problem, found.classes) == ("multi-label", ("anger", "joy"))
    assert found.train.labels.tolist() == [[0, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"text\tlabel\none\ta\ntwo\n", r"line 3 has 1 values, expected 2 \(text, label\); .* by tabs"),
        ("a.csv", b'text,label\none,a\n"two, three",b\nx,y,z\n', r"line 4 has 3 values, expected 2 .* by commas"),
        ("a.csv", b'text,label\n"one,a\n', "is not CSV"),
        ("a.tsv", b"text\tlabel\none\ta\ngr\xfc\xdfe\tb\n", r"line 3 is not UTF-8 \(byte 0xfc\); save the file as"),
        ("a.tsv", b"text\tlabel\n", "the table has no rows"),
        ("a.csv", b"", "the table has no rows"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: expected an object, got list"),
        ("a.parquet", b"nothing", "not a readable table"),
        ("a.tsv.gz", b"nothing", "not a readable table"),
        ("a.tsv", b"text\ttext\none\ta\n", "two columns are called 'text'"),
        ("a.tsv", b"text\tlable\none\ta\n", "no label column among text, lable; say which it is with label_column"),
        ("a.tsv", b"words\tlabel\none\ta\n", "no text column among words, label"),
        ("a.tsv", b"text\tlabel\none\t\n", "column 'label': no text has a label"),
        ("a.tsv", b"text\tlabel\tsplit\none\ta\ttrian\n", "line 2, column 'split': split 'trian' is not known"),
        ("a.tsv", b"text\tlabel\tsplit\none\ta\ttest\n", "the train split is empty"),
        ("a.tsv", b"text\tlabel\tsplit\none\ta\ttrain\ntwo\tb\ttest\n", "class 'b' is in test but has no"),
        ("a.tsv", b"text\tlabel\tsplit\none\ta\ttrain\ntwo\t\ttest\n", "line 3, column 'label': no label; only"),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"label": 0}\n', "line 2, column 'text': expected a text, got None"),
        ("a.jsonl", b'{"text": "a", "label": {"x": 1}}\n', "line 1, column 'label': expected a name or a whole number"),
        ("a.txt", b"one", r"expected a table \.tsv, \.csv, \.jsonl, \.parquet"),
    ],
)  # fmt: skip
def test_broken_tables(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """A mistake in a file that cannot be found from the message."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LimbeckError, match=message) as raised:
        read_texts(f"table:{path}")
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_broken_settings(tmp_path: Path) -> None:
    """A misspelt option is ignored, or its error names nothing near."""
    path = str(write(tmp_path / "data.csv", ROWS))
    with pytest.raises(LimbeckError, match=r"no column 'txt'; did you mean 'text'.*with text_column"):
        read_texts(path, text_column="txt")
    with pytest.raises(LimbeckError, match="no column 'lable'; did you mean 'label'"):
        read_texts(path, label_column="lable")
    with pytest.raises(LimbeckError, match=r"no column 'part'.*with split_column"):
        read_texts(path, split_column="part")
    with pytest.raises(LimbeckError, match="line 3, column 'label': label 'bad' is not known; known: fine, good"):
        read_texts(path, classes=["good", "fine"])
    with pytest.raises(LimbeckError, match="unknown problem 'multilabel'; did you mean 'multi-label'"):
        read_texts(path, problem="multilabel")  # type: ignore[arg-type]
    with pytest.raises(LimbeckError, match="expected a number, got 'good'"):
        read_texts(path, problem="regression")
    with pytest.raises(LimbeckError, match="unknown texts 'sst-2'; did you mean 'sst2'"):
        read_texts("sst-2")
    with pytest.raises(LimbeckError, match="no such file"):
        read_texts("nowhere.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LimbeckError, match="no table of training texts"):
        read_texts(f"table:{tmp_path / 'empty'}")
    with pytest.raises(LimbeckError, match="no such folder; it must hold one folder of"):
        read_texts(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(LimbeckError, match="the train split is empty; expected one folder of"):
        read_texts(f"folder:{tmp_path / 'empty'}")
    with pytest.raises(LimbeckError, match="cannot be loaded"):
        read_texts(f"datasets:{tmp_path / 'empty'}")
    (tmp_path / "twice").mkdir()
    for name in ("train", "training"):
        write(tmp_path / "twice" / f"{name}.csv", ROWS)
    with pytest.raises(LimbeckError, match="train is there twice"):
        read_texts(f"table:{tmp_path / 'twice'}")
    broken = folder(tmp_path / "latin", {"a/1.txt": "x"})
    (broken / "a" / "2.txt").write_bytes(b"gr\xfc\xdfe")
    with pytest.raises(LimbeckError, match=r"2\.txt: line 1 is not UTF-8"):
        read_texts(f"folder:{broken}")


def test_known_sets_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that does not say where the file was looked for."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(LimbeckError, match=f"sst2: sst2_train.tsv.gz is neither in {tmp_path / 'text'} nor in"):
        read_texts("sst2")


def test_known_sets(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known set is read with other counts than its author gives, or its tweets of the future are trained on."""
    if not (data_root / "text" / "sms_spam.tsv.gz").is_file():
        pytest.skip(f"{data_root} has no texts")
    monkeypatch.setenv(VARIABLE, str(data_root))
    spam = read_texts("sms-spam")
    assert np.bincount(spam.train.labels).tolist() == [4827, 747]
    assert spam.classes == ("ham", "spam")
    tweets = read_texts("airline-tweets")
    assert tweets.test is not None
    assert len(tweets.test) == round(0.2 * 14_640)
    assert len(tweets.train) + 27 == 14_640 - len(tweets.test)
    assert tweets.classes == ("negative", "neutral", "positive")
    table = read_table(data_root / "text" / "airline_tweets.csv.gz")
    day = {}
    for text, stamp in zip(table.columns["text"], table.columns["tweet_created"], strict=True):
        month, number, rest = stamp.split("/")
        day.setdefault(text, (int(rest.split()[0]), int(month), int(number)))
    days = [day[text] for text in tweets.train.texts]
    assert sum(a > b for a, b in pairwise(days)) < 40  # retweets stand at their first day
    monkeypatch.setenv(VARIABLE, str(data_root / "text"))
    test = read_texts("sst2").test
    assert test is not None
    assert np.bincount(test.labels).tolist() == [428, 444]
