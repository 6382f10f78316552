"""Many questions at once, and a journal of their answers that a kill leaves whole."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from limbeck.errors import LimbeckError
from limbeck.files import difference
from limbeck.teachers.endpoint.client import BudgetSpent, Client

Question = TypeVar("Question")
Answer = TypeVar("Answer")


def answers(
    client: Client, questions: Iterable[Question], ask: Callable[[Question], Answer]
) -> Iterator[tuple[Question, Answer]]:
    """Questions with their answers, as these come in; as many are under way as the endpoint may be asked at once.

    Where one fails or the budget is spent, no other is begun; answers that still come in are given before the error is
    raised, because they are paid for.

    Raises:
        BudgetSpent: not all could be asked.
    """
    waiting: queue.SimpleQueue[Question | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Question, Answer | None, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        while (question := waiting.get()) is not None:
            try:
                done.put((question, ask(question), None))
            except Exception as error:  # raised again where the answers are awaited
                done.put((question, None, error))

    workers = client.endpoint.concurrency
    for number in range(workers):
        threading.Thread(target=work, name=f"endpoint-{number}", daemon=True).start()
    left, under_way = iter(questions), 0
    failure: Exception | None = None
    try:
        while True:
            while failure is None and under_way < workers and (question := next(left, None)) is not None:
                waiting.put(question)
                under_way += 1
            if not under_way:
                break
            asked, answer, error = done.get()
            under_way -= 1
            if error is None:
                yield asked, answer  # type: ignore[misc]  # there is an answer where there is no error
                continue
            if failure is None or isinstance(failure, BudgetSpent):
                failure = error
            if not isinstance(error, BudgetSpent):
                client.stop.set()
    finally:
        client.stop.set()
        for _ in range(workers):
            waiting.put(None)
    if failure is not None:
        raise failure


class Journal:
    """Answers in a file, a line of JSON each, on the disk before the next is waited for.

    The first line says what was asked, and a journal of something else is an error. A line that a kill cut off is
    dropped.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        good = 0
        if path.exists():
            data = path.read_bytes()
            good = data.rfind(b"\n") + 1
            lines = [self._parsed(line) for line in data[:good].splitlines()]
            if lines and (found := difference(lines[0], dict(about))):
                raise LimbeckError(
                    f"{path} holds answers to other questions ({found}); delete it to begin anew, or give another path"
                )
            self.records = lines[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        # What is cut off goes before anything is written behind it.
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(good)
        self._file = path.open("ab")
        self._empty = not self.records
        if not good:
            self._append(dict(about))

    def add(self, record: Mapping[str, Any]) -> None:
        """Writes one answer."""
        self._append(dict(record))
        self._empty = False

    def close(self) -> None:
        """Lets go of the file, which stays if there is an answer in it."""
        self._file.close()
        if self._empty:
            self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Deletes the file, once what is in it is kept elsewhere."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _append(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise LimbeckError(f"{self.path}: a line is broken ({line[:40]!r}); delete the file to ask again")
        return record
