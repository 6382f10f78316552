"""Questions read from files in the form of SQuAD and from tables, and cut into splits."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from limbeck.errors import LimbeckError
from limbeck.sources.splits import VALIDATION
from limbeck.sources.texts.squad import Answer, Question, by_article, load_questions, read_rows, read_squad

CONTEXT = "Paris is in France. Lyon is in France, too."


def entry(name: str, question: str = "Where?", **more: Any) -> dict[str, Any]:
    return {"id": name, "question": question, **more}


def answer(text: Any, start: Any) -> dict[str, Any]:
    return {"text": text, "answer_start": start}


def write(path: Path, *entries: dict[str, Any], title: str = "Cities", context: Any = CONTEXT) -> Path:
    content = {"version": "1.1", "data": [{"title": title, "paragraphs": [{"context": context, "qas": list(entries)}]}]}
    data = json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def many(articles: int, each: int = 3) -> list[Question]:
    return [
        Question(f"{article}-{number}", "Who?", f"Context {article}", (), f"Article {article}")
        for article in range(articles)
        for number in range(each)
    ]


def test_both_versions_from_several_files(tmp_path: Path) -> None:
    """Unanswerable questions taken for unlabelled ones or the other way, a second file that is not read."""
    first = write(tmp_path / "one.json", entry("a", answers=[answer("Paris", 0), answer("Lyon", 20)]))
    second = write(
        tmp_path / "two.json.gz",
        entry("b", answers=[], is_impossible=True, plausible_answers=[answer("Lyon", 20)]),
        entry("c", answers=[answer("France", 31)], is_impossible=False),
        entry("d"),
        entry("e", answers=[], is_impossible=False),
        entry("f", answers=[]),
        title="More",
    )
    found = {question.id: question for question in read_squad(first, str(second))}
    assert found["a"] == Question("a", "Where?", CONTEXT, (Answer("Paris", 0), Answer("Lyon", 20)), "Cities")
    assert found["c"].answers == (Answer("France", 31),)
    assert found["b"].answers == found["f"].answers == ()
    assert found["d"].answers is found["e"].answers is None
    assert found["b"].article == "More"


def test_answers_that_are_not_at_their_start(tmp_path: Path) -> None:
    """A wrong span learned from a start that is off, as they are in many copies of SQuAD."""
    starts = {"a": ("France", 27), "b": ("France", 13), "c": (" Lyon ", 19), "d": ("Rome", 4), "e": ("France", -6)}
    starts |= {"f": ("France", None), "g": ("  ", 2)}
    path = write(tmp_path / "q.json", *(entry(name, answers=[answer(*given)]) for name, given in starts.items()))
    found = {question.id: question.answers for question in read_squad(path)}
    expected = {"a": 31, "b": 12, "c": 20, "d": None, "e": 12, "f": 12}
    for name, start in expected.items():
        assert found[name] == (Answer(starts[name][0].strip(), start),)
    assert found["g"] == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "a question has no id, but None"),
        ({"question": None}, "question 'a': its question is None; expected a text"),
        ({"question": "half \ud800"}, "question 'a': its question has half of a surrogate pair"),
        ({"answers": ["Paris"]}, "question 'a': its answers are .*expected a list of `text` and `answer_start`"),
        ({"answers": [answer("Paris", "zero")]}, "question 'a': its answers"),
        ({"answers": [answer(None, 0)]}, "question 'a': its answers"),
    ],
)
def test_broken_questions_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A traceback from a file of ten thousand questions that does not say which one is broken."""
    path = write(tmp_path / "q.json", {**entry("a", answers=[answer("Paris", 0)]), **change})
    with pytest.raises(LimbeckError, match=message):
        read_squad(path)


def test_broken_files_are_named(tmp_path: Path) -> None:
    """A traceback of json, gzip or a missing key."""
    with pytest.raises(LimbeckError, match=r"none\.json: no such file"):
        read_squad(tmp_path / "none.json")
    for content in (b"{", b'{"data": [{"title": "x"}]}', b"[1]", b"\x1f\x8bnot gzip", b'{"data": [1]}'):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(LimbeckError, match=r"bad\.json: not in the form of SQuAD"):
            read_squad(tmp_path / "bad.json")
    with pytest.raises(LimbeckError, match="question 'a': its context is 7"):
        read_squad(write(tmp_path / "q.json", entry("a"), context=7))
    with pytest.raises(LimbeckError, match="question 'a' is there 2 times"):
        read_squad(write(tmp_path / "q.json", entry("a"), entry("a")))


def test_articles_are_held_out_whole_and_always_the_same() -> None:
    """A context in two splits, or a split that changes with the order of the file."""
    questions = many(20)
    rest, held = by_article(questions, 0.25, VALIDATION, "q")
    assert {q.article for q in rest}.isdisjoint({q.article for q in held})
    assert 15 <= len(held) < 15 + 3
    assert len(rest) + len(held) == 60
    again = by_article(questions[::-1], 0.25, VALIDATION, "q")[1]
    assert {q.id for q in again} == {q.id for q in held}
    more = by_article([*questions, *(Question("x", "?", "c", (), "New"),)], 0.25, VALIDATION, "q")[1]
    assert len({q.article for q in more} ^ {q.article for q in held}) <= 2
    two = [Question(str(n), "?", f"Context {n % 2}", (), "one article") for n in range(6)]
    assert {len(part) for part in by_article(two, 0.5, VALIDATION, "q")} == {3}
    with pytest.raises(LimbeckError, match="at least 2 contexts, to hold some out, got 1"):
        by_article(two[::2], 0.5, VALIDATION, "q")
    with pytest.raises(LimbeckError, match="a share between 0 and 1"):
        by_article(questions, 1.0, VALIDATION, "q")


def test_splits_from_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A test question that was trained on, or files for one split that end in another."""
    files = [
        write(tmp_path / f"{n}.json", *(entry(f"{n}-{m}", f"Who {m}?", answers=[]) for m in range(4)),
              title=str(n), context=f"Context {n}.")
        for n in range(8)
    ]  # fmt: skip
    found = load_questions(files[:7], test=files[7], validation=0.2)
    sizes = {split: len(getattr(found, split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 20, "validation": 8, "test": 4}
    assert not caplog.records
    found = load_questions(files, test=[files[7]], validation=files[6])
    assert [len(found.train), len(found.validation), len(found.test)] == [24, 4, 4]
    assert found.notes == tuple(record.message for record in caplog.records)
    assert [note.partition(": ")[2] for note in found.notes] == [
        "8 questions of train are left out, as a later split has them too"
    ]
    found = load_questions(files)
    assert [len(found.train), len(found.validation), len(found.test)] == [20, 4, 8]
    with pytest.raises(LimbeckError, match="questions 'sqad' are not known; did you mean 'squad'"):
        load_questions("sqad")
    with pytest.raises(LimbeckError, match="the train split is empty"):
        load_questions(files[0], test=files[0], validation=files[1])


def test_tables_and_data_sets_of_the_hub(tmp_path: Path) -> None:
    """Lists of answers that are read as one, questions without ids that change their name with their row."""
    rows = [
        {"question": f"Who {n}?", "context": f"Anna {n}", "answers": {"text": ["Anna"], "answer_start": [0]}}
        for n in range(6)
    ]
    rows[1]["answers"] = {"text": [], "answer_start": []}
    saved = datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows[:4]), validation=datasets.Dataset.from_list(rows[4:])
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    found = load_questions(f"datasets:{tmp_path / 'saved'}", validation=0.5)
    every = {question.text: question for part in (found.train, found.validation) for question in part}
    assert len(every) == 4
    assert [question.text for question in found.test] == ["Who 4?", "Who 5?"]
    assert every["Who 1?"].answers == ()
    assert every["Who 2?"].answers == (Answer("Anna", 0),)
    assert {q.id for q in read_rows(rows[::-1], "rows")} >= {q.id for q in every.values()}
    with pytest.raises(LimbeckError, match=r"rows: no column 'context'; did you mean 'contexts'\?"):
        read_rows([{"question": "Who?", "contexts": "Anna"}], "rows")
    with pytest.raises(LimbeckError, match=r"is there 2 times"):
        read_rows([rows[0], rows[0]], "rows")


def test_the_real_files(data_root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Another cut of the files that everybody's numbers are of; answers that are not found."""
    if not (data_root / "text" / "squad_v1.1_devset_dev.json.gz").exists():
        pytest.skip("SQuAD not found in LIMBECK_DATA")
    monkeypatch.setenv("LIMBECK_DATA", str(data_root))
    found = load_questions("squad", validation=0.1)
    assert [len(found.train), len(found.validation), len(found.test)] == [7474, 904, 2192]
    articles = [{question.article for question in part} for part in (found.train, found.validation, found.test)]
    assert [len(each) for each in articles] == [33, 5, 10]
    assert not articles[0] & articles[1] | articles[0] & articles[2]
    assert all(a.start is not None for question in found.train for a in question.answers or ())
    with caplog.at_level(logging.WARNING):
        other = load_questions("squad", test=data_root / "text" / "xquad.en.json.gz")
    assert len(other.train) < 8378 - 800
    assert "questions of train are left out, as a later split has them too" in caplog.text
