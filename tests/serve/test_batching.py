"""Requests together: in batches, each with its own answer, within what may wait."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.serve.tiny import tiny

from limbeck.serve import Limits
from limbeck.serve.application import Application
from limbeck.serve.batching import Batcher
from limbeck.serve.live import Live, Version
from limbeck.serve.refusals import Refused


class Slow:
    """In the place of an artifact: says what it was asked, once it may."""

    def __init__(self, name: str, card: Any = None) -> None:
        self.name, self.card, self.seen = name, card, list[list[Any]]()
        self.may = threading.Event()
        self.may.set()

    def predict(self, inputs: Any, *, batch_size: int) -> list[dict[str, Any]]:
        self.may.wait(20)
        self.seen.append(list(inputs))
        if "broken" in inputs:
            raise RuntimeError("a broken input")
        return [{"text": f"{self.name}: {each}"} for each in inputs]


@pytest.fixture
def live(tmp_path: Path) -> Live:
    found = Live(tiny(tmp_path / "artifact", "translation"), threads=1)
    slow = Slow("old", found.card)
    found.current = Version("old", slow, 0.0)  # type: ignore[arg-type]
    return found


@asynccontextmanager
async def running(live: Live, *, most: int = 4, wait: float = 0.05, **limits: Any) -> AsyncIterator[Batcher]:
    batcher = Batcher(live, most=most, wait=wait, limits=Limits(**{"inputs": 4, **limits}))
    task = asyncio.create_task(batcher.run())
    try:
        yield batcher
    finally:
        live.current.artifact.may.set()  # type: ignore[attr-defined]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        batcher.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def test_what_waits_together_runs_together(live: Live) -> None:
    """Batches of one, batches of too many, an answer that goes to another request."""

    async def test() -> None:
        async with running(live) as batcher:
            asked = [[f"{at}{part}" for part in range(1 + at % 3)] for at in range(7)]
            found = await asyncio.gather(*(batcher.ask(each) for each in asked))
            for inputs, answered in zip(asked, found, strict=True):
                assert answered.version == "old"
                assert [each["text"] for each in answered.answers] == [f"old: {each}" for each in inputs]
            sizes = [len(each) for each in live.current.artifact.seen]  # type: ignore[attr-defined]
            assert sum(sizes) == sum(map(len, asked)) == 13
            assert sizes == [3, 4, 2, 4]  # of 1, 2, 3, 1, 2, 3, 1: no request is split
            assert batcher.inputs == 0

    run(test)


def test_one_that_waits_for_others_waits_no_longer_than_said(live: Live) -> None:
    """A request that waits for a batch which never fills."""

    async def test() -> None:
        async with running(live, wait=0.1) as batcher:
            clock = asyncio.get_running_loop().time
            start = clock()
            await batcher.ask(["a"])
            assert 0.09 <= clock() - start < 5
        async with running(live, most=2, wait=10) as batcher:
            await asyncio.gather(batcher.ask(["a"]), batcher.ask(["b"]))

    run(test)


def test_requests_in_flight_finish_on_the_version_they_began_with(live: Live) -> None:
    """A batch half of which the new version answers, or whose answers name the other version."""

    async def test() -> None:
        old = live.current.artifact
        old.may.clear()  # type: ignore[attr-defined]
        async with running(live, wait=0) as batcher:
            first = asyncio.create_task(batcher.ask(["a", "b"]))
            await asyncio.sleep(0.1)
            live.current = Version("new", Slow("new"), 0.0)  # type: ignore[arg-type]
            second = asyncio.create_task(batcher.ask(["c"]))
            await asyncio.sleep(0.05)
            assert not first.done()
            old.may.set()  # type: ignore[attr-defined]
            found = await first
            assert (found.version, [each["text"] for each in found.answers]) == ("old", ["old: a", "old: b"])
            found = await second
            assert (found.version, [each["text"] for each in found.answers]) == ("new", ["new: c"])

    run(test)


def test_the_fault_of_one_is_not_anothers(live: Live) -> None:
    """A batch that fails as a whole."""

    async def test() -> None:
        async with running(live) as batcher:
            found = await asyncio.gather(
                batcher.ask(["a"]), batcher.ask(["b", "broken"]), batcher.ask(["c"]), return_exceptions=True
            )
            assert [each["text"] for each in found[0].answers] == ["old: a"]  # type: ignore[union-attr]
            assert [each["text"] for each in found[2].answers] == ["old: c"]  # type: ignore[union-attr]
            assert isinstance(found[1], Refused)
            assert (found[1].status, found[1].message.partition(":")[0]) == (500, "input 1")

    run(test)


def test_more_than_may_wait_is_told_to_come_back(live: Live) -> None:
    """A queue without an end; one that never gets empty again."""

    async def test() -> None:
        slow = live.current.artifact
        slow.may.clear()  # type: ignore[attr-defined]
        async with running(live, waiting=4, wait=0, seconds=0.3) as batcher:
            tasks = []
            for _ in range(2):
                tasks.append(asyncio.create_task(batcher.ask(["a", "b"])))
                await asyncio.sleep(0.05)
            with pytest.raises(Refused, match="4 inputs are waiting, 4 are the most") as refusal:
                await batcher.ask(["c"])
            assert (refusal.value.status, refusal.value.headers) == (503, {"Retry-After": "1"})
            late = await asyncio.gather(*tasks, return_exceptions=True)
            assert [each.status for each in late if isinstance(each, Refused)] == [503, 503]
            assert "no answer within 0.3 s" in str(late[0])
            assert batcher.inputs == 0
            slow.may.set()  # type: ignore[attr-defined]
            assert (await batcher.ask(["d"])).answers == [{"text": "old: d"}]
            # The second had been given up before its turn came.
            assert slow.seen == [["a", "b"], ["d"]]  # type: ignore[attr-defined]

    run(test)


async def exchange(
    application: Application, parts: list[bytes], *, hold: float = 0.0, headers: Any = ()
) -> tuple[int, Any, dict[str, str]]:
    """A request whose body comes in parts, with a pause before the last."""
    sent: list[Any] = []
    queue = list(parts)

    async def receive() -> Any:
        if len(queue) == 1:
            await asyncio.sleep(hold)
        part = queue.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(queue)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/predict", "raw_path": b"/predict", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"text/plain"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    await application.asgi(scope, receive, send)
    said = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], json.loads(sent[1]["body"]), said


def test_bodies_that_come_slowly_or_in_too_great_numbers(live: Live) -> None:
    """A client that holds a place for ever, or many that fill the memory with what is not yet a request."""

    async def test() -> None:
        application = Application(live, limits=Limits(body=1000, seconds=0.3), wait=0)
        async with application.asgi.router.lifespan_context(application.asgi):
            status, found, _ = await exchange(application, [b"a", b"b"], hold=1)
            assert (status, found["error"].partition(";")[0]) == (408, "the request did not arrive within 0.3 s")
            assert (await exchange(application, [b"a", b"b"]))[1]["answers"] == [{"text": "old: ab"}]
            slow = [exchange(application, [b"a" * 900, b""], hold=0.2) for _ in range(20)]
            found = await asyncio.gather(*slow)
            states = [each[0] for each in found]
            assert states.count(200) == 17  # 16 times the longest body, in bodies of nine tenths
            assert states.count(503) == 3
            assert all(each[2]["retry-after"] == "1" for each in found if each[0] == 503)
            assert (await exchange(application, [b"a"]))[0] == 200
            live.current.artifact.may.clear()  # type: ignore[attr-defined]
            status, found, said = await exchange(application, [b"a"])
            live.current.artifact.may.set()  # type: ignore[attr-defined]
            assert (status, said["retry-after"]) == (503, "1")
            status, _, _ = await exchange(application, [b"a"], headers=[(b"content-length", b"9" * 5000)])
            assert status == 413

    run(test)
