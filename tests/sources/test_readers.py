"""Readers of the user's own images: folders, tables and Hugging Face data sets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from tests.sources.pictures import digits, write_folder
from torch.utils.data import DataLoader

from limbeck.errors import LimbeckError
from limbeck.sources import ImageSet, collate_samples, load
from limbeck.sources.ids import text_ids


def _pixels(split: ImageSet) -> dict[tuple[bytes, int], int]:
    """How often each (pixels, label) occurs: the same for any order."""
    every = split.pixels(np.arange(len(split)))
    found: dict[tuple[bytes, int], int] = {}
    for image, label in zip(every, split.labels.tolist(), strict=True):
        key = (image.numpy().tobytes(), label)
        found[key] = found.get(key, 0) + 1
    return found


def _expected(count: int, order: list[int]) -> dict[tuple[bytes, int], int]:
    found: dict[tuple[bytes, int], int] = {}
    for image, label in digits(count):
        key = (np.asarray(image).tobytes(), order[label])
        found[key] = found.get(key, 0) + 1
    return found


# -- folders ---------------------------------------------------------------------------------------------------


def test_folder_gives_each_picture_its_class(tmp_path: Path) -> None:
    """All three splits together must be the written pictures, labelled by the alphabetical order of the folders."""
    write_folder(tmp_path)
    (tmp_path / "zero" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    data = load(f"folder:{tmp_path}")
    assert data.classes == ("one", "two", "zero")
    together: dict[tuple[bytes, int], int] = {}
    for split in (data.train, data.validation, data.test):
        for key, count in _pixels(split).items():
            together[key] = together.get(key, 0) + count
    assert together == _expected(60, [2, 0, 1])
    assert len(data.test) == 12


def test_folder_keeps_the_authors_splits(tmp_path: Path) -> None:
    """train/val/test are taken as they are; without test/, val/ is the test and validation is cut from train."""
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", count=12)
    data = load(f"folder:{tmp_path}")
    assert _pixels(data.test) == _expected(12, [2, 0, 1])
    assert (len(data.train), len(data.validation)) == (54, 6)
    write_folder(tmp_path / "test", count=9)
    data = load(f"folder:{tmp_path}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [60, 12, 9]
    ids = torch.cat([data.train.ids, data.validation.ids, data.test.ids])
    assert len(ids.unique()) == 81


def test_unlabelled_folder(tmp_path: Path) -> None:
    """Pictures without a label train the student on the teacher's word alone; they are never held out."""
    write_folder(tmp_path)
    shutil.copytree(tmp_path / "one", tmp_path / "unlabelled")
    data = load(f"folder:{tmp_path}")
    assert data.classes == ("one", "two", "zero")
    assert data.balance.unlabelled == len(list((tmp_path / "one").iterdir()))
    assert int((data.validation.labels < 0).sum()) == int((data.test.labels < 0).sum()) == 0


def test_adding_a_file_changes_no_other_id(tmp_path: Path) -> None:
    """With positions as ids, one new picture would give every stored answer after it to its neighbour."""
    write_folder(tmp_path)
    before = load(f"folder:{tmp_path}")
    shutil.copy(tmp_path / "one" / "001.png", tmp_path / "one" / "000.png")
    after = load(f"folder:{tmp_path}")
    new = set(after.train.ids.tolist() + after.validation.ids.tolist() + after.test.ids.tolist()) - set(
        before.train.ids.tolist() + before.validation.ids.tolist() + before.test.ids.tolist()
    )
    assert new == set(text_ids(["one/000.png"]).tolist())


def test_lazy_folder_works_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set too large for memory is decoded in the workers, to the same batches."""
    write_folder(tmp_path)
    kept = load(f"folder:{tmp_path}").train
    monkeypatch.setattr("limbeck.sources.decode.MEMORY_LIMIT", 0)
    lazy = load(f"folder:{tmp_path}").train
    assert lazy.preprocessing == kept.preprocessing
    loader = DataLoader(lazy, batch_size=len(lazy), num_workers=2, collate_fn=collate_samples)
    (batch,) = loader
    assert torch.equal(batch["inputs"], kept.__getitems__(list(range(len(kept))))["inputs"])


def _only_in_test(root: Path) -> None:
    write_folder(root / "train")
    write_folder(root / "test", count=60, classes=4)


def _empty_test(root: Path) -> None:
    write_folder(root / "train")
    (root / "test" / "one").mkdir(parents=True)


def _empty_class(root: Path) -> None:
    write_folder(root)
    (root / "four").mkdir()


def _corrupt(root: Path) -> None:
    write_folder(root)
    (root / "two" / "bad.png").write_bytes(b"\x89PNG\r\n")


def _flat(root: Path) -> None:
    write_folder(root / "in")
    for file in root.glob("in/*/*.png"):
        file.rename(root / f"{file.parent.name}_{file.name}")
    shutil.rmtree(root / "in")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_only_in_test, "class 'three' is in test but has no labelled sample in train"),
        (_empty_test, "the test split is empty"),
        (_empty_class, "class folder 'four' has no image"),
        (_corrupt, r"bad\.png: not a readable image"),
        (_flat, "the train split is empty; expected one folder of images a class"),
    ],
)
def test_folder_names_what_is_wrong(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    """Each mistake in one line, before any training."""
    spoil(tmp_path)
    with pytest.raises(LimbeckError, match=message) as info:
        load(f"folder:{tmp_path}")
    assert "\n" not in str(info.value)
    with pytest.raises(LimbeckError, match="no such folder"):
        load(f"folder:{tmp_path / 'gone'}")


# -- tables ----------------------------------------------------------------------------------------------------


def _rows(root: Path, count: int = 60) -> list[dict[str, object]]:
    """Digits as files under `root`/img and a row for each: every sixth unlabelled or, with a label, in the test."""
    (root / "img").mkdir(exist_ok=True)
    rows: list[dict[str, object]] = []
    for index, (image, label) in enumerate(digits(count)):
        image.save(root / "img" / f"{index}.png")
        split = "test" if index % 6 == 5 else "train"
        rows.append({"path": f"img/{index}.png", "label": None if index % 6 == 4 else label, "split": split})
    return rows


def _csv(root: Path, rows: list[dict[str, object]]) -> str:
    lines = [",".join(rows[0])]
    lines += [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
    (root / "table.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(root / "table.csv")


def test_table_csv_and_parquet_agree(tmp_path: Path) -> None:
    """The same rows in either format give the same data, with empty labels as unlabelled ones."""
    rows = _rows(tmp_path)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    table = load(_csv(tmp_path, rows))
    parquet = load(f"table:{tmp_path / 'table.parquet'}")
    assert table.classes == parquet.classes == ("0", "1", "2")
    assert len(table.test) == 10
    assert table.balance.unlabelled == 10
    for one, other in ((table.train, parquet.train), (table.test, parquet.test)):
        assert torch.equal(one.ids, other.ids)
        assert torch.equal(one.labels, other.labels)
    expected = {f"img/{index}.png": label for index, (_, label) in enumerate(digits(60))}
    by_id = dict(zip(text_ids(list(expected)).tolist(), expected.values(), strict=True))
    assert all(by_id[key] == label for key, label in zip(table.test.ids.tolist(), table.test.labels, strict=True))


def test_table_with_names_and_other_columns(tmp_path: Path) -> None:
    """Class names sort alphabetically; `classes` fixes another order and allows classes without a sample."""
    names = ("zero", "one", "two")
    rows = [
        {"file": row["path"], "digit": None if row["label"] is None else names[int(str(row["label"]))]}
        for row in _rows(tmp_path)
    ]
    table = _csv(tmp_path, rows)
    data = load(table, image_column="file", label_column="digit")
    assert data.classes == ("one", "two", "zero")
    given = load(table, image_column="file", label_column="digit", classes=("zero", "one", "two", "three"))
    assert given.classes == ("zero", "one", "two", "three")
    assert given.balance.counts[3] == 0
    assert given.balance.counts[0] == data.balance.counts[2]
    with pytest.raises(LimbeckError, match=r"no column 'path'.*say which it is with image_column"):
        load(table)


def test_float_labels_from_pandas_are_whole_numbers(tmp_path: Path) -> None:
    """pandas turns an integer column with gaps into floats: 1.0 is class 1, not a new name."""
    rows = [{**row, "label": None if row["label"] is None else float(str(row["label"]))} for row in _rows(tmp_path)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    assert load(str(tmp_path / "table.parquet")).classes == ("0", "1", "2")
    rows[6]["label"] = float("nan")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    with pytest.raises(LimbeckError, match="line 8, column 'label': is NaN; leave it empty"):
        load(str(tmp_path / "table.parquet"))
    rows[6]["label"] = 1.5
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    with pytest.raises(LimbeckError, match=r"line 8, column 'label': .*whole number, got 1\.5"):
        load(str(tmp_path / "table.parquet"))


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (3, {"path": "img/gone.png"}, "line 5, column 'path': no such image file"),
        (3, {"path": "img/0.png"}, r"line 5: .* is listed before \(.*line 2\)"),
        (3, {"label": "7"}, "expected labels from 0 on without a gap .* 3 is missing and 7 is there"),
        (3, {"label": "-4"}, "expected labels from 0 on without a gap .* 0 is missing and -4 is there"),
        (3, {"label": "NaN"}, "line 5, column 'label': is NaN"),
        (3, {"split": "tain"}, "line 5: split 'tain' is not known; did you mean 'train'"),
        (5, {"label": None}, "sample 0 of test has no label"),
        (5, {"label": "3"}, "class '3' is in test but has no labelled sample in train"),
    ],
)
def test_table_names_the_line(tmp_path: Path, row: int, change: dict[str, object], message: str) -> None:
    """A wrong cell in a table of a million rows is found by its line and column."""
    rows = _rows(tmp_path)
    rows[row].update(change)
    with pytest.raises(LimbeckError, match=message) as info:
        load(_csv(tmp_path, rows))
    assert "\n" not in str(info.value)


def test_table_labels_outside_given_classes(tmp_path: Path) -> None:
    """A label that `classes` does not know is out of range, by name or by number."""
    rows = _rows(tmp_path)
    with pytest.raises(LimbeckError, match="label '2' is out of range"):
        load(_csv(tmp_path, rows), classes=("zero", "one"))
    for name in ("gone.csv", "gone.parquet"):
        with pytest.raises(LimbeckError, match="no such file"):
            load(str(tmp_path / name))
    (tmp_path / "bad.parquet").write_bytes(b"PAR0")
    with pytest.raises(LimbeckError, match=r"bad\.parquet: not a readable table"):
        load(str(tmp_path / "bad.parquet"))
    (tmp_path / "empty.csv").write_text("path,label\n")
    with pytest.raises(LimbeckError, match="the table has no rows"):
        load(str(tmp_path / "empty.csv"))


# -- Hugging Face ----------------------------------------------------------------------------------------------


def _hub(count: int = 60, label: str = "label", **extra: object) -> datasets.Dataset:
    pictures = list(digits(count))
    features = datasets.Features(
        {"picture": datasets.Image(), label: datasets.ClassLabel(names=["zero", "one", "two"])}
    )
    columns = {"picture": [image for image, _ in pictures], label: [label for _, label in pictures]}
    found = datasets.Dataset.from_dict(columns, features=features)
    for name, values in extra.items():
        found = found.add_column(name, values)
    return found


def test_saved_dataset_with_class_names(tmp_path: Path) -> None:
    """The image column is found by its type, the names come from ClassLabel, and the pixels are the written ones."""
    datasets.DatasetDict({"train": _hub(), "test": _hub(12)}).save_to_disk(tmp_path / "saved")
    data = load(f"datasets:{tmp_path / 'saved'}")
    assert data.classes == ("zero", "one", "two")
    assert _pixels(data.test) == _expected(12, [0, 1, 2])
    assert (len(data.train), len(data.validation)) == (54, 6)
    assert len(torch.cat([data.train.ids, data.validation.ids, data.test.ids]).unique()) == 72


def test_dataset_read_lazily_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow rows decoded in a worker must be those of the main process."""
    _hub().save_to_disk(tmp_path / "saved")
    kept = load(f"datasets:{tmp_path / 'saved'}").train
    monkeypatch.setattr("limbeck.sources.decode.MEMORY_LIMIT", 0)
    lazy = load(f"datasets:{tmp_path / 'saved'}").train
    (batch,) = DataLoader(lazy, batch_size=len(lazy), num_workers=2, collate_fn=collate_samples)
    assert torch.equal(batch["inputs"], kept.__getitems__(list(range(len(kept))))["inputs"])


def test_image_folder_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain folder that `datasets` understands is read through it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_folder(tmp_path / "pictures" / "train")
    data = load(f"datasets:{tmp_path / 'pictures'}")
    assert data.classes == ("one", "two", "zero")
    assert len(data.train) + len(data.validation) + len(data.test) == 60


def test_dataset_columns_that_are_not_clear(tmp_path: Path) -> None:
    """Two image columns, a missing label column, or a wrong name each say what the columns are."""
    place = tmp_path / "saved"
    _hub(label="kind").save_to_disk(place)
    assert load(f"datasets:{place}").classes == ("zero", "one", "two")
    with pytest.raises(LimbeckError, match="'pictrue' is no image column; did you mean 'picture'"):
        load(f"datasets:{place}", image_column="pictrue")
    with pytest.raises(LimbeckError, match="no column 'kin'; did you mean 'kind'"):
        load(f"datasets:{place}", label_column="kin")
    _hub().remove_columns("label").save_to_disk(tmp_path / "bare")
    with pytest.raises(LimbeckError, match="no label column among picture"):
        load(f"datasets:{tmp_path / 'bare'}")
    _hub().remove_columns("picture").save_to_disk(tmp_path / "blind")
    with pytest.raises(LimbeckError, match="expected one image column, got 0 among label"):
        load(f"datasets:{tmp_path / 'blind'}")


def test_dataset_with_missing_labels(tmp_path: Path) -> None:
    """None and -1 are unlabelled; NaN is a mistake that names its row."""
    plain = _hub().cast_column("label", datasets.Value("int64")).remove_columns("label")
    labels: list[float | None] = [float(label) for _, label in digits(60)]
    labels[0], labels[1] = None, -1.0
    plain.add_column("label", labels).save_to_disk(tmp_path / "gaps")
    data = load(f"datasets:{tmp_path / 'gaps'}")
    assert data.balance.unlabelled == 2
    assert data.classes == ("0", "1", "2")
    labels[7] = float("nan")
    plain.add_column("label", labels).save_to_disk(tmp_path / "nan")
    with pytest.raises(LimbeckError, match="train row 7, column 'label': expected a whole number, got nan"):
        load(f"datasets:{tmp_path / 'nan'}")


def test_dataset_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline or mistyped: one line instead of a page from four packages."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(LimbeckError, match="datasets:no/such-set: cannot be loaded") as info:
        load("datasets:no/such-set")
    assert "\n" not in str(info.value)
