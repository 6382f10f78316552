"""What an input of each task has, and whether what a client sent is one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.artifact import ArtifactCard
from limbeck.serve.limits import Limits
from limbeck.serve.picture_checks import check_picture
from limbeck.serve.refusals import Refused


@dataclass(frozen=True, slots=True)
class Fields:
    """The parts that an input must have, and may have."""

    needed: tuple[str, ...]
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.needed) + "".join(f", {each} if you like" for each in self.more)


FIELDS: Mapping[str, Fields] = {
    "image-classification": Fields(("picture",)),
    "object-detection": Fields(("picture",)),
    "pose-estimation": Fields(("picture",), ("box",)),
    "face-recognition": Fields(("picture",), ("other",)),
    "text-classification": Fields(("text",), ("pair",)),
    "question-answering": Fields(("question", "context")),
    "translation": Fields(("text",)),
    "language-modelling": Fields(("text",)),
}
"""By task the parts of an input."""
PICTURES = frozenset({"picture", "other"})
"""Parts that are pictures; of the others all but the box are texts."""


def checked(card: ArtifactCard, items: Sequence[Mapping[str, Any]], limits: Limits) -> list[Any]:
    """The inputs of a request as the artifact takes them, of parts that are bytes (pictures), texts and a box.

    Raises:
        Refused: a part is missing, unknown, or not what it should be, or the pictures have too many pixels.
    """
    inputs, pixels = [], 0
    for number, item in enumerate(items):
        given, own = _checked(card, item, number, limits, limits.pixels - pixels)
        inputs.append(given)
        pixels += own
    return inputs


def _checked(card: ArtifactCard, item: Mapping[str, Any], number: int, limits: Limits, left: int) -> tuple[Any, int]:
    """An input, and how many of the pixels that are left it has."""
    fields = FIELDS[card.task]
    for key in fields.needed:
        if item.get(key) is None:
            raise Refused(422, f"input {number}: has no {key!r}; this server is for {_spoken(card)}: give {fields}")
    for key in item:
        if key not in (*fields.needed, *fields.more):
            raise Refused(422, f"input {number}: unknown part {key!r:.60}; give {fields}")
    found: dict[str, Any] = {}
    size, pixels = (0, 0), 0
    for key, value in item.items():
        if value is None or key == "box":
            continue
        if key in PICTURES:
            if not isinstance(value, bytes):
                raise Refused(422, f"input {number}: {key}: expected a picture, got {type(value).__name__}")
            size = check_picture(value, f"input {number}: {key}", card.pixels, limits, left - pixels)
            pixels += size[0] * size[1]
        else:
            check_text(value, f"input {number}: {key}", limits)
        found[key] = value
    if item.get("box") is not None:
        found["box"] = _box(item["box"], number, max(size))
    return (found if len(found) > 1 else found[fields.needed[0]]), pixels


def check_text(value: Any, name: str, limits: Limits) -> None:
    """Raises Refused where it is no text, too long, or cannot be written in any encoding."""
    if not isinstance(value, str):
        raise Refused(422, f"{name}: expected a text, got {type(value).__name__}")
    if len(value) > limits.characters:
        raise Refused(
            422,
            f"{name}: has {len(value):,} characters, {limits.characters:,} are the most; send a part of it (whoever "
            "runs the server: --max-characters)",
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(422, f"{name}: has half of a surrogate pair; correct its encoding") from None


def _box(value: Any, number: int, longest: int) -> list[float]:
    name = f"input {number}: box"
    edges = value.split(",") if isinstance(value, str) else value
    try:
        if not isinstance(edges, list) or any(isinstance(each, bool) for each in edges):
            raise TypeError
        left, top, right, bottom = (float(each) for each in edges)
    except (TypeError, ValueError, OverflowError):
        raise Refused(422, f"{name}: expected left, top, right, bottom in pixels, got {value!r:.60}") from None
    box = [left, top, right, bottom]
    if not all(map(math.isfinite, box)):
        raise Refused(422, f"{name}: expected finite numbers, got {value!r:.60}")
    if right - left < 1 or bottom - top < 1:
        raise Refused(422, f"{name}: {value!r:.60} is less than a pixel wide or high; give left, top, right, bottom")
    if min(box) < -longest or max(box) > 2 * longest:
        raise Refused(
            422, f"{name}: {value!r:.60} is far outside of the picture, whose longer side has {longest} pixels"
        )
    return box


def _spoken(card: ArtifactCard) -> str:
    return card.task.replace("-", " ")
