"""Pictures of persons from where they are: LFW as a zip, folders, or a data set of `datasets`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np

from limbeck.errors import LimbeckError
from limbeck.sources import hub
from limbeck.sources.decode import SUFFIXES, Encoded, Files
from limbeck.sources.folders import UNLABELLED_FOLDER
from limbeck.sources.ids import text_ids
from limbeck.sources.parts import SPLIT_NAMES, Integers
from limbeck.sources.places import VARIABLE, data_root, find
from limbeck.types import UNLABELLED

LFW = "lfw_aligned112.zip"
NOBODY = ""
"""Who is in a picture of which that is not known."""


@dataclass(frozen=True, slots=True)
class FacePart:
    """Encoded pictures, who is in each (`NOBODY`: not known), their relative paths where they have some, and ids."""

    encoded: Encoded
    persons: tuple[str, ...]
    ids: Integers
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FaceSource:
    """The parts that there are by name: `train`, and `validation` and `test` where the author cut them; and the text of
    a pairs file, by what errors call it."""

    parts: Mapping[str, FacePart]
    pairs: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Encoded pictures in memory, with what errors call each."""

    names: tuple[str, ...]
    contents: tuple[bytes, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def source(self, row: int) -> bytes:
        """The picture's bytes."""
        return self.contents[row]

    def name(self, row: int) -> str:
        """What an error calls the picture."""
        return self.names[row]


def read_lfw() -> FaceSource:
    """Labeled Faces in the Wild, aligned to 112 pixels, as a zip of `images`, `train.txt`, `test.txt` and
    `pairs_test.txt` in the data root.

    Raises:
        LimbeckError: it is not there, or broken.
    """
    path = find((LFW,))
    if path is None:
        raise LimbeckError(
            f"lfw: {LFW} is not in {data_root()}; set {VARIABLE} to the folder that has it, or give folder:PATH with "
            "one folder of pictures a person"
        )
    member = "train.txt"
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {}
            for split in ("train", "test"):
                member = f"{split}.txt"
                listed = archive.read(member).decode("utf-8").split()
                contents = []
                for name in listed:
                    member = f"images/{name}"
                    contents.append(archive.read(member))
                held = Held(tuple(f"{path}: images/{name}" for name in listed), tuple(contents))
                persons = tuple(name.partition("/")[0] for name in listed)
                parts[split] = FacePart(held, persons, text_ids(listed), tuple(listed))
            member = "pairs_test.txt"
            pairs = archive.read(member).decode("utf-8")
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise LimbeckError(f"{path}: cannot read {member} ({error}); restore the file") from None
    return FaceSource(parts, (pairs, f"{path}: pairs_test.txt"))


def read_folder(path: str, test: str | None = None) -> FaceSource:
    """`folder:PATH`: a folder of pictures a person, under train/, val/ and test/ or all together; `test` is another
    such folder to measure on. A folder `unlabelled` has training pictures of persons that are not known.

    Raises:
        LimbeckError: there is nothing to read.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise LimbeckError(f"folder:{path}: no such folder; it must hold one folder of pictures a person")
    named = {SPLIT_NAMES[sub.name.lower()]: sub for sub in _folders(root) if sub.name.lower() in SPLIT_NAMES}
    places = {part: (folder, root) for part, folder in (named if "train" in named else {"train": root}).items()}
    if test is not None:
        own = Path(test).expanduser()
        if not own.is_dir():
            raise LimbeckError(f"data.test: {test}: no such folder; it must hold one folder of pictures a person")
        places["test"] = (own, own)
    return FaceSource({part: _read_persons(folder, above, part) for part, (folder, above) in places.items()})


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_persons(folder: Path, above: Path, part: str) -> FacePart:
    files: list[Path] = []
    persons: list[str] = []
    for sub in _folders(folder):
        found = sorted(file for file in sub.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        person = NOBODY if sub.name == UNLABELLED_FOLDER else sub.name
        if person == NOBODY and part != "train":
            raise LimbeckError(
                f"{sub}: only training pictures may be of unknown persons; name them, or remove the folder"
            )
        files += found
        persons += [person] * len(found)
    if not files:
        raise LimbeckError(
            f"{folder}: the {part} split is empty; expected one folder of pictures a person "
            f"({', '.join(sorted(SUFFIXES))})"
        )
    # A pairs file names pictures by the person's folder; ids say where in the data they are, which split too.
    paths = tuple(file.relative_to(folder).as_posix() for file in files)
    ids = text_ids([file.relative_to(above).as_posix() for file in files])
    return FacePart(Files(tuple(files)), tuple(persons), ids, paths)


def read_datasets(name: str, image_column: str | None, label_column: str | None) -> FaceSource:
    """`datasets:NAME-or-path`: a column of images and one of persons.

    Raises:
        LimbeckError: it cannot be loaded, or a column is not clear.
    """
    where = f"datasets:{name}"
    splits = hub.load_splits(name)
    features = splits["train"].features
    image = hub.image_column_of(features, image_column, where)
    label = hub.label_column_of(features, label_column, where)
    kind = features[label]
    parts, first = {}, 0
    for part, data in splits.items():
        values = [kind.int2str(value) if isinstance(kind, datasets.ClassLabel) and value is not None and value >= 0
                  else value for value in data[label]]  # fmt: skip
        persons = tuple(NOBODY if value in (None, UNLABELLED, str(UNLABELLED)) else str(value) for value in values)
        if part != "train" and NOBODY in persons:
            raise LimbeckError(
                f"{where}: {persons.count(NOBODY)} pictures of the {part} split are of unknown persons, and only "
                f"training pictures may be; name them in {label!r}, or take them out"
            )
        encoded = hub.ArrowColumn(
            data.select_columns([image]).cast_column(image, datasets.Image(decode=False)), image, where
        )
        parts[part] = FacePart(encoded, persons, np.arange(first, first + len(persons), dtype=np.int64))
        first += len(persons)
    return FaceSource(parts)
