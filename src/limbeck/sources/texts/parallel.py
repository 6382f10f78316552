"""Parallel texts by name: what is translated, and its translation, in train, validation and test."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError
from limbeck.sources.ids import text_ids
from limbeck.sources.splits import SPLIT_SEED, TEST, VALIDATION
from limbeck.sources.texts.aligned import parallel_tables
from limbeck.sources.texts.tabular import Table, present
from limbeck.sources.views import keys

TEST_SHARE = 0.1
"""What is held out for the test where the author cut none."""
PARTS = ("train", "validation", "test")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Parallel:
    """Texts, the translation of each (None where there is none), and lasting `ids` (n,) int64."""

    sources: tuple[str, ...]
    targets: tuple[str | None, ...]
    ids: NDArray[np.int64]

    @classmethod
    def of(cls, sources: Sequence[str], targets: Sequence[str | None]) -> Parallel:
        """Texts under ids that outlast any order and addition: 63 bits of the hash of a text and its translation, and
        of how often both came before."""
        pairs = [source if target is None else f"{source}\x1f{target}"
                 for source, target in zip(sources, targets, strict=True)]  # fmt: skip
        before: Counter[str] = Counter()
        names = []
        for pair in pairs:
            names.append(f"{pair}\x1f#{before[pair]}" if before[pair] else pair)
            before[pair] += 1
        return cls(tuple(sources), tuple(targets), text_ids(names))

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, mask: NDArray[np.bool_]) -> Parallel:
        """The texts where `mask` (n,) is True."""
        rows = np.flatnonzero(mask)
        return Parallel(
            tuple(self.sources[row] for row in rows), tuple(self.targets[row] for row in rows), self.ids[rows]
        )


@dataclass(frozen=True, slots=True, eq=False)
class ParallelTexts:
    """Parallel texts in the three splits. `notes` say what was left out."""

    name: str
    train: Parallel
    validation: Parallel
    test: Parallel
    notes: tuple[str, ...] = ()


def read_parallel(
    name: str,
    *,
    validation: float = 0.1,
    source_column: str | None = None,
    target_column: str | None = None,
    split_column: str | None = None,
    header: Sequence[str] | None = None,
) -> ParallelTexts:
    """Reads parallel texts from disk, or a data set of the Hugging Face hub.

    Args:
        name: `multi30k-en-de` or `multi30k-de-en` (its test is test_2016_flickr); `files:PREFIX.{en,de}`, two files of
            which each line of one translates that of the other, gzipped or not: `{split}` in the prefix stands for
            train, val or test, without it both files are train; `table:PATH` (or any name ending in .tsv, .csv, .jsonl
            or .parquet, gzipped or not), which may be a folder of one table a split; or `datasets:NAME-or-path`.
        validation: the share of train to hold out, where the author cut no validation split.
        source_column, target_column: the columns, `source` and `target` by default; of a data set whose column
            `translation` holds both, its languages.
        split_column: the column of a table's splits, `split` by default.
        header: the columns of a TSV or CSV file that does not begin with their names.

    The author's test stays whole. Without one the author's validation split is the test; without either, a tenth of
    train is. Texts are held out with all of their translations. A pair that is in a later split too is left out of the
    earlier one, and so is one without a source from train; notes and a warning count them. A training text whose
    translation is empty has none.

    Raises:
        LimbeckError: something is missing, broken, or not parallel; a text of validation or test has no translation.
    """
    if not 0 < validation < 1:
        raise LimbeckError(f"validation: expected a share between 0 and 1, got {validation}; 0.1 holds out a tenth")
    tables = parallel_tables(name, split_column, header)
    source, target = source_column or "source", target_column or "target"
    notes: list[str] = []
    parts = {part: _parallel(table, source, target, part, notes) for part, table in tables.items()}
    parts = _without_leaks(_cut(parts, name, validation), name, notes)
    for note in notes:
        log.warning("%s", note)
    return ParallelTexts(name, parts["train"], parts["validation"], parts["test"], tuple(notes))


def first_by_hash(ids: NDArray[np.int64], count: int, purpose: int) -> NDArray[np.bool_]:
    """A mask (n,) of the first `count` different ids, in the order of their hashes."""
    unique = np.unique(ids)
    order = np.argsort(keys(SPLIT_SEED, purpose, unique), kind="stable")
    mask: NDArray[np.bool_] = np.isin(ids, unique[order[:count]])
    return mask


def _parallel(table: Table, source: str, target: str, part: str, notes: list[str]) -> Parallel:
    present(table, source, "source_column")
    present(table, target, "target_column")
    texts = [_text(table, source, row) for row in range(len(table))]
    targets = [_text(table, target, row) or None for row in range(len(table))]
    if part != "train":
        for values, column in ((texts, source), (targets, target)):
            empty = next((row for row, value in enumerate(values) if not value), None)
            if empty is not None:
                raise LimbeckError(
                    f"{table.place(empty, column)}: is empty; only training texts may have no translation"
                )
    whole = Parallel.of([text or "" for text in texts], targets)
    there = np.array([bool(text) for text in texts], np.bool_)
    if there.all():
        return whole
    if not there.any():
        raise LimbeckError(f"{table.what}: column {source!r} of train holds no text")
    notes.append(f"{table.what}: {int((~there).sum()):,} of {len(there):,} training pairs have no source; left out")
    return whole.take(there)


def _text(table: Table, column: str, row: int) -> str | None:
    value = table.columns[column][row]
    if value is not None and not isinstance(value, str):
        raise LimbeckError(f"{table.place(row, column)}: expected a text, got {value!r}; correct or remove the row")
    return value if value and value.strip() else None


def _cut(parts: dict[str, Parallel], name: str, validation: float) -> dict[str, Parallel]:
    """All three splits; what the author did not cut is held out of train."""
    train, val, test = (parts.get(part) for part in PARTS)
    assert train is not None
    if test is None:
        test, val = val, None
    if test is None:
        train, test = _held_out(train, TEST_SHARE, TEST, name)
    if val is None:
        train, val = _held_out(train, validation, VALIDATION, name)
    return {"train": train, "validation": val, "test": test}


def _held_out(part: Parallel, share: float, purpose: int, name: str) -> tuple[Parallel, Parallel]:
    """What stays, and what is held out of those that have a translation: sources with all that is said of them."""
    sources = text_ids([" ".join(source.split()) for source in part.sources])
    known = np.array([target is not None for target in part.targets], np.bool_)
    count = len(np.unique(sources[known]))
    out = first_by_hash(sources[known], max(1, round(share * count)), purpose) if count > 1 else known[:0]
    if not out.any() or out.all():
        raise LimbeckError(f"{name}: {count} translated texts are too few to hold some out; give more, or own splits")
    left = ~np.isin(sources, sources[known][out])
    return part.take(left), part.take(~left & known)


def _without_leaks(parts: dict[str, Parallel], name: str, notes: list[str]) -> dict[str, Parallel]:
    later: set[tuple[str, str]] = set()
    kept: dict[str, Parallel] = {}
    for part in reversed(PARTS):
        one = parts[part]
        pairs = [(" ".join(source.split()), " ".join((target or "").split()))
                 for source, target in zip(one.sources, one.targets, strict=True)]  # fmt: skip
        stays = np.array([pair not in later for pair in pairs], np.bool_)
        if not stays.any():
            raise LimbeckError(f"{name}: every pair of {part} is in a later split too; give splits that differ")
        if not stays.all():
            notes.append(
                f"{name}: {int((~stays).sum()):,} of {len(one):,} pairs of {part} are in a later split; left out"
            )
        kept[part] = one if stays.all() else one.take(stays)
        later.update(pairs)
    return kept
