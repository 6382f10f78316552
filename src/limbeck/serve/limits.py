"""What clients may send, and how much of it may wait."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.errors import LimbeckError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of requests; what goes beyond one is refused with a message that names it.

    Attributes:
        body: bytes of a request.
        pixels: pixels of a request's pictures, which small files may have many of.
        inputs: inputs of a request.
        characters: characters of a text.
        waiting: inputs that wait or are run at a time; more are told to come back later.
        seconds: how long a request is read, and how long it waits for its answer.

    Raises:
        LimbeckError: one is not positive, or a request of the most inputs could never wait.
    """

    body: int = 16 * 2**20
    pixels: int = 50_000_000
    inputs: int = 32
    characters: int = 20_000
    waiting: int = 256
    seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("body", "pixels", "inputs", "characters", "waiting", "seconds"):
            if not getattr(self, name) > 0:
                raise LimbeckError(f"limit of {name}: expected a positive number, got {getattr(self, name)}")
        if self.waiting < self.inputs:
            raise LimbeckError(
                f"{self.waiting} inputs may wait, and a request may have {self.inputs}; let at least as many wait"
            )

    @property
    def held(self) -> int:
        """Bytes of all requests that are read at a time."""
        return 16 * self.body
