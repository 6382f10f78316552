"""Tables: a CSV or Parquet file with a row an image: its path, its label, and its split if it has one."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.decode import Files, decoded
from limbeck.sources.ids import text_ids
from limbeck.sources.parts import Part, Source, check_classes, number_classes, split_name
from limbeck.types import UNLABELLED

SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a table's columns."""

    path: str = "path"
    label: str = "label"
    split: str = "split"


def _rows(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows and the names of the columns."""
    try:
        if file.suffix.lower() == ".parquet":
            table = pyarrow.parquet.read_table(file)
            return table.to_pylist(), list(table.column_names)
        with file.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            return list(reader), list(reader.fieldnames or ())
    except FileNotFoundError:
        raise LimbeckError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error, pyarrow.ArrowException) as error:
        raise LimbeckError(f"{file}: not a readable table ({error}); save it again as UTF-8 CSV or Parquet") from None


def _label(value: Any, where: str) -> str | None:
    """The label as text, a whole number without its `.0`; None where unlabelled."""
    text = "" if value is None else str(value).strip()
    if text in ("", str(UNLABELLED)):
        return None
    if text.lower() == "nan":
        raise LimbeckError(f"{where}: is NaN; leave it empty for an unlabelled image")
    if isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            raise LimbeckError(f"{where}: expected a name or a whole number, got {value}")
        return None if value == UNLABELLED else str(int(value))
    return text


def _is_number(label: str) -> bool:
    return label.removeprefix("-").isdecimal() and label.isascii()


def _classes(labels: Sequence[str | None], given: Sequence[str] | None, where: str) -> tuple[tuple[str, ...], bool]:
    """The classes, and whether labels are their numbers."""
    known = sorted({label for label in labels if label is not None})
    numbers = bool(known) and all(_is_number(label) for label in known)
    if given is not None:
        return tuple(given), numbers and not set(known) <= set(given)
    if not known:
        raise LimbeckError(f"{where}: no image has a label; give some images a label, or name the classes")
    if not numbers:
        return tuple(known), False
    return number_classes(map(int, known), where), True


def read(file: Path, size: int | None, columns: Columns, classes: Sequence[str] | None) -> Source:
    """A table of images; paths are relative to its folder, an empty label (or -1) is an unlabelled image.

    Labels are names, or numbers from 0; `classes` names them in order where the table does not hold all of
    them. Raises LimbeckError naming the file, column and line of what is wrong.
    """
    rows, names = _rows(file)
    for option, column in (("image_column", columns.path), ("label_column", columns.label)):
        if column not in names:
            raise LimbeckError(f"{file}: no column {column!r}{nearest(column, names)}; say which it is with {option}")
    if not rows:
        raise LimbeckError(f"{file}: the table has no rows")
    where = [f"{file}: line {line}" for line in range(2, len(rows) + 2)]
    texts = [_label(row[columns.label], f"{at}, column {columns.label!r}") for row, at in zip(rows, where, strict=True)]
    known, numbers = _classes(texts, classes, f"{file}: column {columns.label!r}")
    index = {str(number) if numbers else name: number for number, name in enumerate(known)}
    in_part: dict[str, list[int]] = {}
    paths: list[Path] = []
    labels: list[int] = []
    first_line: dict[Path, str] = {}
    for row, text, at in zip(rows, texts, where, strict=True):
        if text is not None and text not in index:
            raise LimbeckError(f"{at}, column {columns.label!r}: label {text!r} is out of range{nearest(text, index)}")
        path = file.parent / str(row[columns.path] or "")
        if not path.is_file():
            raise LimbeckError(f"{at}, column {columns.path!r}: no such image file: {path}")
        if first_line.setdefault(path, at) != at:  # twice in a table is how a test image gets into training
            raise LimbeckError(f"{at}: {path} is listed before ({first_line[path]}); keep one row an image")
        part = split_name(str(row[columns.split] or ""), at) if columns.split in names else "train"
        in_part.setdefault(part, []).append(len(paths))
        paths.append(path)
        labels.append(UNLABELLED if text is None else index[text])
    if "train" not in in_part:
        raise LimbeckError(f"{file}: the train split is empty; give some rows 'train' in column {columns.split!r}")
    every = np.array(labels, dtype=np.int64)
    check_classes({part: every[at_rows] for part, at_rows in in_part.items()}, known, str(file))
    images = decoded({part: Files(tuple(paths[row] for row in at_rows)) for part, at_rows in in_part.items()}, size)
    ids = text_ids([str(row[columns.path]) for row in rows])
    return Source({part: Part(images[part], every[at], ids[at]) for part, at in in_part.items()}, known)
