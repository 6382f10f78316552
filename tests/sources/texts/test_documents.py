"""Documents by name: what is cut where, and what cannot be read."""

from __future__ import annotations

import gzip
from pathlib import Path

import datasets
import pytest

from limbeck.errors import LimbeckError
from limbeck.sources.texts import load_documents
from limbeck.sources.texts.documents import cut


def test_wikitext_by_article(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula's line taken for a title, an article in two splits, or a train file that nobody says is missing."""
    if not (data_root / "text" / "wikitext2_test.txt.gz").is_file():
        pytest.skip("wikitext2 not found in LIMBECK_DATA")
    monkeypatch.setenv("LIMBECK_DATA", str(data_root))
    found = load_documents("wikitext2")
    assert len(found.test) == 60
    assert len(found.train) + len(found.validation) == 60
    assert all(text.startswith(" = ") for text in (*found.train, *found.validation, *found.test))
    share = sum(map(len, found.validation)) / sum(map(len, (*found.train, *found.validation)))
    assert 0.05 < share < 0.15
    assert "validation file" in found.notes[0]
    assert " @-@ " in found.train[0]
    assert "<unk>" in found.train[0]


def test_shakespeare_is_cut_in_order(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test than everybody's last tenth, or characters lost between splits."""
    file = data_root / "text" / "tinyshakespeare.txt.gz"
    if not file.is_file():
        pytest.skip("tinyshakespeare not found in LIMBECK_DATA")
    monkeypatch.setenv("LIMBECK_DATA", str(data_root))
    whole = gzip.decompress(file.read_bytes()).decode()
    found = load_documents("tinyshakespeare", validation=0.2)
    (train,), (validation,), (test,) = found.train, found.validation, found.test
    assert train + validation + test == whole
    assert len(test) == len(whole) - int(0.9 * len(whole))
    assert abs(len(validation) / len(train + validation) - 0.2) < 0.001
    assert train.endswith("\n")


def test_with_wikitext_s_train_file_the_author_s_splits_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation file that is still learned from where the train file is there."""
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    (tmp_path / "text").mkdir()
    for part in ("train", "valid", "test"):
        text = "".join(f" \n = {part} {n} = \n \n Words of <unk> . \n" for n in range(3))
        (tmp_path / "text" / f"wikitext2_{part}.txt.gz").write_bytes(gzip.compress(text.encode()))
    found = load_documents("wikitext2")
    assert [part[0].split(" = ")[1] for part in (found.train, found.validation, found.test)] == [
        "train 0", "valid 0", "test 0",
    ]  # fmt: skip
    assert found.notes == ()


def test_a_folder_with_and_without_splits(tmp_path: Path) -> None:
    """A test split that is learned from, because its name says so and nobody reads it."""
    for name in ("train", "valid", "test"):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "1.txt").write_text(f"{name} one\n\nnext\r\n")
    found = load_documents(f"text:{tmp_path / 'a'}")
    assert (found.train, found.validation, found.test) == (
        ("train one\n\nnext\n",), ("valid one\n\nnext\n",), ("test one\n\nnext\n",)
    )  # fmt: skip
    assert load_documents(f"text:{tmp_path / 'a'}", apart="blank-line").test == ("test one", "next\n")
    (tmp_path / "b").mkdir()
    for number in range(20):
        (tmp_path / "b" / f"{number:02}.txt").write_text(f"document {number:02}")
    (tmp_path / "b" / "empty.txt").write_text(" \n")
    found = load_documents(f"text:{tmp_path / 'b'}")
    assert len(found.train) + len(found.validation) + len(found.test) == 20
    assert found.test == ("document 18", "document 19")
    assert found.validation == ("document 16", "document 17")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "train.txt.gz").write_bytes(gzip.compress(b"learn this"))
    (tmp_path / "c" / "dev.txt").write_text("first line\nsecond line\n")
    found = load_documents(f"text:{tmp_path / 'c'}")
    assert found.test == ("first line\nsecond line\n",)
    assert (found.train, found.validation) == (("learn ",), ("this",))


def test_a_data_set_s_column(tmp_path: Path) -> None:
    """A missing text that becomes the document "None", or the wrong column."""
    texts = [f"text {number}" for number in range(9)]
    table = datasets.Dataset.from_dict({"body": [*texts, None], "other": ["x"] * 10})
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "set"))
    found = load_documents(f"datasets:{tmp_path / 'set'}", column="body")
    assert found.train + found.validation == tuple(texts)
    assert found.test == ("text 0",)
    with pytest.raises(LimbeckError, match="no column 'text'"):
        load_documents(f"datasets:{tmp_path / 'set'}")


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_no_character_is_lost_by_a_cut(share: float) -> None:
    """Text that is in no split, or in two."""
    many = [f"line {number}\n" * (number % 5 + 1) for number in range(30)]
    for documents in (many, ["\n".join(many)], ["words without lines " * 50], ["x" * 500], ["a" * 400, "b" * 10]):
        left, right = cut(documents, share)
        assert "".join(left + right) == "".join(documents)
        held = sum(map(len, right)) / sum(map(len, documents))
        assert abs(held - share) < share / 2 + 0.03


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wikitext", {}, "did you mean 'wikitext2'"),
        ("text:", {}, "unknown text 'text:'"),
        ("text:/no/such/place", {}, "no such file or folder"),
        ("tinyshakespeare", {"validation": 10.0}, "expected a share between 0 and 1, got 10.0"),
        ("text:.", {"apart": "line"}, "unknown apart 'line'"),
    ],
)
def test_a_mistake_is_named(name: str, options: dict[str, object], message: str) -> None:
    """A traceback in place of one line."""
    with pytest.raises(LimbeckError, match=message):
        load_documents(name, **options)  # type: ignore[arg-type]


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in Latin-1, an empty one, or a folder of pictures, that ends in a traceback or in no text."""
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(LimbeckError, match=r"tinyshakespeare.txt.gz is neither in .*set LIMBECK_DATA"):
        load_documents("tinyshakespeare")
    (tmp_path / "latin.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(LimbeckError, match=r"latin.txt: not a readable text .*UTF-8"):
        load_documents(f"text:{tmp_path / 'latin.txt'}")
    (tmp_path / "broken.txt.gz").write_bytes(gzip.compress(b"text " * 1000)[:-20])
    with pytest.raises(LimbeckError, match=r"broken.txt.gz: not a readable text"):
        load_documents(f"text:{tmp_path / 'broken.txt.gz'}")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(LimbeckError, match="no text in train"):
        load_documents(f"text:{tmp_path / 'empty.txt'}")
    (tmp_path / "short.txt").write_text("a")
    with pytest.raises(LimbeckError, match="too short to hold out a test split"):
        load_documents(f"text:{tmp_path / 'short.txt'}")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(LimbeckError, match="the folder has no file that ends in"):
        load_documents(f"text:{tmp_path / 'pictures'}")
