"""Which version of an artifact answers: the newest in its folder that opens and gives answers."""

from __future__ import annotations

import hashlib
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limbeck.artifact import ARTIFACT, Artifact, ArtifactCard, open_artifact
from limbeck.errors import LimbeckError
from limbeck.serve.fields import FIELDS, PICTURES

Seen = tuple[str, tuple[tuple[str, int, int, int], ...]]
"""The checksum of a folder's card, and name, size, time and inode of each of its files."""


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """An open artifact. `name` is the beginning of its card's SHA-256, `since` when it was opened (Unix time)."""

    name: str
    artifact: Artifact
    since: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """A version that was not taken, why, and when that was seen (Unix time)."""

    name: str
    error: str
    at: float


class Live:
    """The artifact of a folder that may be replaced while it is used.

    `current` is read once for each batch: what runs goes on with the version that it began with.

    Raises:
        LimbeckError: there is no artifact, or not one of the `task`.
    """

    def __init__(self, folder: Path, *, threads: int | None = None, task: str | None = None) -> None:
        self.folder, self._threads = folder, threads
        self.current = opened(folder, threads, task)
        self.rejected: Rejected | None = None
        self.changes = {"taken": 0, "refused": 0}
        self._before = self._judged = _seen(folder)

    @property
    def card(self) -> ArtifactCard:
        """Of the version that answers."""
        return self.current.artifact.card

    def look(self) -> str | None:
        """Takes a new version of the folder if there is one that works; what was done, as a line.

        A folder that is not as it was at the last look is left for the next one: it may still be written.
        """
        found = _seen(self.folder)
        if found != self._before:
            self._before = found
            return None
        if found == self._judged:
            return None
        if found[0] == self.current.name:
            self.rejected, self._judged = None, found
            return None
        try:
            version = opened(self.folder, self._threads, self.card.task)
        except Exception as error:  # whatever is wrong with it, the version that is there goes on
            version, reason = None, self.clean(error)
        if _seen(self.folder) != found:
            self._before = ("", ())
            return None
        self._judged = found
        if version is None:
            self.rejected = Rejected(found[0], reason, time.time())
            self.changes["refused"] += 1
            return f"{self.folder}: version {found[0] or '(none)'} is refused, {self.current.name} goes on: {reason}"
        old, self.current, self.rejected = self.current, version, None
        self.changes["taken"] += 1
        return f"{self.folder}: version {version.name} answers in the place of {old.name}"

    def clean(self, error: Exception) -> str:
        """An error's text without the folder's path, which is nothing for strangers."""
        text = (str(error).splitlines() or [""])[0] or type(error).__name__
        for path in (self.folder.resolve(), self.folder.absolute(), self.folder):
            text = text.replace(str(path), self.folder.name)
        return text


def opened(folder: Path, threads: int | None, task: str | None) -> Version:
    """The artifact of a folder, once it has given answers.

    Raises:
        LimbeckError: it cannot be opened or run, is of another task, or is being replaced.
    """
    place = folder.resolve()  # a link may point elsewhere before all is read
    name = _seen(place)[0]
    artifact = open_artifact(place, threads=threads)
    if _seen(place)[0] != name:
        raise LimbeckError(f"{folder}: was replaced while it was opened; try again")
    if task is not None and artifact.card.task != task:
        raise LimbeckError(f"{folder}: is for {artifact.card.task}, expected {task}")
    warm(artifact)
    return Version(name, artifact, time.time())


def warm(artifact: Artifact) -> None:
    """Runs an artifact on one and on two made-up inputs.

    Raises:
        LimbeckError: an answer has a number that is not finite.
    """
    for count in (1, 2):
        answers = artifact.predict([_made_up(artifact.card)] * count)
        try:
            json.dumps(answers, allow_nan=False)
        except ValueError:
            raise LimbeckError(f"{artifact.folder}: its answers are not finite numbers; export it again") from None


def _made_up(card: ArtifactCard) -> Any:
    parts: dict[str, Any] = {}
    for key in FIELDS[card.task].needed:
        parts[key] = _noise(card) if key in PICTURES else "Is this a text? It is one."
    return parts if len(parts) > 1 else next(iter(parts.values()))


def _noise(card: ArtifactCard) -> bytes:
    height, width = card.pixels.size if card.pixels is not None else (32, 32)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "png")
        return file.getvalue()


def _seen(folder: Path) -> Seen:
    """Of a folder that is not there, or without a card, the first is empty."""
    try:
        name = hashlib.sha256((folder / ARTIFACT).read_bytes()).hexdigest()[:12]
        found = [(each.name, each.stat()) for each in sorted(folder.iterdir())]
    except OSError:
        return "", ()
    return name, tuple((each, stat.st_size, stat.st_mtime_ns, stat.st_ino) for each, stat in found)
