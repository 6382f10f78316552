"""Requests that wait at the same time are run together."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from limbeck.artifact import Artifact
from limbeck.errors import LimbeckError
from limbeck.serve.limits import Limits
from limbeck.serve.live import Live, Version
from limbeck.serve.picture_checks import is_readable
from limbeck.serve.refusals import Refused, busy

Answers = list[dict[str, Any]]

log = logging.getLogger("limbeck.serve")


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers to a request, all of one version."""

    version: str
    answers: Answers


@dataclass(slots=True, eq=False)
class _Job:
    inputs: Sequence[Any]
    arrived: float
    answer: asyncio.Future[Answered]


class Batcher:
    """Runs an artifact on what was asked, at most `most` inputs of several requests at a time, in a thread of its own.

    Args:
        wait: seconds that the first of them waits for others.
        observe: is told how many inputs each batch has.
    """

    def __init__(
        self, live: Live, *, most: int, wait: float, limits: Limits, observe: Callable[[int], None] = lambda _: None
    ) -> None:
        self.live, self.inputs, self._queued = live, 0, 0
        self._most, self._wait, self._limits, self._observe = most, wait, limits, observe
        self._jobs: deque[_Job] = deque()
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        # One thread: a tokenizer may not be used by two at a time.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="limbeck-predict")

    def check_room(self, count: int) -> None:
        """Raises Refused where so many inputs more may not wait."""
        if self.inputs + count > self._limits.waiting:
            raise busy(f"{self.inputs} inputs are waiting, {self._limits.waiting} are the most; try again later")

    async def ask(self, inputs: Sequence[Any]) -> Answered:
        """The answers to some inputs.

        Raises:
            Refused: too much is waiting, it took too long, or an input is none of the task.
        """
        self.check_room(len(inputs))
        job = _Job(inputs, time.monotonic(), asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self.inputs += len(inputs)
        self._some.set()
        self._queued += len(inputs)
        if self._queued >= self._most:
            self._enough.set()
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await job.answer
        except TimeoutError:
            raise busy(
                f"no answer within {self._limits.seconds:g} s; try again later, or send less at a time"
            ) from None
        finally:
            self.inputs -= len(inputs)

    async def run(self) -> None:
        """Answers what is asked until it is cancelled."""
        while True:
            await self._some.wait()
            await self._gathered()
            jobs = self._taken()
            if jobs:
                await self._answer(jobs)

    def close(self) -> None:
        """Ends its thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _gathered(self) -> None:
        left = self._wait - (time.monotonic() - self._jobs[0].arrived)
        if left <= 0:
            return
        try:
            async with asyncio.timeout(left):
                await self._enough.wait()
        except TimeoutError:
            pass

    def _taken(self) -> list[_Job]:
        """The first jobs, as many as fit into a batch, but those that nobody waits for."""
        jobs: list[_Job] = []
        count = 0
        while self._jobs and (not jobs or count + len(self._jobs[0].inputs) <= self._most):
            job = self._jobs.popleft()
            self._queued -= len(job.inputs)
            if not job.answer.done():
                jobs.append(job)
                count += len(job.inputs)
        if self._queued < self._most:
            self._enough.clear()
        if not self._jobs:
            self._some.clear()
        return jobs

    async def _answer(self, jobs: Sequence[_Job]) -> None:
        version = self.live.current
        self._observe(sum(len(job.inputs) for job in jobs))
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._thread, answered, version, [job.inputs for job in jobs], self._most, self.live.clean
        )
        for job, each in zip(jobs, found, strict=True):
            if job.answer.done():
                continue
            if isinstance(each, Refused):
                job.answer.set_exception(each)
            else:
                job.answer.set_result(Answered(version.name, each))


def answered(
    version: Version, requests: Sequence[Sequence[Any]], batch: int, clean: Callable[[Exception], str]
) -> list[Answers | Refused]:
    """The answers to each request, which are run together; where that fails each by itself, so that one input's fault
    is not another's."""
    try:
        flat = iter(_checked(version.artifact, [each for inputs in requests for each in inputs], batch))
        return [[next(flat) for _ in inputs] for inputs in requests]
    except Exception:  # of an input, or of a library that reads one
        return [_one_by_one(version.artifact, inputs, clean) for inputs in requests]


def _one_by_one(artifact: Artifact, inputs: Sequence[Any], clean: Callable[[Exception], str]) -> Answers | Refused:
    answers = []
    for number, each in enumerate(inputs):
        try:
            answers += _checked(artifact, [each], 1)
        except LimbeckError as error:
            text = clean(error).removeprefix("input 0: ").removeprefix("picture 0: ")
            return Refused(422, f"input {number}: {text}")
        except Exception as error:
            if not _readable(each):
                return Refused(422, f"input {number}: not a readable picture; send the bytes of another file")
            log.error("input %d: %s", number, error, exc_info=error)
            return Refused(
                500, f"input {number}: the model failed on it ({type(error).__name__}); see the server's log"
            )
    return answers


def _checked(artifact: Artifact, inputs: Sequence[Any], batch: int) -> Answers:
    answers = artifact.predict(inputs, batch_size=batch)
    json.dumps(answers, allow_nan=False)
    return answers


def _readable(given: Any) -> bool:
    parts = given.values() if isinstance(given, dict) else (given,)
    return all(is_readable(each) for each in parts if isinstance(each, bytes))
