"""Extractive question answering: where in a text the answer to a question begins and ends, as in SQuAD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from limbeck.errors import LimbeckError
from limbeck.metrics.question_answering import answer_fidelity, answer_metrics, decode_spans, normalized, span_kl
from limbeck.models import forward_of, without_answers
from limbeck.sources import collate_samples
from limbeck.sources.splits import kept_mask
from limbeck.sources.texts.questions import WindowSet
from limbeck.sources.texts.squad import Question, load_questions
from limbeck.store import LabelStore
from limbeck.tasks.classification import SOFTENED
from limbeck.tasks.task import LabelledSettings, Opening, Task, Unmeasured, unmeasured
from limbeck.tasks.texts import TextualSettings, own_tokenizing, read_alike, shape_of, shown, students_tokenizing
from limbeck.teachers import Stored, Teacher

EXAMPLES = 12


class QuestionSettings(TextualSettings, LabelledSettings):
    """Which questions: `squad`, files in SQuAD's form, or a data set, as of `limbeck.sources.texts.load_questions`.

    `stride` is how many tokens neighbouring windows of a context share. `labelled` keeps the answers of that many
    training questions (an integer; below 1: a share; `all`). `max_answer_tokens` is the longest answer, and
    `null_threshold` how much better no answer must be than the best one.
    """

    source: Any
    test: Any = ()
    validation: Any = 0.1
    stride: int | None = Field(default=None, ge=0)
    max_length: int = Field(default=384, ge=16)
    max_answer_tokens: int = Field(default=30, ge=1)
    null_threshold: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class QuestionData:
    """Questions ready for a run, in windows."""

    train: WindowSet
    validation: WindowSet
    test: WindowSet
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A model's answers to a split's questions by their ids; `logits` are of starts and of ends, (windows, length)."""

    answers: Mapping[str, str]
    split: WindowSet
    logits: tuple[Tensor, Tensor]
    why: str = ""

    def metrics(self) -> dict[str, float]:
        """SQuAD's official scores."""
        return answer_metrics(self.answers, self.split.references)

    def fidelity(self, taught: Answered | Unmeasured) -> dict[str, float]:
        """How often the answer is the teacher's, and how far the probabilities of starts and ends are."""
        if isinstance(taught, Unmeasured):
            return {}
        found = answer_fidelity(self.answers, taught.answers, self.split.references)
        if self.logits[0].shape == taught.logits[0].shape:
            found["teacher_kl"] = span_kl(self.logits, taught.logits, self.split)
        return found

    def details(self) -> dict[str, Any]:
        """Nothing: the figures of the report are of classes."""
        return {}


def _load(settings: QuestionSettings, opening: Opening) -> QuestionData:
    found = load_questions(settings.source, test=settings.test, validation=settings.validation)
    tokenizing = students_tokenizing(settings, opening) or own_tokenizing(settings, _texts(found.train), "wordpiece")
    train, validation, test = (
        WindowSet(getattr(found, split), tokenizing, stride=settings.stride, name=f"{found.name} {split}")
        for split in ("train", "validation", "test")
    )
    return QuestionData(train, validation, test)


def _texts(questions: tuple[Question, ...]) -> list[str]:
    """All questions, and each context once."""
    return [question.text for question in questions] + sorted({question.context for question in questions})


def _training(settings: QuestionSettings, data: QuestionData, _seed: int, _store: LabelStore | None) -> WindowSet:
    if settings.labelled == "all":
        return data.train
    train = data.train
    return train.with_labels(kept_mask(train.labelled.numpy(), train.question_ids.numpy(), settings.labelled))


def _describe(split: WindowSet, _data: QuestionData) -> str:
    known = int(split.labelled.sum())
    return f"{len(split.questions):,} questions in {len(split):,} windows, {known:,} of the questions labelled"


def _predict(
    read: Any, split: WindowSet, *, label: str, workers: int = 0, settings: QuestionSettings | None = None
) -> Answered | Unmeasured:
    """Runs a module or a teacher over all windows, and reads off each question's answer."""
    if isinstance(read, Stored) and read.fallback is not None:
        read = read.fallback
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(read, Teacher):
        read.require(["logits"])
    run = forward_of(read.to(device).eval()) if isinstance(read, nn.Module) else read
    loader = DataLoader(split, batch_size=64, collate_fn=collate_samples, num_workers=workers)
    parts: list[Tensor] = []
    with torch.inference_mode():
        for batch in tqdm(loader, desc=label, leave=False, disable=None):
            moved = {name: tensor.to(device) for name, tensor in without_answers(batch).items()}
            try:
                parts.append(run(moved)["logits"].float().cpu())
            except LimbeckError as error:
                if not isinstance(read, Stored):
                    raise
                return unmeasured(f"{label}: the teacher was not measured: {error}")
    longest = max(part.shape[1] for part in parts)
    padded = [nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts]
    starts, ends = torch.cat(padded).unbind(-1)
    settings = settings or QuestionSettings(source="")
    threshold = settings.null_threshold if split.has_unanswerable else math.inf
    answers = decode_spans(starts, ends, split, max_answer_tokens=settings.max_answer_tokens, null_threshold=threshold)
    return Answered(answers, split, (starts, ends))


def _validate(module: nn.Module, split: WindowSet, settings: QuestionSettings) -> dict[str, float]:
    return _predict(module, split, label="validation", settings=settings).metrics()


def _examples(test: WindowSet, student: Answered, teacher: Answered | Unmeasured, _alone: Any) -> dict[str, Any] | None:
    """Questions that the student lost, kept and won, with the passage around the right answer."""
    if isinstance(teacher, Unmeasured):
        return None
    references = test.references
    groups: dict[str, list[dict[str, Any]]] = {"lost": [], "kept": [], "won": []}
    for question in test.questions:
        if question.id not in references:
            continue
        golds = {normalized(gold) for gold in references[question.id]} or {""}
        mine, theirs = student.answers[question.id], teacher.answers[question.id]
        right, taught = normalized(mine) in golds, normalized(theirs) in golds
        group = "kept" if right and taught else "lost" if taught else "won" if right else None
        if group is None or len(groups[group]) >= EXAMPLES:
            continue
        truth = next(iter(references[question.id]), "no answer")
        said, meant = ((truth if ok else answer) or "no answer" for answer, ok in ((mine, right), (theirs, taught)))
        text = f"{shown(question.text)} — {shown(_around(question.context, truth))}"
        groups[group].append({"text": text, "label": truth, "teacher": meant, "student": said})
    return groups


def _around(context: str, answer: str, reach: int = 120) -> str:
    """The part of a context in which an answer stands."""
    at = max(context.find(answer), 0)
    start, stop = max(0, at - reach), at + len(answer) + reach
    return ("…" if start else "") + context[start:stop] + ("…" if stop < len(context) else "")


QUESTION_ANSWERING = Task(
    name="question-answering",
    settings=QuestionSettings,
    main_metric="f1",
    claimed=("f1", "exact_match"),
    selection=lambda _data: "f1",
    terms=lambda _settings: SOFTENED,
    load=_load,
    training=_training,
    labelled=lambda _settings, data, _views: [data.train, data.test],
    describe=_describe,
    shape=lambda data: shape_of(data.train.tokenizing, "question-answering", num_classes=2),
    seen_by=partial(read_alike, why="where an answer begins is told in tokens"),
    preparation=lambda data: data.train.tokenizing,
    predict=_predict,
    validate=_validate,
    examples=_examples,
    run=forward_of,
)
