"""What a model may cost where it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.errors import LimbeckError

HEADROOM = 0.1
"""The share of a latency that is kept free: a machine is not always as quiet as when a model was measured."""

_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a sample may take (`latency`, the median in milliseconds), a file's bytes, and a sample's FLOPs;
    None where it does not matter."""

    latency: float | None = None
    bytes: float | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        if (self.latency, self.bytes, self.flops) == (None, None, None):
            raise LimbeckError("fit: without a budget every model fits; give --latency 5ms, --size 4MB or --flops 10M")

    @classmethod
    def parse(cls, latency: str | None, size: str | None, flops: str | None) -> Budget:
        """The budget that text such as `5ms`, `4MB` and `10M` means.

        Raises:
            LimbeckError: a text means no number above 0, or there is none at all.
        """
        return cls(
            None if latency is None else _number("latency", latency, _TIMES, "5ms"),
            None if size is None else _number("size", size, _BYTES, "4MB"),
            None if flops is None else _number("flops", flops, _COUNTS, "10M"),
        )

    def why_not(self, cost: Mapping[str, float], *, headroom: float = HEADROOM) -> str:
        """Why something with a `latency`, `bytes` and `flops` does not fit; empty where it does. A latency that is not
        known does not fit."""
        reasons = []
        if self.latency is not None:
            took = cost.get("latency")
            if took is None:
                reasons.append("its latency could not be measured")
            elif took > self.latency * (1 - headroom):
                kept = f" (of which {headroom:.0%} is kept free)" if took <= self.latency else ""
                reasons.append(f"{took:.3g} ms of {self.latency:.3g} ms{kept}")
        if self.bytes is not None and cost["bytes"] > self.bytes:
            reasons.append(f"{cost['bytes'] / 1e6:.3g} MB of {self.bytes / 1e6:.3g} MB")
        if self.flops is not None and cost["flops"] > self.flops:
            reasons.append(f"{cost['flops'] / 1e6:.3g} of {self.flops / 1e6:.3g} million FLOPs")
        return ", ".join(reasons)

    def over(self, cost: Mapping[str, float]) -> float:
        """By which factor the worst of its costs is above the budget: at most 1 where it fits."""
        pairs = ((self.latency, "latency"), (self.bytes, "bytes"), (self.flops, "flops"))
        return max(cost.get(name, float("inf")) / most for most, name in pairs if most is not None)

    def __str__(self) -> str:
        parts = []
        if self.latency is not None:
            parts.append(f"{self.latency:g} ms")
        if self.bytes is not None:
            kilo = self.bytes < 1e6
            parts.append(f"{self.bytes / (1e3 if kilo else 1e6):g} {'kB' if kilo else 'MB'}")
        if self.flops is not None:
            parts.append(f"{self.flops / 1e6:g} MFLOPs")
        return " and ".join(parts)

    @property
    def slug(self) -> str:
        """The budget as the name of a folder."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", str(self))


def _number(what: str, text: str, units: Mapping[str, float], example: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2] not in units or float(found[1]) <= 0:
        known = ", ".join(each for each in units if each)
        raise LimbeckError(f"--{what} {text!r}: expected a number above 0 with one of {known}, such as {example}")
    return float(found[1]) * units[found[2]]
