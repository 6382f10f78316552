"""Faces by name: splits that share no person, verification pairs, one size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.decode import Encoded, decoded
from limbeck.sources.faces.pairs import Line, Pairs, made_pairs, parse_pairs, read_pairs
from limbeck.sources.faces.reading import NOBODY, FacePart, FaceSource, read_datasets, read_folder, read_lfw
from limbeck.sources.faces.sets import FaceData, FaceSet
from limbeck.sources.ids import text_ids
from limbeck.sources.names import TEST_SHARE
from limbeck.sources.pixels import Images
from limbeck.sources.splits import SPLIT_SEED, TEST, VALIDATION
from limbeck.sources.views import keys
from limbeck.types import UNLABELLED, Preprocessing

KINDS = ("lfw", "folder:", "datasets:")
HALF = 0.5
"""Mean and deviation of all pixels, as face models have it: `(x / 255 - 0.5) / 0.5`."""

ALIGNED_ON = 2000
"""Training pictures on which a student's embeddings are aligned with a teacher's."""

Mask = NDArray[np.bool_]


def load_faces(
    source: str,
    *,
    size: int | None = None,
    validation: float = 0.1,
    test: str | None = None,
    pairs: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> FaceData:
    """Loads pictures of persons, split so that nobody is in two splits.

    Args:
        source: `lfw`, `folder:PATH` (a folder of pictures a person) or `datasets:NAME-or-path`.
        size: height and width in pixels; the pictures' own (at most 224) by default.
        validation: the share of the training persons to hold out, where the author cut no validation split.
        test: another folder of such folders to measure on. Without it, and without a test split, it is the persons
            whom the pairs file names, or a fifth of all.
        pairs: a pairs file of the test pictures (see `parse_pairs`); without it pairs are made (see `made_pairs`).
        image_column, label_column: of a data set, where they are not the usual ones.

    Raises:
        LimbeckError: what is missing or broken, or a person who is in two splits.
    """
    found = _read(source, test, image_column, label_column)
    parts = dict(found.parts)
    train = parts["train"]
    listed: tuple[list[Line], NDArray[np.int64]] | None = None
    whole = parts.get("test", train)
    if pairs is not None and not whole.paths:
        raise LimbeckError(f"data.pairs: {source} has no names of pictures; leave it out, and pairs are made")
    if pairs is not None:
        listed = read_pairs(Path(pairs).expanduser(), whole.paths)
    elif found.pairs is not None:
        listed = parse_pairs(*found.pairs, whole.paths)
    if listed is not None:
        _of_somebody(listed[0], whole)
    if "test" not in parts:
        parts["test"], train = _cut(train, _tested(train, listed))
    if "validation" not in parts:
        if not 0 < validation < 1:
            raise LimbeckError(f"validation: expected a share between 0 and 1, got {validation}")
        parts["validation"], train = _cut(train, _held_out(train, validation, VALIDATION, source))
    parts["train"] = train
    _disjoint(parts, source)
    images = decoded({name: parts[name].encoded for name in parts}, size)
    splits = {name: _set(parts[name], images[name], f"{source} {name}") for name in ("train", "validation", "test")}
    for name in ("validation", "test"):
        split, own = splits[name], listed if name == "test" else None
        splits[name] = split.paired(
            made_pairs(split.labels, split.classes, split.ids, split.name) if own is None else _placed(own, parts[name])
        )
    tested = splits["test"].beside(splits["train"], ALIGNED_ON)
    return FaceData(source, splits["train"], splits["validation"], tested)


def _read(source: str, test: str | None, image_column: str | None, label_column: str | None) -> FaceSource:
    kind, _, rest = source.partition(":")
    if test is not None and kind != "folder":
        raise LimbeckError("data.test: is of folder:PATH; leave it out")
    if source == "lfw":
        return read_lfw()
    if kind == "folder" and rest:
        return read_folder(rest, test)
    if kind == "datasets" and rest:
        return read_datasets(rest, image_column, label_column)
    raise LimbeckError(f"data {source!r} is not known as faces{nearest(source, KINDS)}")


def _of_somebody(lines: Sequence[Line], part: FacePart) -> None:
    """Raises LimbeckError where a line names a picture of a person who is not known."""
    person = dict(zip(part.paths, part.persons, strict=True))
    for line in lines:
        for name in (line.first, line.second):
            if person[name] == NOBODY:
                raise LimbeckError(
                    f"{line.where}: nobody knows who is in {name!r}; put it into a folder of the person's, or take out "
                    "the line"
                )


def _tested(train: FacePart, listed: tuple[list[Line], NDArray[np.int64]] | None) -> Mask:
    """Which pictures are the test's, where nobody cut one."""
    if listed is None:
        return _held_out(train, TEST_SHARE, TEST, "test")
    person = dict(zip(train.paths, train.persons, strict=True))
    named = {person[name] for line in listed[0] for name in (line.first, line.second)}
    return np.array([each in named for each in train.persons])


def _held_out(part: FacePart, share: float, purpose: int, where: str) -> Mask:
    """The pictures of a share of the persons, four of them at least; first those with several pictures."""
    persons, counts = np.unique([each for each in part.persons if each != NOBODY], return_counts=True)
    take = max(4, round(share * len(persons)))
    if take >= len(persons):
        raise LimbeckError(
            f"{where}: cannot hold out {take} of {len(persons)} persons; give more persons, or splits of your own"
        )
    order = np.lexsort((keys(SPLIT_SEED, purpose, text_ids(persons.tolist())), counts == 1))
    held = set(persons[order[:take]].tolist())
    return np.array([each in held for each in part.persons])


def _cut(part: FacePart, mask: Mask) -> tuple[FacePart, FacePart]:
    """The pictures of a mask, and the others."""
    if mask.all():
        raise LimbeckError("the train split is empty: all persons are held out; give persons to train on")
    held, stays = (
        FacePart(
            _Chosen(part.encoded, np.flatnonzero(each)),
            tuple(part.persons[at] for at in np.flatnonzero(each)),
            part.ids[each],
            tuple(part.paths[at] for at in np.flatnonzero(each)) if part.paths else (),
        )
        for each in (mask, ~mask)
    )
    return held, stays


class _Chosen:
    """Some of the encoded pictures of another set."""

    def __init__(self, encoded: Encoded, rows: NDArray[np.int64]) -> None:
        self.encoded, self.rows = encoded, rows

    def __len__(self) -> int:
        return len(self.rows)

    def source(self, row: int) -> Path | bytes:
        """The picture's file or bytes."""
        return self.encoded.source(int(self.rows[row]))

    def name(self, row: int) -> str:
        """What an error calls the picture."""
        return self.encoded.name(int(self.rows[row]))


def _disjoint(parts: dict[str, FacePart], where: str) -> None:
    """Raises LimbeckError where a person is in two splits."""
    names = sorted(parts)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            both = sorted((set(parts[one].persons) & set(parts[other].persons)) - {NOBODY})
            if both:
                raise LimbeckError(
                    f"{where}: {both[0]!r} is in {one} and in {other} ({len(both)} persons are in both); a model must "
                    "be measured on persons that it has not seen: take them out of one"
                )


def _set(part: FacePart, images: Images, name: str) -> FaceSet:
    persons = sorted(set(part.persons) - {NOBODY})
    index = {person: number for number, person in enumerate(persons)} | {NOBODY: UNLABELLED}
    height, width = images.take(torch.tensor([0])).shape[2:]
    channels = images.take(torch.tensor([0])).shape[1]
    preprocessing = Preprocessing((height, width), channels, (HALF,) * channels, (HALF,) * channels)
    labels = torch.tensor([index[person] for person in part.persons])
    return FaceSet(images, labels, torch.from_numpy(part.ids), persons, preprocessing, name=name)


def _placed(listed: tuple[Sequence[Line], NDArray[np.int64]], part: FacePart) -> Pairs:
    """The pairs of a file by the positions of their pictures; a line that says what the folders do not is an error."""
    lines, folds = listed
    places = {path: at for at, path in enumerate(part.paths)}
    first, second = (
        torch.tensor([places[name] for name in names])
        for names in zip(*((x.first, x.second) for x in lines), strict=True)
    )
    for line, a, b in zip(lines, first.tolist(), second.tolist(), strict=True):
        if (part.persons[a] == part.persons[b]) != line.same:
            said = "one person" if line.same else "two persons"
            raise LimbeckError(
                f"{line.where}: says that {line.first} and {line.second} show {said}, and their folders say otherwise; "
                "correct one of them"
            )
    same = np.array([line.same for line in lines])
    return Pairs(first, second, torch.from_numpy(same), torch.from_numpy(folds))
