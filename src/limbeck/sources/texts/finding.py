"""Where texts come from: known sets, tables, folders of a class each, and Hugging Face data sets, each as tables."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets

from limbeck.errors import LimbeckError, nearest
from limbeck.sources import hub
from limbeck.sources.folders import UNLABELLED_FOLDER
from limbeck.sources.parts import SPLIT_NAMES
from limbeck.sources.places import VARIABLE, cache_root, data_root, find
from limbeck.sources.texts.tabular import SUFFIXES, Table, decoded, read_table, read_tables, suffix_of

NAMES = ("sst2", "sms-spam", "airline-tweets")
KINDS = ("table", "datasets", "folder")

UNLABELLED_FOLDERS = (UNLABELLED_FOLDER, "unsup")
"""Folders of texts without a label; the second is that of the IMDB reviews."""
TEST_SHARE = 0.2
"""The share of the airline tweets, the last by time, that is their test."""


@dataclass(frozen=True, slots=True)
class Found:
    """The table of each split. `columns` are those of text and label, and `classes` the names of a column's classes in
    their order, where the source says so."""

    tables: dict[str, Table]
    columns: tuple[str, str] | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def find_tables(source: str, split_column: str | None = None, header: Sequence[str] | None = None) -> Found:
    """The tables of a source; see `read_texts` for what it may be.

    Raises:
        LimbeckError: it is not known, or something of it is missing or broken.
    """
    kind, _, rest = source.partition(":")
    if kind == "folder" and rest:
        return Found(_folders(Path(rest).expanduser()), ("text", "label"))
    if kind == "datasets" and rest:
        return _hub(source, rest)
    if kind == "table" and rest:
        return Found(read_tables(Path(rest).expanduser(), split_column, header))
    if suffix_of(Path(source)) in SUFFIXES:
        return Found(read_tables(Path(source).expanduser(), split_column, header))
    if source == "sst2":
        files = {"train": "train", "validation": "dev", "test": "test"}
        known = {part: read_table(_known(source, f"sst2_{file}.tsv.gz")) for part, file in files.items()}
        return Found(known, ("sentence", "label"), {"label": ("negative", "positive")})
    if source == "sms-spam":
        table = read_table(_known(source, "sms_spam.tsv.gz"), ["label", "text"])
        return Found({"train": table}, ("text", "label"))
    if source == "airline-tweets":
        table = _by_time(read_table(_known(source, "airline_tweets.csv.gz")))
        first = len(table) - round(TEST_SHARE * len(table))
        parts = {"train": table.take(range(first)), "test": table.take(range(first, len(table)))}
        return Found(parts, ("text", "airline_sentiment"))
    known_names = (*NAMES, *(f"{each}:PATH" for each in KINDS))
    raise LimbeckError(f"unknown texts {source!r}{nearest(source, known_names)}")


def _known(name: str, file: str) -> Path:
    path = find([f"text/{file}", file])
    if path is None:
        raise LimbeckError(
            f"{name}: {file} is neither in {data_root() / 'text'} nor in {cache_root() / 'text'}; put it there, or set "
            f"{VARIABLE} to the folder whose folder `text` has it"
        )
    return path


def _by_time(table: Table) -> Table:
    times = [datetime.strptime(value, "%m/%d/%Y %H:%M") for value in table.columns["tweet_created"]]
    # Minutes are all the stamps tell; tweets of one minute are in the order of their numbers, which rise.
    order = sorted(range(len(table)), key=lambda row: (times[row], int(table.columns["tweet_id"][row])))
    return table.take(order)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _folders(root: Path) -> dict[str, Table]:
    if not root.is_dir():
        raise LimbeckError(f"folder:{root}: no such folder; it must hold one folder of .txt files a class")
    named = {SPLIT_NAMES[sub.name.lower()]: sub for sub in _subfolders(root) if sub.name.lower() in SPLIT_NAMES}
    tables = {}
    for part, folder in (named if "train" in named else {"train": root}).items():
        texts: list[str] = []
        labels: list[str | None] = []
        files: list[str] = []
        for sub in _subfolders(folder):
            for file in sorted(path for path in sub.rglob("*") if suffix_of(path) == ".txt" and path.is_file()):
                texts.append(_text(file))
                labels.append(None if sub.name in UNLABELLED_FOLDERS else sub.name)
                files.append(file.relative_to(root).as_posix())
        if not texts:
            raise LimbeckError(f"{folder}: the {part} split is empty; expected one folder of .txt files a class")
        tables[part] = Table(str(root), {"text": texts, "label": labels}, files, "file")
    return tables


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
        return decoded(gzip.decompress(content) if file.suffix.lower() == ".gz" else content, str(file))
    except (OSError, EOFError, zlib.error) as error:
        raise LimbeckError(f"{file}: cannot be read ({error})") from None


def _hub(source: str, name: str) -> Found:
    classes: dict[str, tuple[str, ...]] = {}
    tables = {}
    for part, split in hub.load_splits(name).items():
        columns: dict[str, list[Any]] = {}
        for column, feature in split.features.items():
            inner = getattr(feature, "feature", feature)
            if isinstance(inner, datasets.ClassLabel):
                names = inner.names
                columns[column] = [_by_name(value, names) for value in split[column]]
                classes[column] = tuple(names)
            elif isinstance(inner, datasets.Value):
                columns[column] = list(split[column])
        tables[part] = Table(f"{source}, {part}", columns, range(len(split)), "row")
    return Found(tables, classes=classes)


def _by_name(value: Any, names: Sequence[str]) -> Any:
    """The name of a class number, or those of several; None where a text is unlabelled."""
    if isinstance(value, list | tuple):
        return [names[each] for each in value]
    return None if value is None or value < 0 else names[value]
