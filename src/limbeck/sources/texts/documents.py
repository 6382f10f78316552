"""Documents to learn a language from, by name: the texts of train, validation and test."""

from __future__ import annotations

import gzip
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.hub import load_splits
from limbeck.sources.parts import SPLIT_NAMES
from limbeck.sources.places import VARIABLE, cache_root, data_root, find

TEST_SHARE = 0.1
"""What is held out for the test where the author cut none."""

SUFFIXES = (".txt", ".txt.gz", ".gz")

Apart = Literal["file", "blank-line"]
APART: tuple[Apart, ...] = ("file", "blank-line")

_TITLE = re.compile(r"(?m)^ \n(?= = [^=\n].*? = \n \n)")
"""Where an article of WikiText begins: a title stands alone between empty lines, a formula's line does not."""


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of each split, in their order. `notes` are what a reader of results must know of them."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_documents(
    name: str, *, validation: float = 0.1, apart: Apart = "file", column: str | None = None
) -> Documents:
    """Loads documents by name, from disk or a Hugging Face data set.

    Args:
        name: `wikitext2`, `tinyshakespeare`, `text:PATH` (a .txt or .gz file, or a folder of them, in which files or
            folders called train, validation and test are those splits), or `datasets:NAME-or-path`, a document a row.
        validation: the share of the training text's characters to hold out, where the author cut no validation split.
        apart: what a document of `text:` is: a whole file, or what stands between blank lines.
        column: the column of a data set that has the texts, where it is not called text.

    What is held out is the end, as a language model's test is what comes later: whole documents, or where there are
    too few of these the last lines of one. `wikitext2` is cut as its authors did where its train file is there, else it
    learns from the original validation file, and its `notes` say so: such a perplexity compares with no published one.
    `tinyshakespeare` has its usual last tenth as test.

    Raises:
        LimbeckError: the text is missing, empty, or not UTF-8; or an option does not fit.
    """
    if not 0 < validation < 1:
        raise LimbeckError(f"validation: expected a share between 0 and 1, got {validation}; 0.1 holds out a tenth")
    if apart not in APART:
        raise LimbeckError(f"documents: unknown apart {apart!r}{nearest(str(apart), APART)}")
    kind, _, rest = name.partition(":")
    known: dict[str, Callable[[float], Documents]] = {"wikitext2": _wikitext, "tinyshakespeare": _shakespeare}
    if name in known:
        return known[name](validation)
    if kind == "text" and rest:
        return _documents(name, _files(Path(rest).expanduser(), apart), validation)
    if kind == "datasets" and rest:
        return _documents(name, _columns(rest, column), validation)
    forms = {*known, "text:PATH", "datasets:NAME"}
    raise LimbeckError(f"unknown text {name!r}{nearest(name, forms)}")


def cut(documents: Sequence[str], share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The documents, and those at their end that have about `share` of all characters.

    Where no two documents part within half of that share, one is cut behind a line.
    """
    ends = list(accumulate(map(len, documents)))
    joined = ends[-1] - max(1, round(ends[-1] * share))
    nearest_end = min(ends[:-1], key=lambda end: abs(end - joined), default=0)
    if nearest_end and abs(nearest_end - joined) <= (ends[-1] - joined) / 2:
        number = ends.index(nearest_end) + 1
        return tuple(documents[:number]), tuple(documents[number:])
    number = bisect_right(ends, joined)
    document = documents[number]
    at = _line_end(document, joined - ends[number] + len(document))
    return _whole([*documents[:number], document[:at]]), _whole([document[at:], *documents[number + 1 :]])


def _line_end(text: str, at: int) -> int:
    """The place behind the line that holds `at`; behind its word where the text has no lines, `at` itself at worst."""
    for mark in ("\n", " "):
        found = text.find(mark, at)
        if 0 <= found < len(text) - 1:
            return found + 1
        found = text.rfind(mark, 0, at)
        if found > 0:
            return found + 1
    return at


def _whole(documents: Sequence[str]) -> tuple[str, ...]:
    return tuple(document for document in documents if document.strip())


def _documents(name: str, parts: Mapping[str, Sequence[str]], validation: float, *notes: str) -> Documents:
    """The three splits from those that there are."""
    kept = {split: _whole(texts) for split, texts in parts.items()}
    for split in ("train", *kept):
        if not kept.get(split):
            raise LimbeckError(f"{name}: no text in {split}; give one or more documents that are not empty")
    train = kept["train"]
    if "test" not in kept and "validation" in kept:
        kept["test"] = kept.pop("validation")
    for split, share in (("test", TEST_SHARE), ("validation", validation)):
        if split not in kept:
            train, kept[split] = cut(train, share)
        if not train or not kept[split]:
            raise LimbeckError(f"{name}: the text is too short to hold out a {split} split; give more text")
    return Documents(name, train, kept["validation"], kept["test"], notes)


def _wikitext(validation: float) -> Documents:
    train, middle, test = (find([f"text/wikitext2_{part}.txt.gz"]) for part in ("train", "valid", "test"))
    if test is None or middle is None:
        raise _missing("wikitext2", "text/wikitext2_valid.txt.gz and text/wikitext2_test.txt.gz")
    files = {"train": train or middle, "validation": middle, "test": test}
    notes = []
    if train is None:
        del files["validation"]
        notes.append(
            "learned from WikiText-2's validation file, as its train file is missing: no published value compares"
        )
    parts = {split: _TITLE.split(_read(file)) for split, file in files.items()}
    return _documents("wikitext2", parts, validation, *notes)


def _shakespeare(validation: float) -> Documents:
    file = find(["text/tinyshakespeare.txt.gz", "text/tinyshakespeare.txt"])
    if file is None:
        raise _missing("tinyshakespeare", "text/tinyshakespeare.txt.gz")
    text = _read(file)
    first = int(0.9 * len(text))
    return _documents("tinyshakespeare", {"train": [text[:first]], "test": [text[first:]]}, validation)


def _missing(name: str, files: str) -> LimbeckError:
    return LimbeckError(
        f"{name}: {files} is neither in {data_root()} nor in {cache_root()}; put it there, or set {VARIABLE} to the "
        "folder that has it"
    )


def _files(path: Path, apart: Apart) -> dict[str, list[str]]:
    """The documents of a file or folder by split; what no name puts elsewhere is train."""
    if not path.exists():
        raise LimbeckError(f"text:{path}: no such file or folder")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.lower().endswith(SUFFIXES))
    if not files:
        raise LimbeckError(f"text:{path}: the folder has no file that ends in {', '.join(SUFFIXES)}")
    parts: dict[str, list[str]] = {}
    for file in files:
        own = file.name.split(".")[0].lower()
        names = (*file.relative_to(path).parts[:-1], own) if path.is_dir() else ()
        split = next((SPLIT_NAMES[each.lower()] for each in names if each.lower() in SPLIT_NAMES), "train")
        text = _read(file)
        parts.setdefault(split, []).extend(re.split(r"\n[ \t]*\n\s*", text) if apart == "blank-line" else [text])
    return parts


def _read(file: Path) -> str:
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8-sig") as handle:
            text: str = handle.read()
            return text
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LimbeckError(f"{file}: not a readable text ({error}); save it again as UTF-8") from None


def _columns(source: str, column: str | None) -> dict[str, list[str]]:
    """The texts of a data set's column by split."""
    parts: dict[str, list[str]] = {}
    for split, data in load_splits(source).items():
        name = column or "text"
        if name not in data.column_names:
            raise LimbeckError(
                f"datasets:{source}: no column {name!r}{nearest(name, data.column_names)}; say which has the texts "
                "with column"
            )
        parts[split] = [text or "" for text in data[name]]
    return parts
