"""Verification pairs: read from a file, or made of the pictures of a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.sources.ids import text_ids
from limbeck.sources.splits import SPLIT_SEED, Integers
from limbeck.sources.views import keys, uniform

FOLDS = 10
EACH = 300
"""Pairs of one person, and as many of two, that a fold of made pairs has at most: as in LFW's."""
PAIRED = 3
"""What the draws of pairs are for, beside those of `limbeck.sources.splits`."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Which pictures of a split are compared: positions `first` and `second` (pairs,) int64, whether both show the
    `same` person (pairs,) boolean, and in which of the folds each pair is (pairs,) int64."""

    first: Tensor
    second: Tensor
    same: Tensor
    folds: Tensor

    def __len__(self) -> int:
        return len(self.same)

    def among(self, positions: Tensor, count: int) -> Pairs:
        """The pairs whose pictures are at `positions` (kept,) of `count`, which are then 0, 1, 2, …"""
        places = torch.full((count,), -1)
        places[positions] = torch.arange(len(positions))
        first, second = places[self.first], places[self.second]
        kept = (first >= 0) & (second >= 0)
        return Pairs(first[kept], second[kept], self.same[kept], self.folds[kept])


@dataclass(frozen=True, slots=True)
class Line:
    """A pair of a pairs file by the names of its pictures, and where it says so."""

    first: str
    second: str
    same: bool
    where: str


def read_pairs(path: Path, pictures: Sequence[str]) -> tuple[list[Line], NDArray[np.int64]]:
    """The lines of a pairs file as `parse_pairs` reads them.

    Raises:
        LimbeckError: there is no such file, it is no text, or as `parse_pairs`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LimbeckError(f"{path}: not a readable pairs file ({error}); give one in UTF-8") from None
    return parse_pairs(text, str(path), pictures)


def parse_pairs(text: str, where: str, pictures: Sequence[str]) -> tuple[list[Line], NDArray[np.int64]]:
    """The pairs of a file, and the fold (pairs,) of each.

    A line is one of LFW's, `NAME 1 4` (two pictures of one person) or `NAME 2 OTHER 3`, whose pictures are
    NAME/NAME_0001 with any ending, or two paths and 1 (same) or 0, with tabs, spaces or commas between. LFW's first
    line, `10 300`, says how many folds there are and how many pairs of each kind a fold has; without it, and of one
    fold, they are `ten_folds`.

    Args:
        pictures: relative paths of the pictures that there are.

    Raises:
        LimbeckError: naming the line that is no pair, or names a picture that there is not; or there are not as many
            lines as the first says.
    """
    known = {each: each for each in pictures} | {each.rpartition(".")[0]: each for each in pictures}
    rows = [(at, line.strip()) for at, line in enumerate(text.splitlines(), 1) if line.strip()]
    head: list[int] | None = None
    if rows and all(part.isdecimal() for part in rows[0][1].split()) and len(rows[0][1].split()) <= 2:
        head = [1, *map(int, rows[0][1].split())][-2:]
        rows = rows[1:]
    lines = [_line(row, f"{where}: line {at}", known) for at, row in rows]
    if not lines:
        raise LimbeckError(f"{where}: no pairs in it; give a file in LFW's form, or two paths and 1 or 0 a line")
    same = np.array([line.same for line in lines])
    if same.all() or not same.any():
        raise LimbeckError(f"{where}: all pairs are of one kind; verification needs pairs of one person and of two")
    if head is None:
        return lines, ten_folds(same)
    count, each_kind = head
    wanted = count * 2 * each_kind
    if len(lines) != wanted:
        apart = f"{wanted - len(lines)} are missing" if len(lines) < wanted else f"{len(lines) - wanted} are too many"
        raise LimbeckError(
            f"{where}: its first line says {count} {'fold' if count == 1 else 'folds'} of {each_kind} pairs of one "
            f"person and {each_kind} of two, {wanted} lines, and there are {len(lines)}: {apart}; correct the first "
            "line, or restore the file"
        )
    return lines, ten_folds(same) if count == 1 else np.arange(len(lines)) // (2 * each_kind)


def _line(row: str, where: str, known: Mapping[str, str]) -> Line:
    parts = row.split("\t") if "\t" in row else row.replace(",", " ").split()
    if len(parts) == 3 and not parts[1].isdecimal() and parts[2] in ("0", "1"):
        named = (parts[0], parts[1], parts[2] == "1")
    elif len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
        named = (_numbered(parts[0], parts[1]), _numbered(parts[0], parts[2]), True)
    elif len(parts) == 4 and parts[1].isdecimal() and parts[3].isdecimal():
        named = (_numbered(parts[0], parts[1]), _numbered(parts[2], parts[3]), False)
    else:
        raise LimbeckError(
            f"{where}: expected NAME 1 4, or NAME 2 OTHER 3, or two paths and 1 or 0, got {row!r:.80}; correct the line"
        )
    for name in named[:2]:
        if name not in known:
            raise LimbeckError(
                f"{where}: there is no picture {name!r} in the test data; restore it, or take out the line"
            )
    return Line(known[named[0]], known[named[1]], named[2], where)


def _numbered(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04}"


def ten_folds(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ten folds (pairs,), the same in every run, fewer of few pairs: each has a tenth of each kind, to one pair.

    Which pairs are together is drawn, as files are sorted by name: of neighbours, a fold would have a few persons only.
    """
    folds = np.empty(len(same), np.int64)
    for kind in (True, False):
        mine = np.flatnonzero(same == kind)
        drawn = mine[np.argsort(keys(SPLIT_SEED, PAIRED, mine), kind="stable")]
        folds[drawn] = np.arange(len(mine)) % FOLDS
    return folds


def made_pairs(labels: Tensor, identities: Sequence[str], ids: Tensor, where: str) -> Pairs:
    """Pairs of a split's pictures, the same in every run: in ten folds that share no person (fewer where there are not
    twenty), each with as many pairs of one person as there are, at most 300, and as many of two.

    Args:
        labels: (n,) int64, which of `identities` a picture shows.
        ids: (n,) int64.

    Raises:
        LimbeckError: there are not four persons, two of them with two pictures or more, or one is not known.
    """
    owners, own_ids = labels.numpy(), ids.numpy()
    if (owners < 0).any():
        raise LimbeckError(
            f"{where}: {int((owners < 0).sum())} pictures are of unknown persons, of whom nobody can say whether they "
            "are one; name them, or take them out"
        )
    present, counts = np.unique(owners, return_counts=True)
    folds = min(FOLDS, len(present) // 2)
    if folds < 2 or int((counts > 1).sum()) < 2:
        raise LimbeckError(
            f"{where}: verification pairs need at least four persons, two of them with two pictures or more, got "
            f"{len(present)} with {int((counts > 1).sum())}; give more, or hold out more"
        )
    # Those with several pictures first, so that every fold has some as long as there are enough.
    drawn = keys(SPLIT_SEED, PAIRED, text_ids([identities[at] for at in present]))
    order = present[np.lexsort((drawn, counts == 1))]
    fold_of = {int(person): at % folds for at, person in enumerate(order)}
    of_picture = np.array([fold_of[person] for person in owners.tolist()])
    found: list[tuple[int, int, bool, int]] = []
    for fold in range(folds):
        mine = np.flatnonzero(of_picture == fold)
        mine = mine[np.argsort(keys(SPLIT_SEED, PAIRED, own_ids[mine]), kind="stable")]
        alike = [
            pair
            for person in np.unique(owners[mine])
            for pair in combinations(mine[owners[mine] == person].tolist(), 2)
        ]
        chosen = np.argsort(keys(SPLIT_SEED, fold, np.arange(len(alike))), kind="stable")[:EACH]
        found += [(*alike[at], True, fold) for at in chosen]
        found += [(*pair, False, fold) for pair in _strangers(mine, owners, max(1, len(chosen)), fold)]
    columns = [torch.tensor(column) for column in zip(*found, strict=True)]
    return Pairs(*columns)


def _strangers(mine: Integers, owners: Integers, wanted: int, fold: int) -> list[tuple[int, int]]:
    """Up to `wanted` pairs of pictures of two persons."""
    draws = keys(SPLIT_SEED, PAIRED + fold, np.arange(8 * wanted))
    ends = [mine[(uniform(draws, stream) * len(mine)).astype(np.int64)] for stream in (0, 1)]
    apart = owners[ends[0]] != owners[ends[1]]
    pairs = zip(*(np.sort(np.stack(ends), axis=0)[:, apart].tolist()), strict=True)
    return list(dict.fromkeys(pairs))[:wanted]
