"""Where parallel texts come from: known sets, two files line by line, tables, and Hugging Face data sets, as tables."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.hub import load_splits
from limbeck.sources.parts import SPLIT_NAMES
from limbeck.sources.places import VARIABLE, cache_root, data_root, find
from limbeck.sources.texts.tabular import SUFFIXES, Table, decoded, read_tables, suffix_of

NAMES = ("multi30k-en-de", "multi30k-de-en")
KINDS = ("files:PREFIX.{en,de}", "table:PATH", "datasets:NAME")
MULTI30K = {"train": "train", "validation": "val", "test": "test_2016_flickr"}

_FILES = re.compile(r"(?P<prefix>.+)\.\{(?P<source>[^{},]+),(?P<target>[^{},]+)\}")


def parallel_tables(name: str, split_column: str | None, header: Sequence[str] | None) -> dict[str, Table]:
    """The table of each split, whose columns are `source` and `target` where its author named none; see
    `read_parallel` for what `name` may be.

    Raises:
        LimbeckError: it is not known, or something of it is missing, broken, or not parallel.
    """
    kind, _, rest = name.partition(":")
    if name in NAMES:
        return _multi30k(name)
    if kind == "files" and rest:
        return _files(name, rest)
    if kind == "table" and rest:
        return read_tables(Path(rest).expanduser(), split_column, header)
    if suffix_of(Path(name)) in SUFFIXES:
        return read_tables(Path(name).expanduser(), split_column, header)
    if kind == "datasets" and rest:
        found = {part: _columns(data) for part, data in load_splits(rest).items()}
        return {part: Table(f"{name}, {part}", columns, range(rows), "row") for part, (columns, rows) in found.items()}
    raise LimbeckError(f"unknown parallel texts {name!r}{nearest(name, (*NAMES, *KINDS))}")


def _columns(data: Any) -> tuple[dict[str, list[Any]], int]:
    """A data set's columns, those of its translations each by its language, and the number of its rows."""
    columns = {name: list(data[name]) for name in data.column_names if name != "translation"}
    if "translation" in data.column_names:
        rows = list(data["translation"])
        columns |= {language: [row.get(language) for row in rows] for language in (rows[0] if rows else {})}
    return columns, len(data)


def _multi30k(name: str) -> dict[str, Table]:
    source, target = name.split("-")[1:]
    tables = {}
    for part, file in MULTI30K.items():
        first, second = (
            find([f"text/multi30k_{file}.{each}.gz", f"multi30k/{file}.{each}.gz", f"multi30k/{file}.{each}"])
            for each in (source, target)
        )
        if first is None or second is None:
            raise LimbeckError(
                f"{name}: multi30k/{file}.{source} and .{target} (or .gz) are neither in {data_root()} nor in "
                f"{cache_root()}; put the raw files of task 1 of github.com/multi30k/dataset there, or set {VARIABLE} "
                "to the folder that has them"
            )
        tables[part] = _aligned(first, second)
    return tables


def _files(name: str, spec: str) -> dict[str, Table]:
    form = _FILES.fullmatch(spec)
    if form is None:
        raise LimbeckError(
            f"{name}: expected two files as files:PREFIX.{{en,de}}, the first being translated to the second"
        )
    source, target = form["source"], form["target"]
    prefix = str(Path(form["prefix"]).expanduser())
    if "{split}" not in prefix:
        return {"train": _aligned(_existing(f"{prefix}.{source}"), _existing(f"{prefix}.{target}"))}
    tables: dict[str, Table] = {}
    for word, part in SPLIT_NAMES.items():
        path = prefix.replace("{split}", word)
        if _either(f"{path}.{source}") is None:
            continue
        if part in tables:
            raise LimbeckError(f"{name}: {part} is there twice, {tables[part].what} and {path}; remove one")
        tables[part] = _aligned(_existing(f"{path}.{source}"), _existing(f"{path}.{target}"))
    if "train" not in tables:
        raise LimbeckError(f"{name}: no train split; expected {prefix.replace('{split}', 'train')}.{source} (or .gz)")
    return tables


def _either(path: str) -> Path | None:
    return next((file for file in (Path(path), Path(f"{path}.gz")) if file.is_file()), None)


def _existing(path: str) -> Path:
    found = _either(path)
    if found is None:
        raise LimbeckError(f"{path}: no such file, nor {path}.gz")
    return found


def _aligned(first: Path, second: Path) -> Table:
    sources, targets = _lines(first), _lines(second)
    if len(sources) != len(targets):
        raise LimbeckError(
            f"{first} has {len(sources):,} lines and {second} {len(targets):,}; each line must translate that of the "
            "other file"
        )
    return Table(f"{first} and {second.name}", {"source": sources, "target": targets}, range(1, len(sources) + 1))


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise LimbeckError(f"{path}: cannot be read ({error})") from None
    # Only \n ends a line: texts hold other characters that `splitlines` would break at.
    lines = [line.removesuffix("\r") for line in decoded(content, str(path)).split("\n")]
    return lines[:-1] if not lines[-1] else lines
