"""Which endpoint is asked, and what may be spent on it."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from urllib.parse import urlsplit

from limbeck.errors import LimbeckError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A language model behind an OpenAI-compatible HTTP interface, as vLLM, llama.cpp and others serve it.

    Args:
        url: where `/completions` and `/chat/completions` are, such as `http://localhost:8000/v1`; nothing is sent
            anywhere else.
        model: what the endpoint calls the model.
        key_variable: the environment variable with the key, if the endpoint wants one. It is read when a question is
            sent, and written nowhere.
        timeout: seconds in which an endpoint may say nothing.
        attempts: how often a question is sent, while the endpoint is busy or out of reach.
        concurrency: questions under way at once.

    Raises:
        LimbeckError: the url is none, or has a password in it; a number is out of range.
    """

    url: str
    model: str
    key_variable: str = "LIMBECK_API_KEY"
    timeout: float = 600.0
    attempts: int = 8
    concurrency: int = 8

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LimbeckError(f"endpoint {self.url!r}: expected a url such as http://localhost:8000/v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise LimbeckError(
                f"endpoint {parts.scheme}://{parts.hostname}: the url must have no user, password or query; give the "
                f"key in the environment variable {self.key_variable}"
            )
        if not 0 < self.timeout < math.inf or self.attempts < 1 or self.concurrency < 1:
            raise LimbeckError(
                f"endpoint {self.url}: timeout, attempts and concurrency must be above 0, got {self.timeout}, "
                f"{self.attempts} and {self.concurrency}"
            )

    @property
    def base(self) -> str:
        """The url without a slash at its end; with `/v1` where it names a host only."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"

    @property
    def local(self) -> bool:
        """Whether it is on this machine, where no proxy has to be asked."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent in one go: `requests`, those that are sent again included, and `tokens` of prompts and answers
    as the endpoint counts them. None is no limit. What is under way when it is spent is still taken in."""

    requests: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("requests", self.requests), ("tokens", self.tokens)):
            if value is not None and value < 1:
                raise LimbeckError(f"budget: {name} must be above 0, got {value}")
