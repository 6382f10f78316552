"""Labelled texts by name, in the parts that their author cut, each text under a lasting name."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError
from limbeck.sources.ids import text_ids
from limbeck.sources.texts.finding import Found, find_tables
from limbeck.sources.texts.labels import Labels, Problem, read_labels
from limbeck.sources.texts.tabular import Table, present

PARTS = ("train", "validation", "test")
PAIR_COLUMNS = {
    "text": "text_pair",
    "sentence": None,
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
    "text1": "text2",
    "text_a": "text_b",
    "content": None,
    "review": None,
    "tweet": None,
    "message": None,
}
"""The usual columns of texts, and the usual columns of what each is compared with."""
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "sentiment", "score")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class TextPart:
    """Texts, their pairs or None, `labels` (n,) or (n, classes), and lasting `ids` (n,) int64."""

    texts: list[str]
    pairs: list[str] | None
    labels: Labels
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> TextPart:
        """The part of these rows, or where a mask is True, alone."""
        at = np.arange(len(self))[rows]
        pairs = None if self.pairs is None else [self.pairs[row] for row in at]
        return TextPart([self.texts[row] for row in at], pairs, self.labels[at], self.ids[at])


@dataclass(frozen=True, slots=True, eq=False)
class TextSource:
    """The parts of a data set as its author cut them.

    Labels are int64 (n,), -1 where unlabelled (single-label); float32 (n, classes) of 0 and 1, a row of -1 where
    unlabelled (multi-label); or float32 (n,), NaN where unlabelled (regression, whose one class is what it predicts).
    `notes` say what was guessed and what was left out.
    """

    name: str
    train: TextPart
    validation: TextPart | None
    test: TextPart | None
    classes: tuple[str, ...]
    problem: Problem
    notes: tuple[str, ...] = ()


def read_texts(
    source: str,
    *,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    header: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    problem: Problem | None = None,
) -> TextSource:
    """Reads texts and labels from disk, or a data set of the Hugging Face hub.

    Args:
        source: `sst2`, `sms-spam`, `airline-tweets`; `table:PATH` (or any name ending in .tsv, .csv, .jsonl or
            .parquet, gzipped or not), which may be a folder of one table a split; `datasets:NAME-or-path`; or
            `folder:PATH`, a folder of .txt files a class, under train/, val/ and test/ or all together.
        text_column: the column of texts, where it is not a usual one.
        pair_column: the column of what each text is compared with; where no text column is given either, that of the
            usual pairs of columns.
        label_column: the column of labels, where it is not a usual one.
        split_column: the column of a table's splits, `split` by default.
        header: the columns of a TSV or CSV file that does not begin with their names.
        classes: the classes in order, where not every one occurs, or numbers are names.
        problem: what the labels are; guessed from them, which `notes` state, if not given.

    An id is 63 bits of the hash of a text and its pair, and of how often both came before in the part: it outlasts any
    order and addition. A text that is in a later part too (of train, validation and test) is left out of the earlier
    one, and a warning says how many were. A test without labels is left out where there is a validation split.

    Raises:
        LimbeckError: something is missing, broken or not known: one line with the place, the cause and the remedy.
    """
    found = find_tables(source, split_column, header)
    train = found.tables["train"]
    text, pair, label = _columns(found, train, text_column, pair_column, label_column)
    tables, notes = _with_labels(found.tables, label)
    for column, option in ((text, "text_column"), (pair, "pair_column"), (label, "label_column")):
        for table in tables.values():
            if column is not None:
                present(table, column, option)
    labelled = read_labels(
        {part: table.columns[label] for part, table in tables.items()},
        lambda part, row: tables[part].place(row, label),
        what=f"{source}: column {label!r}",
        target=label,
        problem=problem,
        classes=found.classes.get(label) if classes is None else classes,
    )
    if pair_column is None and pair is not None:
        notes.append(f"{source}: each {text!r} is compared with its {pair!r}")
    if labelled.why:
        notes.append(labelled.why)
    unnamed = {
        part: TextPart(
            _texts(table, text),
            None if pair is None else _texts(table, pair),
            labelled.labels[part],
            np.zeros(len(table), np.int64),
        )
        for part, table in tables.items()
    }
    parts, left_out = without_leaks(unnamed, source)
    if left_out:
        notes.append(left_out)
    parts = {part: replace(one, ids=_ids(one)) for part, one in parts.items()}
    return TextSource(
        source,
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        labelled.classes,
        labelled.problem,
        tuple(notes),
    )


def without_leaks(parts: Mapping[str, TextPart], name: str) -> tuple[dict[str, TextPart], str]:
    """The parts without the texts that are in a later one too, spaces aside, and a line that counts them, which is
    logged as a warning; an empty line where there is none.

    Raises:
        LimbeckError: nothing is left of a part.
    """
    kept: dict[str, TextPart] = {}
    later: set[tuple[str, str]] = set()
    counts = []
    for part in reversed([part for part in PARTS if part in parts]):
        one = parts[part]
        keys = [_key(one, row) for row in range(len(one))]
        stays = np.array([key not in later for key in keys], np.bool_)
        left_out = int((~stays).sum())
        if left_out == len(one) and left_out:
            raise LimbeckError(f"{name}: every text of {part} is in a later split too; give splits that differ")
        if left_out:
            counts.append(f"{left_out:,} of {len(one):,} texts of {part}")
        kept[part] = one.take(stays) if left_out else one
        later.update(keys)
    if not counts:
        return dict(parts), ""
    line = f"{name}: {' and '.join(reversed(counts))} are in a later split too; they were left out of the earlier one"
    log.warning("%s", line)
    return {part: kept[part] for part in parts}, line


def _key(part: TextPart, row: int) -> tuple[str, str]:
    pair = "" if part.pairs is None else part.pairs[row]
    return " ".join(part.texts[row].split()), " ".join(pair.split())


def _ids(part: TextPart) -> NDArray[np.int64]:
    names = part.texts if part.pairs is None else list(map("\x1f".join, zip(part.texts, part.pairs, strict=True)))
    before: Counter[str] = Counter()
    lasting = []
    for name in names:
        lasting.append(f"{name}\x1f#{before[name]}" if before[name] else name)
        before[name] += 1
    return text_ids(lasting)


def _texts(table: Table, column: str) -> list[str]:
    values = table.columns[column]
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise LimbeckError(f"{table.place(row, column)}: expected a text, got {value!r}; correct or remove the row")
    return values


def _columns(
    found: Found, train: Table, text: str | None, pair: str | None, label: str | None
) -> tuple[str, str | None, str]:
    """The columns of text, pair and label: those given, those of the source, or usual ones."""
    usual = found.columns or (None, None)
    guessed = text or usual[0] or next((name for name in PAIR_COLUMNS if name in train.columns), None)
    labels = label or usual[1] or next((name for name in LABEL_COLUMNS if name in train.columns), None)
    for what, column in (("text", guessed), ("label", labels)):
        if column is None:
            raise LimbeckError(
                f"{train.what}: no {what} column among {', '.join(train.columns)}; say which it is with {what}_column, "
                "or name the columns with header where the first line is a row"
            )
    assert guessed is not None
    assert labels is not None
    if pair is None and text is None and found.columns is None:
        partner = PAIR_COLUMNS[guessed]
        pair = partner if partner in train.columns else None
    return guessed, pair, labels


def _with_labels(tables: Mapping[str, Table], label: str) -> tuple[dict[str, Table], list[str]]:
    """The tables without a test whose labels its author kept back, if there is a validation split to take its place."""
    test = tables.get("test")
    if test is None or "validation" not in tables:
        return dict(tables), []
    if any(value not in (None, "", -1, "-1") for value in test.columns.get(label, [])):
        return dict(tables), []
    rest = {part: table for part, table in tables.items() if part != "test"}
    return rest, [f"{test.what}: the test has no labels and was left out; the validation split is the test"]
