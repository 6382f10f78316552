"""Questions to an HTTP endpoint: sent again while it is busy, within a budget, the key kept to itself."""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import math
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from limbeck.errors import LimbeckError, nearest
from limbeck.teachers.endpoint.settings import Budget, Endpoint

log = logging.getLogger(__name__)

BUSY = (408, 425, 429, 500, 502, 503, 504)
"""What an endpoint answers that may answer otherwise a little later."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before a question is sent again: the first time, and at most. Each is half as much again or half less, so
that those who were turned away together do not come back together."""

PATIENCE = 900.0
"""The longest wait in seconds that an endpoint may ask for."""


class BudgetSpent(Exception):
    """Nothing more may be asked."""


class Refused(LimbeckError):
    """The endpoint will not answer this question; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Sends questions and counts what they cost; used by several threads at once.

    Attributes:
        requests, tokens: spent so far.
        stop: ends waits before a question is sent again; set by who wants no more answers.
    """

    def __init__(self, endpoint: Endpoint, budget: Budget | None = None) -> None:
        self.endpoint = endpoint
        self.budget = budget or Budget()
        self.requests = self.tokens = 0
        self.stop = threading.Event()
        self._lock = threading.Lock()
        # An address on this machine is never asked for through a proxy, and no endpoint may send a key elsewhere.
        proxies = [urllib.request.ProxyHandler({})] if endpoint.local else []
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)

    @property
    def spent(self) -> str:
        """What was spent, for a message."""
        return f"{self.requests:,} requests and {self.tokens:,} tokens"

    def check_model(self) -> None:
        """Raises LimbeckError where the endpoint does not serve the model; one that lists none is believed."""
        try:
            listed = self._sent("GET", "/models", None)
        except Refused as error:
            if error.status in (404, 405, 501):
                return
            raise
        data = listed.get("data")
        names = [str(each.get("id")) for each in data if isinstance(each, Mapping)] if isinstance(data, list) else []
        if names and self.endpoint.model not in names:
            raise LimbeckError(
                f"{self.endpoint.base} has no model {self.endpoint.model!r}{nearest(self.endpoint.model, names)}"
            )

    def ask(self, path: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a question, as JSON has it.

        Raises:
            BudgetSpent: before it was sent.
            LimbeckError: the endpoint refuses it, says nothing that can be read, or is out of reach for too long.
        """
        answer = self._sent("POST", path, {"model": self.endpoint.model, **question})
        usage = answer.get("usage")
        total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
        if not isinstance(total, int) and self.budget.tokens is not None:
            raise LimbeckError(
                f"{self.endpoint.base} does not say how many tokens an answer costs, so a budget of tokens cannot be "
                "kept; give one of requests"
            )
        with self._lock:
            self.tokens += total if isinstance(total, int) else 0
        return answer

    def _sent(self, method: str, path: str, question: Mapping[str, Any] | None) -> Mapping[str, Any]:
        where = self.endpoint.base + path
        body = None if question is None else json.dumps(question).encode()
        for attempt in range(self.endpoint.attempts):
            if question is not None:
                self._spend()
            try:
                return self._once(method, where, body)
            except _Again as error:
                last = attempt + 1 == self.endpoint.attempts
                wait = self._wait(attempt, error)
                if last or wait > PATIENCE or self.stop.is_set():
                    tried = f"{attempt + 1} times" if attempt else "once"
                    asks = f", and asks to wait {wait:,.0f} seconds" if wait > PATIENCE else ""
                    raise LimbeckError(
                        f"{where}: {error.why} (asked {tried}{asks}); see that it runs, and run the same command again"
                    ) from None
                log.info("%s: %s; asked again in %.1f seconds", where, error.why, wait)
                self.stop.wait(wait)
        raise AssertionError("an attempt gives an answer or an error")

    def _spend(self) -> None:
        with self._lock:
            requests, tokens = self.budget.requests, self.budget.tokens
            over = (requests is not None and self.requests >= requests) or (
                tokens is not None and self.tokens >= tokens
            )
            if over:
                raise BudgetSpent
            self.requests += 1

    def _once(self, method: str, where: str, body: bytes | None) -> Mapping[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "limbeck"}
        key = os.environ.get(self.endpoint.key_variable, "")
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(where, body, headers, method=method)
        try:
            with self._opener.open(request, timeout=self.endpoint.timeout) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise self._turned_away(error, where, key) from None
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise _Again(f"no answer for {self.endpoint.timeout:g} seconds") from None
            raise _Again(f"the connection failed ({str(reason) or type(reason).__name__})") from None
        try:
            answer = json.loads(text)
        except ValueError:
            raise _Again(f"the answer is no JSON ({_short(text, key)!r})") from None
        if not isinstance(answer, dict):
            raise Refused(f"{where}: expected a JSON object, got {_short(text, key)!r}", 200)
        return answer

    def _turned_away(self, error: urllib.error.HTTPError, where: str, key: str) -> Exception:
        try:
            said = _message(error.read(), key)
        except (OSError, http.client.HTTPException):
            said = ""
        status = f"{error.code} {error.reason}" + (f": {said}" if said else "")
        if error.code in BUSY:
            return _Again(status, error.headers.get("Retry-After"))
        variable = self.endpoint.key_variable
        have = "the key in" if key else "there is no key in"
        remedy = {
            401: f"; {have} the environment variable {variable}" + (" is not the one that it wants" if key else ""),
            403: f"; {have} the environment variable {variable}" + (" may not use this model" if key else ""),
            404: f"; check the url (it usually ends in /v1) and the model's name {self.endpoint.model!r}",
        }.get(error.code, "")
        if 300 <= error.code < 400:
            remedy = f"; it sends elsewhere ({error.headers.get('Location')}), which is not followed: give that url"
        return Refused(f"{where}: {status}{remedy}", error.code)

    def _wait(self, attempt: int, error: _Again) -> float:
        asked = _seconds(error.retry_after)
        if asked is not None:
            return asked
        return min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt) * random.uniform(0.5, 1.5)


class _Again(Exception):
    """A question that may be sent again."""

    def __init__(self, why: str, retry_after: str | None = None) -> None:
        super().__init__(why)
        self.why, self.retry_after = why, retry_after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _seconds(retry_after: str | None) -> float | None:
    """How long to wait, from a header with seconds or a date."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _message(body: bytes, key: str) -> str:
    """What an endpoint says of an error."""
    try:
        said = json.loads(body)
        for name in ("error", "message", "detail"):
            if isinstance(said, dict) and name in said:
                said = said[name]
        text = said if isinstance(said, str) else json.dumps(said)
    except ValueError:
        return _short(body, key)
    return _short(text.encode(), key)


def _short(text: bytes, key: str) -> str:
    """The beginning of a text in one line, without the key, which some endpoints repeat."""
    line = " ".join(text.decode(errors="replace").split())
    line = line.replace(key, "…") if key else line
    return line if len(line) <= 200 else line[:199] + "…"
