"""Where a data set's files are: in a folder, or in a zip."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from limbeck.errors import LimbeckError
from limbeck.sources.decode import SUFFIXES, Encoded, Files


class Tree(Protocol):
    """Files by their paths below a root, with / between."""

    def names(self, folder: str = "") -> list[str]:
        """The files below a folder, sorted."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def read(self, name: str) -> bytes:
        """What a file holds. Raises LimbeckError where it cannot be read."""

    def path(self, name: str) -> str:
        """What errors call a file."""

    def encoded(self, names: list[str]) -> Encoded:
        """Image files by row number."""

    def inside(self, folder: str) -> Tree:
        """The tree of a folder in it."""


@dataclass(frozen=True)
class Folder:
    """The files of a folder."""

    root: Path

    def names(self, folder: str = "") -> list[str]:
        """The files below a folder, sorted; hidden ones are left out."""
        base = self.root / folder
        found = (path.relative_to(self.root) for path in base.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes:
        """What a file holds. Raises LimbeckError where it cannot be read."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise LimbeckError(f"{self.path(name)}: cannot be read ({error.strerror or error})") from None

    def path(self, name: str) -> str:
        """What errors call a file."""
        return str(self.root / name)

    def encoded(self, names: list[str]) -> Encoded:
        """Image files by row number."""
        return Files(tuple(self.root / name for name in names))

    def inside(self, folder: str) -> Tree:
        """The tree of a folder in it."""
        return Folder(self.root / folder)


@dataclass(frozen=True)
class Archive:
    """The files of a zip, below a folder in it."""

    file: Path
    below: str = ""

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        return _opened(self.file)

    @cached_property
    def _known(self) -> frozenset[str]:
        start, names = len(self.below), self._zip.namelist()
        return frozenset(each[start:] for each in names if each.startswith(self.below) and not each.endswith("/"))

    def names(self, folder: str = "") -> list[str]:
        """The files below a folder, sorted; hidden ones are left out."""
        start = folder.rstrip("/") + "/" if folder else ""
        found = (each for each in self._known if each.startswith(start))
        return sorted(each for each in found if not any(part.startswith(".") for part in each.split("/")))

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._known

    def read(self, name: str) -> bytes:
        """What a file holds. Raises LimbeckError where it cannot be read."""
        return _member(self._zip, self.below + name, self.path(name))

    def path(self, name: str) -> str:
        """What errors call a file."""
        return f"{self.file}/{self.below}{name}"

    def encoded(self, names: list[str]) -> Encoded:
        """Image files by row number."""
        return _Members(self.file, tuple(self.below + name for name in names))

    def inside(self, folder: str) -> Tree:
        """The tree of a folder in it."""
        return Archive(self.file, f"{self.below}{folder.strip('/')}/")


@dataclass
class _Members:
    """Image files in a zip, which each process opens for itself: the place where a file is read is shared by forks."""

    file: Path
    members: tuple[str, ...]
    _archives: dict[int, zipfile.ZipFile] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.members)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_archives": {}}

    def source(self, row: int) -> bytes:
        """The bytes of an image file."""
        own = os.getpid()
        if own not in self._archives:
            self._archives = {own: _opened(self.file)}
        return _member(self._archives[own], self.members[row], self.name(row))

    def name(self, row: int) -> str:
        """What an error calls the image."""
        return f"{self.file}/{self.members[row]}"


def open_tree(path: str, what: str) -> Tree:
    """The tree of a folder or a zip. `what` says what was looked for. Raises LimbeckError where there is neither."""
    place = Path(path).expanduser()
    if place.is_dir():
        return Folder(place)
    if place.is_file() and place.suffix.lower() == ".zip":
        return Archive(place)
    raise LimbeckError(f"{path}: no such folder or zip; expected {what}")


def rooted(tree: Tree, folders: Sequence[str]) -> Tree:
    """The tree of the folder, at the root or below it, that holds one of `folders`; the whole tree where none does."""
    places = []
    for name in tree.names():
        parts = name.split("/")[:-1]
        places += [parts[:at] for at, part in enumerate(parts) if part in folders]
    nearest = min(places, key=len, default=[])
    return tree.inside("/".join(nearest)) if nearest else tree


def images_in(tree: Tree, folder: str) -> list[str]:
    """The image files below a folder."""
    return [name for name in tree.names(folder) if suffix(name) in SUFFIXES]


def suffix(name: str) -> str:
    """The end of a file's name in small letters, with its dot."""
    last = name.rpartition("/")[2]
    stem, dot, end = last.rpartition(".")
    return f".{end.lower()}" if dot and stem else ""


def stem(name: str) -> str:
    """A path without the end of its file's name."""
    end = suffix(name)
    return name[: len(name) - len(end)] if end else name


def decoded_text(data: bytes, path: str) -> str:
    """The text of a file. Raises LimbeckError where it is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LimbeckError(f"{path}: not a text file in UTF-8") from None


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (OSError, zipfile.BadZipFile) as error:
        raise LimbeckError(f"{file}: not a readable zip ({error}); restore it") from None


def _member(archive: zipfile.ZipFile, name: str, path: str) -> bytes:
    try:
        return archive.read(name)
    except KeyError:
        raise LimbeckError(f"{path}: no such file in the zip") from None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise LimbeckError(f"{path}: cannot be read from the zip ({error}); restore it") from None
