"""Connections: uvicorn's, of which none is kept for ever without a request."""

from __future__ import annotations

import asyncio
import math

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from limbeck.serve.application import Application


def server_of(application: Application) -> uvicorn.Server:
    """A server of the application, that ends once what was asked is answered."""
    seconds = application.limits.seconds

    class Connection(H11Protocol):
        """One that is closed where no whole head of a request comes in time; uvicorn waits for the first for ever."""

        _waits: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_answering() and self._waits is not None:
                self._waits.cancel()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._waits is not None:
                self._waits.cancel()

        def _wait(self) -> None:
            if self._waits is not None:
                self._waits.cancel()
            self._waits = self.loop.call_later(seconds, self._end)

        def _end(self) -> None:
            if not self._is_answering() and not self.transport.is_closing():
                self.transport.close()

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

    config = uvicorn.Config(
        application.asgi, http=Connection, ws="none", log_config=None, access_log=False, lifespan="on",
        server_header=False, timeout_graceful_shutdown=math.ceil(seconds) + 1,
    )  # fmt: skip
    return uvicorn.Server(config)
