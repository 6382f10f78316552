"""The server's addresses: `/`, `/predict`, `/healthz` and `/metrics`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from limbeck.serve.batching import Batcher
from limbeck.serve.bodies import Body, Held
from limbeck.serve.decoding import Items, kind_of, of_form, of_json, of_one
from limbeck.serve.fields import checked
from limbeck.serve.limits import Limits
from limbeck.serve.live import Live
from limbeck.serve.metrics import Metrics
from limbeck.serve.page import page
from limbeck.serve.refusals import Refused

LOOK_SECONDS = 0.5
"""How often the folders are looked at for new versions."""


class Application:
    """What answers requests. `asgi` is what a server runs.

    Args:
        live: the artifact that answers.
        teacher: another of the same task, whose answers are given beside it where a request asks for them.
        batch: inputs that are run together, at most.
        wait: seconds that a request waits for others to be run with.
        say: is told of new versions.
    """

    def __init__(
        self, live: Live, teacher: Live | None = None, *, limits: Limits | None = None, batch: int = 32,
        wait: float = 0.002, say: Callable[[str], None] = lambda _line: None, look_seconds: float = LOOK_SECONDS,
    ) -> None:  # fmt: skip
        self.models = {"student": live} | ({} if teacher is None else {"teacher": teacher})
        self.limits = limits or Limits()
        self.metrics, self.page = Metrics(), page()
        self._batch, self._wait, self._say, self._look_seconds = batch, wait, say, look_seconds
        self._batchers: dict[str, Batcher] = {}
        self._held = Held()
        self.asgi = Starlette(
            routes=[
                Route("/", self._page),
                Route("/predict", self._predict, methods=["POST"]),
                Route("/healthz", self._health),
                Route("/metrics", self._metrics),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _failed},
            lifespan=self._life,
        )

    @asynccontextmanager
    async def _life(self, _asgi: Starlette) -> AsyncIterator[None]:
        for name, live in self.models.items():
            observe = self.metrics.batch.labels(name).observe
            self._batchers[name] = Batcher(live, most=self._batch, wait=self._wait, limits=self.limits, observe=observe)
        tasks = [asyncio.create_task(each.run()) for each in self._batchers.values()]
        tasks += [asyncio.create_task(self._watch(live)) for live in self.models.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for batcher in self._batchers.values():
                batcher.close()

    async def _watch(self, live: Live) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            line = await asyncio.to_thread(live.look)
            if line is not None:
                self._say(line)

    async def _predict(self, request: Request) -> Response:
        started = time.perf_counter()
        body = Body(request, self.limits, self._held)
        try:
            response = _json(200, await self._answers(request, body))
        except Refused as refusal:
            body.release()
            if refusal.status != 408:
                await body.drain()
            response = _json(refusal.status, {"error": refusal.message}, refusal.headers)
        except ClientDisconnect:
            response = _json(400, {"error": "the client has gone"})
        finally:
            body.release()
        self.metrics.requests.labels(str(response.status_code)).inc()
        self.metrics.seconds.observe(time.perf_counter() - started)
        return response

    async def _answers(self, request: Request, body: Body) -> dict[str, Any]:
        student = self._batchers["student"]
        student.check_room(1)
        asked = request.query_params.get("teacher", "0").lower()
        if asked not in ("0", "1", "true", "false"):
            raise Refused(422, f"teacher: expected 1 or 0, got {asked[:60]!r}")
        beside = asked in ("1", "true")
        if beside and "teacher" not in self._batchers:
            raise Refused(422, "teacher: this server has none; start it with --teacher ARTIFACT")
        kind = kind_of(request.headers)
        inputs = await self._inputs(request, kind, await body.read())
        if not beside:
            found = await student.ask(inputs)
            return {"version": found.version, "answers": found.answers}
        asking = [each.ask(inputs) for each in (student, self._batchers["teacher"])]
        both = await asyncio.gather(*asking, return_exceptions=True)
        for each in both:
            if isinstance(each, BaseException):
                raise each
        own, other = ({"version": each.version, "answers": each.answers} for each in both)  # type: ignore[union-attr]
        return {**own, "teacher": other}

    async def _inputs(self, request: Request, kind: str, data: bytes) -> list[Any]:
        card, limits = self.models["student"].card, self.limits

        def read() -> list[Any]:
            items: Items
            if kind == "json":
                items = of_json(card.task, data, limits)
            elif kind == "form":
                items = of_form(request.headers["content-type"], data, limits)
            else:
                items = of_one(card.task, kind, data, request.query_params)
            return checked(card, items, limits)

        # Large ones would keep all others waiting.
        return read() if len(data) < 2**14 else await asyncio.to_thread(read)

    async def _health(self, _request: Request) -> Response:
        limits = self.limits
        said: dict[str, Any] = {"status": "ok", **_version(self.models["student"])}
        card = self.models["student"].card
        said |= {"task": card.task, "classes": list(card.classes), "waiting": self._batchers["student"].inputs}
        said["teacher"] = _version(self.models["teacher"]) if "teacher" in self.models else None
        said["limits"] = {name: getattr(limits, name) for name in ("body", "pixels", "inputs", "characters", "waiting")}
        return _json(200, said)

    async def _metrics(self, _request: Request) -> Response:
        text = self.metrics.text(self.models, self._batchers["student"])
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    async def _page(self, _request: Request) -> Response:
        return Response(self.page.html, media_type="text/html", headers=self.page.headers)


def _version(live: Live) -> dict[str, Any]:
    rejected = live.rejected
    return {
        "version": live.current.name,
        "since": round(live.current.since, 3),
        "refused": None
        if rejected is None
        else {"version": rejected.name, "error": rejected.error, "at": round(rejected.at, 3)},
    }


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    # Errors repeat what was sent, which may be half of a surrogate pair.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    return Response(text, status, {"cache-control": "no-store", **(headers or {})}, "application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    hint = "; there are /, /predict, /healthz and /metrics"
    if error.status_code == 405:
        hint = "; POST inputs to it" if request.url.path == "/predict" else "; GET it"
    return _json(error.status_code, {"error": f"{error.detail.lower()}{hint}"}, dict(error.headers or {}))


async def _failed(_request: Request, _error: Exception) -> Response:
    return _json(500, {"error": "the server failed on this request; see its log"})
