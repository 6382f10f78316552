"""The files beside `results.json`: what they hold, checked as they are read."""

from __future__ import annotations

from collections.abc import Sized
from pathlib import Path
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from limbeck.errors import LimbeckError
from limbeck.files import read_json
from limbeck.report.groups import Group

EXAMPLES = Path("details") / "examples.json"

M = TypeVar("M", bound=BaseModel)


class Curve(BaseModel):
    """A precision–recall curve, recall rising."""

    recall: list[float]
    precision: list[float]


class Curves(BaseModel):
    """All decisions in one ranking, and one class against the rest, by class name."""

    micro: Curve
    per_class: dict[str, Curve] = {}


class PerClass(BaseModel):
    """Lists in class order."""

    f1: list[float]
    support: list[int]


class Reliability(BaseModel):
    """Bins of equal width; None where a bin is empty."""

    confidence: list[float | None]
    accuracy: list[float | None]
    count: list[int]


class Roc(BaseModel):
    """False and true accept rates, both rising."""

    far: list[float]
    tar: list[float]


class Part(BaseModel):
    """A joint or a class of objects, how often it is annotated, and how well it is found, from 0 to 1 (None: nobody
    knows)."""

    name: str
    annotated: int
    share: float | None


class Breakdown(BaseModel):
    """How well each part of what a task looks for is found: the table's `title`, a `note` below it, `what` its lines
    are."""

    title: str
    note: str
    what: str
    parts: list[Part]


class Details(BaseModel):
    """What a row's details file may hold; each part may be missing."""

    classes: list[str] = []
    per_class: PerClass | None = None
    confusion: list[list[int]] = []
    pr_curves: Curves | None = None
    reliability: Reliability | None = None
    roc: Roc | None = None
    breakdown: Breakdown | None = None
    history: list[dict[str, float | None]] = []

    @model_validator(mode="after")
    def _one_entry_a_class(self) -> Self:
        count = len(self.classes)
        lists: list[Sized] = [self.confusion, *self.confusion] if self.confusion else []
        if self.per_class is not None:
            lists += [self.per_class.f1, self.per_class.support]
        if any(len(values) != count for values in lists):
            raise ValueError(f"expected {count} entries, one a class, in confusion and per_class")
        return self


class Example(BaseModel):
    """A test sample, a picture (`png` in base64) or a text, with both answers. Confidences are probabilities; an answer
    that is not `judged` is neither right nor wrong, as a translation."""

    png: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+=*$")] | None = None
    text: str = ""
    label: str
    teacher: str
    teacher_confidence: float | None = None
    student: str
    student_confidence: float | None = None
    judged: bool = True


class Panel(BaseModel):
    """A picture (`png` in base64) with what is drawn into it: the truth, or what a model found."""

    title: str
    png: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+=*$")]
    text: str = ""


class Compared(BaseModel):
    """A test sample as the truth and each model have it, side by side."""

    caption: str
    panels: list[Panel]


class Examples(BaseModel):
    """What the student lost against the teacher, kept and won; or where the two differ most, also side by side, under a
    `heading` that says what these are."""

    heading: str = "Test samples on which student and teacher differ most, with the truth and what each model found."
    compared: list[Compared] = []
    differing: list[Example] = []
    lost: list[Example] = []
    kept: list[Example] = []
    won: list[Example] = []


class Book:
    """Reads the details of rows from a folder, each file once; a file that is not there is only noted.

    Raises LimbeckError where a file is there and is not what `Details` or `Examples` says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: list[str] = []
        self._read: dict[str, Details | None] = {}

    def of(self, group: Group) -> list[Details]:
        """The details of a model, one a seed that has them."""
        found = (self._details(row.details) for row in group.rows if row.details)
        return [details for details in found if details is not None]

    def examples(self) -> Examples:
        """The examples of the run; empty where it kept none."""
        path = self.folder / EXAMPLES
        return _parse(Examples, path) if path.exists() else Examples()

    def _details(self, name: str) -> Details | None:
        if name not in self._read:
            path = self.folder / name
            if path.exists():
                self._read[name] = _parse(Details, path)
            else:
                self._read[name] = None
                self.missing.append(name)
        return self._read[name]


def _parse(model: type[M], path: Path) -> M:
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LimbeckError(
            f"{path}: not the details of a run ({where or 'file'}: {first['msg']}); run the recipe again"
        ) from None
