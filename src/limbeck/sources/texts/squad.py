"""Questions about texts: read from files in the form of SQuAD or from tables, and cut into splits by article."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import LimbeckError, nearest
from limbeck.sources import hub
from limbeck.sources.ids import text_ids
from limbeck.sources.places import VARIABLE, cache_root, data_root, find
from limbeck.sources.splits import SPLIT_SEED, TEST, VALIDATION
from limbeck.sources.views import keys

log = logging.getLogger(__name__)

TEST_SHARE = 0.2
"""What is held out for the test where none is given."""

KNOWN = {"squad": ("text/squad_v1.1_devset_train.json.gz", "text/squad_v1.1_devset_dev.json.gz")}
"""Data sets by name: their files for training and for the test, in the data root."""

Files = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Answer:
    """A part of the context. `start` is its first character's place, None where the text does not occur in it."""

    text: str
    start: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a context, which its article gives.

    `answers` are all that count as right, the first one the one to learn; none where the context does not answer the
    question; None where nobody says.
    """

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...] | None
    article: str


@dataclass(frozen=True, slots=True)
class QuestionSplits:
    """The questions of a data set by split. `notes` say what was left out."""

    name: str
    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    test: tuple[Question, ...]
    notes: tuple[str, ...] = ()


def load_questions(source: Files, *, test: Files = (), validation: Files | float = 0.1) -> QuestionSplits:
    """Questions by name or from files in the form of SQuAD 1.1 or 2.0 (.json or .json.gz), in three splits.

    Args:
        source: `squad`, `datasets:NAME-or-path` with columns question, context and answers, or files to train on.
        test: files; without them, a fifth of the questions to train on.
        validation: files, or the share of the questions to train on that is held out where the author cut no
            validation split. What is held out are whole articles, so that no context is in two splits.

    Of a data set without a test split the validation split is the test. A question about the same context that is in a
    later split too (of train, validation and test) is left out of the earlier one, and a warning says how many were.

    Raises:
        LimbeckError: a file is missing or not of this form, or a question is broken; it names the question.
    """
    listed = _paths(source)
    name = ", ".join(map(str, listed))
    tests = read_squad(*_paths(test))
    held: tuple[Question, ...] = ()
    if isinstance(source, str) and source.startswith("datasets:"):
        parts = {split: read_rows(rows, f"{source} {split}") for split, rows in hub.load_splits(source[9:]).items()}
        train, held, author = (parts.get(split, ()) for split in ("train", "validation", "test"))
        if all(question.answers is None for question in author):
            author, held = held, ()
        tests = tests or author
    elif isinstance(source, str) and source in KNOWN:
        train, author = (read_squad(_known(source, file)) for file in KNOWN[source])
        tests = tests or author
    elif isinstance(source, str) and not Path(source).suffix:
        known = nearest(source, (*KNOWN, "datasets:NAME", "FILE.json"))
        raise LimbeckError(f"questions {source!r} are not known{known}")
    else:
        train = read_squad(*listed)
    if not tests:
        train, tests = by_article(train, TEST_SHARE, TEST, name)
    if not isinstance(validation, float | int):
        held = read_squad(*_paths(validation))
    elif not held:
        train, held = by_article(train, validation, VALIDATION, name)
    kept = _without(train, (*held, *tests)), _without(held, tests)
    notes = tuple(
        f"{name}: {len(before) - len(after)} questions of {split} are left out, as a later split has them too"
        for split, before, after in zip(("train", "validation"), (train, held), kept, strict=True)
        if len(after) < len(before)
    )
    for note in notes:
        log.warning(note)
    train, held = kept
    for split, questions in (("train", train), ("validation", held), ("test", tests)):
        if not questions:
            raise LimbeckError(f"{name}: the {split} split is empty; it needs at least one question")
    return QuestionSplits(name, train, held, tests, notes)


def read_squad(*paths: str | Path) -> tuple[Question, ...]:
    """The questions of files in the form of SQuAD 1.1 or 2.0; none of no file.

    Raises:
        LimbeckError: a file is missing or not of this form, or a question is broken or there twice.
    """
    found = [_question(entry, str(path)) for path in paths for entry in _entries(Path(path).expanduser())]
    return each_once(found, ", ".join(map(str, paths)))


def read_rows(rows: Iterable[Mapping[str, Any]], where: str) -> tuple[Question, ...]:
    """The questions of a table with the columns question, context and answers (a dict of lists `text` and
    `answer_start`), and where it has them id and title.

    Raises:
        LimbeckError: a column is missing, or a question is broken or there twice.
    """
    found = []
    for number, row in enumerate(rows):
        for column in ("question", "context"):
            if column not in row:
                raise LimbeckError(f"{where}: no column {column!r}{nearest(column, map(str, row))}")
        content = f"{row['question']}\0{row['context']}"
        entry = {"id": hashlib.blake2b(content.encode(errors="replace"), digest_size=12).hexdigest()} | dict(row)
        answers = entry.get("answers")
        if isinstance(answers, Mapping):
            texts = list(answers.get("text") or [])
            starts = list(answers.get("answer_start") or [None] * len(texts))
            pairs = zip(texts, starts, strict=False)
            entry["answers"] = [{"text": text, "answer_start": start} for text, start in pairs]
        found.append(_question(entry, f"{where} row {number}"))
    return each_once(found, where)


def by_article(
    questions: Sequence[Question], share: float, purpose: int, name: str
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """The questions that stay, and those of about a `share` that are held out, whole articles at a time; where there is
    one article only, whole contexts. Always the same ones, in the order of the titles' hashes.

    Raises:
        LimbeckError: the share is not in (0, 1), or all questions are about one context.
    """
    if not 0 < share < 1:
        raise LimbeckError(f"{name}: expected a share between 0 and 1 to hold out, got {share}")
    groups = [question.article for question in questions]
    if len(set(groups)) < 2:
        groups = [question.context for question in questions]
    titles, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(titles) < 2:
        raise LimbeckError(
            f"{name}: expected questions about at least 2 contexts, to hold some out, got {len(titles)}; give files of "
            "your own for each split"
        )
    order = np.argsort(keys(SPLIT_SEED, purpose, text_ids(titles.tolist())), kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    out = np.zeros(len(titles), dtype=np.bool_)
    out[order[:-1]] = before[:-1] < share * len(questions)
    held = out[inverse]
    stays, taken = (
        tuple(question for question, gone in zip(questions, held, strict=True) if gone == wanted)
        for wanted in (False, True)
    )
    return stays, taken


def _paths(files: Files) -> list[str | Path]:
    return [files] if isinstance(files, str | Path) else list(files)


def _known(name: str, file: str) -> Path:
    path = find([file])
    if path is None:
        raise LimbeckError(
            f"data {name!r}: {file} is neither in {data_root()} nor in {cache_root()}; set {VARIABLE} to the folder "
            "that has it, or give the paths of files in the form of SQuAD"
        )
    return path


def each_once(questions: Sequence[Question], where: str) -> tuple[Question, ...]:
    """The questions; raises LimbeckError where two have one id."""
    for name, count in Counter(question.id for question in questions).items():
        if count > 1:
            raise LimbeckError(f"{where}: question {name!r} is there {count} times; give each an id of its own")
    return tuple(questions)


def _without(questions: Sequence[Question], later: Sequence[Question]) -> tuple[Question, ...]:
    """The questions that no later split asks too."""
    asked = {(question.text, question.context) for question in later}
    return tuple(question for question in questions if (question.text, question.context) not in asked)


def _entries(path: Path) -> Iterable[dict[str, Any]]:
    """The questions of a file as it has them, each with its context and title."""
    if not path.exists():
        raise LimbeckError(f"{path}: no such file; give one in the form of SQuAD, .json or .json.gz")
    try:
        data = path.read_bytes()
        content = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        for number, article in enumerate(content["data"]):
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    title = str(article.get("title") or number)
                    yield {**entry, "context": paragraph["context"], "title": title}
    except (KeyError, TypeError, AttributeError, ValueError, OSError, EOFError) as error:
        raise LimbeckError(
            f"{path}: not in the form of SQuAD, `data` with `paragraphs` of a `context` and `qas` "
            f"({type(error).__name__}: {error})"
        ) from None


def _question(entry: Mapping[str, Any], where: str) -> Question:
    """A question from `id`, `question`, `context`, `title`, `answers` (`text`, `answer_start`), `is_impossible`."""
    name = entry.get("id")
    if not isinstance(name, str | int):
        raise LimbeckError(f"{where}: a question has no id, but {name!r}; give each one of its own")
    for key in ("question", "context"):
        text = entry.get(key)
        if not isinstance(text, str):
            raise LimbeckError(f"{where}: question {name!r}: its {key} is {text!r}; expected a text")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise LimbeckError(
                f"{where}: question {name!r}: its {key} has half of a surrogate pair; correct its encoding"
            ) from None
    context = entry["context"]
    impossible, given = entry.get("is_impossible"), entry.get("answers")
    answers: tuple[Answer, ...] | None = None
    if impossible:
        answers = ()
    elif given is not None and (given or impossible is None):
        try:
            answers = tuple(_answer(each["text"], each.get("answer_start"), context) for each in given)
        except (KeyError, TypeError, AttributeError):
            raise LimbeckError(
                f"{where}: question {name!r}: its answers are {given!r}; expected a list of `text` and `answer_start`"
            ) from None
        answers = tuple(answer for answer in answers if answer.text)
    return Question(str(name), entry["question"], context, answers, str(entry.get("title") or ""))


def _answer(text: str, start: int | None, context: str) -> Answer:
    """The answer without white space around it, at its own place, or where it occurs nearest to that."""
    bare = text.strip()
    if start is not None:
        start += len(text) - len(text.lstrip())
        if context.startswith(bare, start) and start >= 0:
            return Answer(bare, start)
    places = []
    at = context.find(bare)
    while at >= 0 and bare:
        places.append(at)
        at = context.find(bare, at + 1)
    return Answer(bare, min(places, key=lambda place: abs(place - (start or 0)), default=None))
