"""Requests that are refused: a status, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """A request that gets no answer.

    Args:
        status: of HTTP.
        message: what is wrong and what to do, for whoever sent it.
        headers: of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def busy(message: str) -> Refused:
    """Of a server that has more to do than it may keep waiting."""
    return Refused(503, message, {"Retry-After": "1"})
