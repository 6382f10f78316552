"""Tables of texts: TSV, CSV, JSON Lines and Parquet files, as columns of values with the line of each row."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.parts import SPLIT_NAMES, split_name

SUFFIXES = (".tsv", ".csv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one length. `what` names the table in errors, `lines` (rows,) the line or file of each row."""

    what: str
    columns: dict[str, list[Any]]
    lines: Sequence[int | str]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def place(self, row: int, column: str) -> str:
        """A value's place, as an error calls it."""
        return f"{self.what}: {self.unit} {self.lines[row]}, column {column!r}"

    def take(self, rows: Sequence[int]) -> Table:
        """The table of these rows alone."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(self.what, columns, [self.lines[row] for row in rows], self.unit)


def suffix_of(path: Path) -> str:
    """A file's kind by its name, `.tsv` for data.tsv and data.tsv.gz; another suffix as it is."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]


def read_tables(path: Path, split_column: str | None = None, header: Sequence[str] | None = None) -> dict[str, Table]:
    """The table of each split: of a file by its column of splits, all rows being train without one; of a folder by
    the names of its files, as train.tsv, dev.tsv and test.tsv.

    Args:
        path: a file or folder; files may be gzipped.
        split_column: the column of splits, `split` by default.
        header: the names of the columns, where a TSV or CSV file does not begin with them.

    Raises:
        LimbeckError: a file is missing or broken, a split is not known, or there is no train split.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if suffix_of(file) in SUFFIXES)
        named = {file: SPLIT_NAMES.get(file.name.split(".")[0].lower()) for file in files}
        tables: dict[str, Table] = {}
        for file, split in named.items():
            if split in tables:
                raise LimbeckError(f"{path}: {split} is there twice, {tables[split].what} and {file}; remove one")
            if split is not None:
                tables[split] = read_table(file, header)
        if "train" not in tables:
            known = ", ".join(f"train{suffix}" for suffix in SUFFIXES)
            raise LimbeckError(f"{path}: no table of training texts; expected a file {known}, or give one file")
        return tables
    table = read_table(path, header)
    column = split_column or "split"
    if split_column is not None:
        present(table, column, "split_column")
    if column not in table.columns:
        return {"train": table}
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(table.columns[column]):
        rows.setdefault(split_name(str(value or ""), table.place(row, column)), []).append(row)
    if "train" not in rows:
        raise LimbeckError(f"{path}: the train split is empty; give some rows 'train' in column {column!r}")
    return {split: table.take(at) for split, at in rows.items()}


def present(table: Table, column: str, option: str) -> None:
    """Raises LimbeckError where the table has no such column."""
    if column not in table.columns:
        raise LimbeckError(
            f"{table.what}: no column {column!r}{nearest(column, table.columns)}; say which it is with {option}"
        )


def read_table(path: Path, header: Sequence[str] | None = None) -> Table:
    """A table from a file .tsv, .csv, .jsonl or .parquet, or one of these gzipped.

    A quotation mark is a character like others in a TSV file, and encloses values in a CSV file.

    Raises:
        LimbeckError: the file is missing, broken, empty or not UTF-8, or a row has more or fewer values than there are
            columns.
    """
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise LimbeckError(f"{path}: expected a table {', '.join(SUFFIXES)} (or .gz of one), got {suffix or 'none'}")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        if suffix == ".parquet":
            found = pyarrow.parquet.read_table(io.BytesIO(content))
            columns = {name: found.column(name).to_pylist() for name in found.column_names}
            return _filled(Table(str(path), columns, range(1, found.num_rows + 1), "row"))
    except FileNotFoundError:
        raise LimbeckError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise LimbeckError(f"{path}: not a readable table ({error}); save it again") from None
    text = decoded(content, str(path))
    if suffix == ".jsonl":
        return _filled(_records(text, str(path)))
    rows = _separated(text) if suffix == ".tsv" else _quoted(text, str(path))
    return _filled(_rectangle(rows, header, str(path), "tabs" if suffix == ".tsv" else "commas"))


def decoded(content: bytes, what: str) -> str:
    """UTF-8 bytes as a text, without a byte order mark. Raises LimbeckError naming the line of a byte that is not."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LimbeckError(
            f"{what}: line {line} is not UTF-8 (byte {content[error.start]:#04x}); save the file as UTF-8"
        ) from None


Rows = list[tuple[int, list[str]]]


def _separated(text: str) -> Rows:
    # Only \n ends a line: texts hold other characters that `splitlines` would break at.
    lines = text.split("\n")
    return [(number, line.removesuffix("\r").split("\t")) for number, line in enumerate(lines, 1) if line.strip("\r")]


def _quoted(text: str, what: str) -> Rows:
    limit = csv.field_size_limit(sys.maxsize)  # the default refuses texts of more than 128 kB
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        line = 1
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LimbeckError(f"{what}: line {reader.line_num} is not CSV ({error}); correct its quotes") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _rectangle(rows: Rows, header: Sequence[str] | None, what: str, separators: str) -> Table:
    names = [str(name) for name in header] if header is not None else rows[0][1] if rows else []
    rows = rows if header is not None else rows[1:]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LimbeckError(f"{what}: two columns are called {twice!r}; if the first line is a row, give `header`")
    for line, row in rows:
        if len(row) != len(names):
            raise LimbeckError(
                f"{what}: line {line} has {len(row)} values, expected {len(names)} ({', '.join(names)}); "
                f"values are separated by {separators}"
            )
    columns = {name: [row[index] for _, row in rows] for index, name in enumerate(names)}
    return Table(what, columns, [line for line, _ in rows])


def _records(text: str, what: str) -> Table:
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise LimbeckError(f"{what}: line {number} is not JSON ({error}); write one object a line") from None
        if not isinstance(record, dict):
            raise LimbeckError(f"{what}: line {number}: expected an object, got {type(record).__name__}")
        records.append(record)
        lines.append(number)
    names = dict.fromkeys(name for record in records for name in record)
    return Table(what, {name: [record.get(name) for record in records] for name in names}, lines)


def _filled(table: Table) -> Table:
    if not len(table):
        raise LimbeckError(f"{table.what}: the table has no rows")
    return table
