"""What a user gives an artifact: pictures, texts, and objects of several parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError


def picture_of(given: Any, number: int) -> tuple[Path | bytes, str]:
    """A picture and what errors call it; of an object its `picture`."""
    found = given.get("picture") if isinstance(given, Mapping) else given
    if isinstance(found, bytes):
        return found, f"picture {number}"
    if isinstance(found, str | Path):
        return Path(found), str(found)
    raise LimbeckError(f"input {number}: expected a picture, its file or its bytes, got {_shown(given)}")


def text_of(given: Any, number: int, key: str = "text") -> str:
    """A text; of an object its `text`."""
    found = given.get(key) if isinstance(given, Mapping) else given
    if not isinstance(found, str):
        raise LimbeckError(f"input {number}: expected a text, or an object with {key!r}, got {_shown(given)}")
    return found


def both_of(given: Any, number: int, keys: tuple[str, str]) -> tuple[Any, Any]:
    """The two parts of a pair, or of an object with these keys."""
    if isinstance(given, Mapping) and all(key in given for key in keys):
        return given[keys[0]], given[keys[1]]
    if isinstance(given, Sequence) and not isinstance(given, str | bytes) and len(given) == 2:
        return given[0], given[1]
    raise LimbeckError(f"input {number}: expected an object with {keys[0]!r} and {keys[1]!r}, got {_shown(given)}")


def has_pair(given: Any, key: str) -> bool:
    """Whether there is a second part."""
    pair = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    return pair or (isinstance(given, Mapping) and key in given)


def _shown(given: Any) -> str:
    return f"{given!r:.60}" if isinstance(given, str | Mapping) else type(given).__name__
