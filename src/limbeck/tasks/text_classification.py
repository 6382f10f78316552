"""Text classification: one class a text, several, or a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.metrics import disagreements
from limbeck.metrics.labels import multilabel_metrics, regression_metrics
from limbeck.models import TextShape, forward_of
from limbeck.objective import labelled
from limbeck.sources import describe
from limbeck.sources.splits import kept_mask, labelled_mask
from limbeck.sources.texts import Retokenize, TextData, TextSet, load_texts
from limbeck.sources.texts.labels import Problem
from limbeck.store import LabelStore
from limbeck.tasks.classification import SOFTENED, Classified, answered, predict, quick_metrics
from limbeck.tasks.task import LabelledSettings, Opening, Task
from limbeck.tasks.texts import (
    TextualSettings,
    names_of,
    shape_of,
    shown,
    students_tokenizing,
    teachers_tokenizing,
)
from limbeck.teachers import Adapter

EXAMPLES = 12


class TextSettings(TextualSettings, LabelledSettings):
    """Which texts, and how much of them is labelled; `source` and the columns as of
    `limbeck.sources.texts.load_texts`.

    `labelled` keeps the labels of that many training texts (an integer: texts; below 1: a share; `all`).
    """

    text_column: str | None = None
    pair_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    header: list[str] | None = None
    classes: list[str] | None = None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A model's answers where a text has several labels, or a number: `values` and `labels` (samples, …), float."""

    labels: Tensor
    values: Tensor | None
    classes: tuple[str, ...]
    why: str = ""

    def metrics(self) -> dict[str, float]:
        """Those of several labels a sample, or of a regression."""
        if self.values is None:
            return {}
        if self.classes:
            return multilabel_metrics(self.values, self.labels)
        return regression_metrics(self.values.squeeze(-1), self.labels)

    def fidelity(self, taught: Scored) -> dict[str, float]:
        """How often a class is given or not as the teacher does; the correlation with a teacher's numbers."""
        if self.values is None or taught.values is None:
            return {}
        if self.classes:
            return {"agreement": float(((self.values > 0) == (taught.values > 0)).double().mean())}
        both = torch.stack([self.values.flatten(), taught.values.flatten()]).double()
        return {"teacher_pearson": float(torch.corrcoef(both)[0, 1])}

    def details(self) -> dict[str, Any]:
        """Nothing: the figures of the report are of classes."""
        return {}


def _load(settings: TextSettings, opening: Opening) -> TextData:
    return load_texts(
        settings.source,
        tokenizing=students_tokenizing(settings, opening),
        tokenizer=settings.tokenizer or "wordpiece",
        vocabulary=settings.vocabulary,
        lowercase=settings.lowercase,
        max_length=settings.max_length,
        validation=settings.validation,
        text_column=settings.text_column,
        pair_column=settings.pair_column,
        label_column=settings.label_column,
        split_column=settings.split_column,
        header=settings.header,
        classes=settings.classes,
        problem=settings.problem,
    )


def _training(settings: TextSettings, data: TextData, _seed: int, _store: LabelStore | None) -> TextSet:
    if settings.labelled == "all":
        return data.train
    train, ids = data.train, data.train.ids.numpy()
    if data.problem == "single-label":
        return train.with_labels(labelled_mask(train.labels.numpy(), ids, len(data.classes), settings.labelled))
    return train.with_labels(kept_mask(labelled(train.labels).numpy(), ids, settings.labelled))


def _describe(split: TextSet, data: TextData) -> str:
    if data.problem == "single-label":
        return describe(split.labels.numpy(), data.classes).text
    return f"{len(split):,} texts, {int(labelled(split.labels).sum()):,} of them labelled, {data.problem}"


def _shape(data: TextData) -> TextShape:
    classes = len(data.classes) if data.problem != "regression" else 1
    return shape_of(data.tokenizing, "classification", num_classes=classes, problem=data.problem)


def _seen_by(data: TextData, said: Mapping[str, Any]) -> TextData:
    theirs = teachers_tokenizing(said, data.tokenizing)
    if theirs is None:
        return data
    splits = {name: getattr(data, name).with_tokenizing(theirs) for name in ("train", "validation", "test")}
    return replace(data, **splits)


def _adapter(data: TextData, _model: nn.Module | None, said: Mapping[str, Any]) -> Adapter | None:
    theirs = teachers_tokenizing(said, data.tokenizing)
    return None if theirs is None else Retokenize(theirs, [data.train, data.validation, data.test])


def _predict(read: Any, split: TextSet, *, label: str, workers: int = 0, settings: Any = None) -> Classified | Scored:
    if split.problem == "single-label":
        return predict(read, split, label=label, workers=workers)
    found = predict(read, split, label=label, workers=workers)
    return Scored(found.labels, found.logits, found.classes if split.problem == "multi-label" else (), found.why)


def _validate(module: nn.Module, split: TextSet, _settings: Any) -> dict[str, float]:
    found = _predict(module, split, label="validation")
    return quick_metrics(found) if isinstance(found, Classified) else found.metrics()


def _examples(
    test: TextSet, student: Classified | Scored, teacher: Classified | Scored, _alone: Any
) -> dict[str, Any] | None:
    """Texts with what teacher and student say: those that the student lost, kept and won."""
    if isinstance(student, Scored) or isinstance(teacher, Scored):
        assert isinstance(student, Scored)
        assert isinstance(teacher, Scored)
        if student.values is None or teacher.values is None:
            return None
        return _differences(test, student.labels, student.values, teacher.values)
    if teacher.logits is None or student.logits is None:
        return None
    said, taught = student.logits.softmax(-1), teacher.logits.softmax(-1)

    def entry(index: int) -> dict[str, Any]:
        both = answered(said[index], taught[index], int(student.labels[index]), test.classes)
        return {"text": _text(test, index), **both}

    chosen = disagreements(student.logits, teacher.logits, student.labels, EXAMPLES)
    return {"classes": list(test.classes), **{group: [entry(i) for i in found] for group, found in chosen.items()}}


def _differences(test: TextSet, truths: Tensor, student: Tensor, teacher: Tensor) -> dict[str, Any]:
    """The texts of which student and teacher say the most different things."""
    apart = (student - teacher).abs().flatten(1).sum(1)

    def entry(index: int) -> dict[str, Any]:
        def said(values: Tensor) -> str:
            if test.problem == "regression":
                return f"{values.flatten()[0].item():.3g}"
            return names_of(values.sigmoid().tolist(), test.classes)

        labels = truths[index]
        known = not bool(labels.isnan().any()) and not bool((labels.flatten() < 0).all() and test.classes)
        truth = "" if not known else (
            f"{labels.item():.3g}" if test.problem == "regression" else names_of(labels.tolist(), test.classes)
        )  # fmt: skip
        return {
            "text": _text(test, index), "label": truth, "teacher": said(teacher[index]),
            "student": said(student[index]),
        }  # fmt: skip

    return {"differing": [entry(int(index)) for index in apart.argsort(descending=True)[:EXAMPLES]]}


def _text(test: TextSet, index: int) -> str:
    pair = test.pair(index)
    return shown(test.text(index)) + (f" ⟷ {shown(pair)}" if pair is not None else "")


def _terms(settings: TextSettings) -> tuple[Mapping[str, Any], ...]:
    if settings.problem == "multi-label":
        return ({"loss": "supervised-bce", "weight": 0.1}, {"loss": "sigmoid-kd", "weight": 0.9})
    if settings.problem == "regression":
        return ({"loss": "supervised-mse", "weight": 0.5}, {"loss": "logit-mse", "weight": 0.5})
    return SOFTENED


def _fits(data: TextData, terms: Any) -> None:
    """Raises LimbeckError where a problem that was found in the data wants other terms than those of one class."""
    losses = {term["loss"] for term in terms}
    wanted = {"multi-label": "supervised-bce", "regression": "supervised-mse"}.get(data.problem)
    if wanted is not None and "supervised" in losses:
        raise LimbeckError(
            f"data: the labels are {data.problem}, and the terms those of one class a text; say data.problem: "
            f"{data.problem} for fitting terms, or name them ({wanted}, …)"
        )


TEXT_CLASSIFICATION = Task(
    name="text-classification",
    settings=TextSettings,
    teacher_keys=frozenset({"tokenizer"}),
    main_metric="accuracy",
    claimed=("accuracy", "macro_f1", "nll", "pearson", "mse"),
    selection=lambda data: "pearson" if data.problem == "regression" else "accuracy",
    terms=_terms,
    load=_load,
    training=_training,
    labelled=lambda _settings, data, _views: [data.train, data.test],
    describe=_describe,
    shape=_shape,
    seen_by=_seen_by,
    adapter=_adapter,
    preparation=lambda data: data.tokenizing,
    predict=_predict,
    validate=_validate,
    examples=_examples,
    run=forward_of,
    check=_fits,
)
