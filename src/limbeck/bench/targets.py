"""What runs a model: a runtime, a device and a number of threads, written `onnxruntime:cpu:1`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.errors import LimbeckError, nearest

RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "eager": ("cpu", "cuda"),
    "compiled": ("cpu", "cuda"),
    "onnxruntime": ("cpu", "cuda"),
    "openvino": ("cpu",),
    "openvino-fp32": ("cpu",),
}
"""The runtimes and their devices. `openvino` chooses its precision itself, which is bf16 where the processor has it;
`openvino-fp32` is the same runtime kept to fp32."""

PYTORCH = ("eager", "compiled")
"""The runtimes that run a module as it is; the others run an ONNX file."""


@dataclass(frozen=True, slots=True)
class Target:
    """What runs a model; `threads` None leaves their number to whoever measures."""

    runtime: str
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise LimbeckError(f"unknown runtime {self.runtime!r}{nearest(self.runtime, RUNTIMES)}")
        if self.device not in RUNTIMES[self.runtime]:
            known = RUNTIMES[self.runtime]
            raise LimbeckError(f"{self.runtime}: unknown device {self.device!r}{nearest(self.device, known)}")
        if self.threads is not None and self.threads < 1:
            raise LimbeckError(f"{self.runtime}: expected 1 thread or more, got {self.threads}")

    @classmethod
    def parse(cls, text: str) -> Target:
        """The target that `RUNTIME`, `RUNTIME:DEVICE` or `RUNTIME:DEVICE:THREADS` names.

        Raises:
            LimbeckError: a part is unknown or too many, naming the nearest that is known.
        """
        parts = text.strip().split(":")
        if len(parts) > 3:
            raise LimbeckError(f"target {text!r}: expected RUNTIME, RUNTIME:DEVICE or RUNTIME:DEVICE:THREADS")
        threads = parts[2] if len(parts) == 3 else None
        if threads is not None and not threads.isdecimal():
            raise LimbeckError(f"target {text!r}: expected a number of threads, got {threads!r}")
        return cls(parts[0], parts[1] if len(parts) > 1 else "cpu", None if threads is None else int(threads))

    def __str__(self) -> str:
        return ":".join([self.runtime, self.device, *([] if self.threads is None else [str(self.threads)])])


def parse_targets(texts: list[str]) -> list[Target]:
    """The targets of a list whose members may hold several with commas; each once, in their order."""
    names = [name for text in texts for name in text.split(",") if name.strip()]
    return list(dict.fromkeys(Target.parse(name) for name in names))
