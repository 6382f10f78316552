"""The bodies of requests, read within limits of size and time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from limbeck.serve.limits import Limits
from limbeck.serve.refusals import Refused, busy

DRAINED_SECONDS = 2.0
"""How long the rest of a refused body is read: a client that still sends does not read the refusal."""


@dataclass(slots=True)
class Held:
    """Bytes of all bodies that are in memory."""

    size: int = 0


class Body:
    """The body of a request.

    Args:
        held: what all bodies together count on.
    """

    def __init__(self, request: Request, limits: Limits, held: Held) -> None:
        self._request, self._limits, self._held = request, limits, held
        self._size, self._ended = 0, False

    async def read(self) -> bytes:
        """All of it.

        Raises:
            Refused: it is too large, too slow, or the server holds too much already.
            ClientDisconnect: the client has gone.
        """
        most = self._limits.body
        stated = self._request.headers.get("content-length", "")
        if stated.isdecimal() and (len(stated) > 18 or int(stated) > most):
            raise self._too_large()
        parts = []
        try:
            async with asyncio.timeout(self._limits.seconds):
                while not self._ended:
                    part = await self._next()
                    self._size += len(part)
                    self._held.size += len(part)
                    if self._size > most:
                        raise self._too_large()
                    if self._held.size > self._limits.held:
                        raise busy("the server holds as many requests as it may; try again")
                    parts.append(part)
        except TimeoutError:
            raise Refused(
                408, f"the request did not arrive within {self._limits.seconds:g} s; send it faster, or a smaller one"
            ) from None
        return b"".join(parts)

    async def drain(self) -> None:
        """Reads and forgets what is left, for a while."""
        size = 0
        try:
            async with asyncio.timeout(DRAINED_SECONDS):
                while not self._ended and size <= 4 * self._limits.body:
                    size += len(await self._next())
        except (TimeoutError, ClientDisconnect):
            pass

    def release(self) -> None:
        """Says that it is no longer in memory."""
        self._held.size -= self._size
        self._size = 0

    async def _next(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._ended = True
            raise ClientDisconnect
        self._ended = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    def _too_large(self) -> Refused:
        most = self._limits.body / 2**20
        return Refused(413, f"a request may have {most:g} MB; send less at a time (whoever runs the server: --max-mb)")
