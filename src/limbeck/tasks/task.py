"""What a run needs to know of a task: one frozen record of functions, and the words that these share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, field_validator
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.measures import Measure, measure_of
from limbeck.models import Shape, TextShape
from limbeck.store import LabelStore
from limbeck.teachers import Adapter, Teacher
from limbeck.terms import Term
from limbeck.types import UNLABELLED, Batch

Say = Callable[[str], None]

log = logging.getLogger(__name__)


class Settings(BaseModel):
    """What a recipe's `data` may say; each task has its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str


class LabelledSettings(Settings):
    """Settings of data with labels: `labelled` keeps those of that many training samples (an integer: samples; below 1:
    a share; `all`)."""

    labelled: Any = "all"

    @field_validator("labelled")
    @classmethod
    def _count(cls, value: Any) -> int | float | str:
        if value == "all" or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
            return value  # type: ignore[no-any-return]
        raise LimbeckError(f"data.labelled: expected `all`, a number of samples or a share below 1, got {value!r}")


@dataclass(frozen=True, slots=True)
class Opening:
    """What the loading of data may depend on beside its settings: the label stores that there are, the models that
    teach by name (whose preparation of samples a student may share), and whom to tell."""

    stores: Sequence[LabelStore] = ()
    teachers: Sequence[str] = ()
    say: Say = print


class TaskData(Protocol):
    """A data set ready for a run, with all its labels. `classes` is empty where a task has none."""

    @property
    def train(self) -> Any: ...
    @property
    def validation(self) -> Any: ...
    @property
    def test(self) -> Any: ...
    @property
    def classes(self) -> tuple[str, ...]: ...


class Predicted(Protocol):
    """What a model says of a split, on the CPU, in the split's order, as far as it can be known."""

    @property
    def why(self) -> str:
        """What is not known, and why; empty where all is."""

    def metrics(self) -> dict[str, float]:
        """How right it is."""

    def fidelity(self, taught: Any) -> dict[str, float]:
        """How near it is to what a teacher says of the same split."""

    def details(self) -> dict[str, Any]:
        """Curves and tables for the report, as JSON values."""


class Predict(Protocol):
    """Runs a model (or a teacher, which may be a label store) over a whole split; `settings` are those of its data."""

    def __call__(self, read: Any, split: Any, *, label: str, workers: int = 0, settings: Any = None) -> Predicted: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task, as functions.

    Attributes:
        settings: what its recipes' `data` may say.
        teacher_keys: keys of a recipe's teacher that only this task has.
        main_metric: the measure by which models are judged.
        claimed: the measures on which distilled and alone are compared.
        selection: from the data to the validation measure that chooses a checkpoint.
        terms: from settings to the objective of a recipe that names none.
        load: from settings to the data.
        training: the training split as the student sees it in a seed, given the store it learns from, if any.
        alone: from the training split to what of it a student looks at that learns of labels alone, in as many steps.
        teaching: the training split as a teacher that is trained in the run sees it, with all labels; `augment` None
            is as the student's.
        labelled: the splits of which `limbeck label` keeps the teacher's answers, given how many views.
        describe: what there is to say of a training split, in a line.
        shape: what the data asks of a model.
        seen_by: the data as a teacher reads it that is trained on it, by what its recipe says: with its own tokenizer,
            say.
        teacher_shape: what the data asks of a teacher, by what its recipe or its saved folder says; by default what the
            data asks as it is `seen_by` the teacher.
        adapter: what brings the student's batches to a teacher that wants others, likewise; None where they are the
            same. What is said are the teacher's keys of the recipe, `model`, its options, and the `preparation` of a
            saved folder.
        bridged: a teacher that was opened, made to speak of the student's tokens where it has others.
        preparation: how samples reach a model, as a saved folder keeps it.
        predict: a model's answers to a split.
        validate: from a module, the validation split and settings to its measures, cheap enough to ask for often.
        examples: samples worth looking at, with what the distilled student, the teacher and the student alone (None
            where it was not measured) say, for the report.
        needs: the modules that measuring needs and limbeck does not bring, each with the extra that has it.
        check: raises LimbeckError where data and terms do not go together.
        run: how a module is run on a batch where its latency is measured.
        fitted: an objective's terms with what only a training split or the teacher (None: there is none) can say of
            them filled in, as how many persons a loss has to tell apart.
        beside: writes into a student's folder what it needs beside itself, given the student, its teacher and the data.
    """

    name: str
    settings: type[Settings]
    teacher_keys: frozenset[str] = frozenset()
    main_metric: str
    claimed: tuple[str, ...]
    selection: Callable[[Any], str]
    terms: Callable[[Any], tuple[Mapping[str, Any], ...]]
    load: Callable[[Any, Opening], TaskData]
    training: Callable[[Any, Any, int, LabelStore | None], Any]
    alone: Callable[[Any], Any] = lambda split: split
    teaching: Callable[[Any, Any, Any], Any] = lambda _settings, data, _augment: data.train
    labelled: Callable[[Any, Any, int], list[Any]]
    describe: Callable[[Any, Any], str]
    shape: Callable[[Any], Shape | TextShape]
    seen_by: Callable[[Any, Mapping[str, Any]], TaskData] = lambda data, _said: data
    teacher_shape: Callable[[Any, Mapping[str, Any]], Shape | TextShape] | None = None
    adapter: Callable[[Any, nn.Module | None, Mapping[str, Any]], Adapter | None] = lambda _data, _model, _said: None
    bridged: Callable[[Teacher, Any, Mapping[str, Any]], Teacher] = lambda teacher, _data, _said: teacher
    preparation: Callable[[Any], Any]
    predict: Predict
    validate: Callable[[nn.Module, Any, Any], dict[str, float]]
    examples: Callable[[Any, Any, Any, Any], dict[str, Any] | None]
    run: Callable[[nn.Module], Callable[[Batch], object]]
    needs: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any, Sequence[Mapping[str, Any]]], None] = lambda _data, _terms: None
    fitted: Callable[[Sequence[Term], Any, Teacher | None], list[Term]] = lambda terms, _split, _teacher: list(terms)
    beside: Callable[[nn.Module, Teacher, Any, Path], None] = lambda _student, _teacher, _data, _folder: None

    def shape_of_teacher(self, data: Any, said: Mapping[str, Any]) -> Shape | TextShape:
        """What the data asks of a teacher."""
        return self.shape(self.seen_by(data, said)) if self.teacher_shape is None else self.teacher_shape(data, said)

    @property
    def main(self) -> Measure:
        """The measure by which models are judged."""
        return measure_of(self.main_metric)


def annotated(split: Any) -> Any:
    """The samples of a split that have a label, where any has: what a student learns from that has no teacher, as a
    batch in which one of eight counts would be no fair comparison."""
    known = (split.labels != UNLABELLED).nonzero().flatten()
    return split.subset(known) if len(known) else split


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Of what a model says nothing is known; `why` says what is missing."""

    why: str

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}

    def fidelity(self, taught: Any) -> dict[str, float]:
        """None."""
        return {}

    def details(self) -> dict[str, Any]:
        """None."""
        return {}


def unmeasured(why: str) -> Unmeasured:
    """Says why a model is not measured, in the run's notes as well."""
    log.warning("%s", why)
    return Unmeasured(why)
