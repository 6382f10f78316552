"""Latency on this machine: warm, interleaved, with its spread, and with what it was measured on."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.types import Batch


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def latency(
    readers: Mapping[str, Callable[[Batch], object]],
    batch: Batch,
    *,
    threads: int = 1,
    seconds: float = 0.5,
    rounds: int = 200,
) -> dict[str, dict[str, Any]]:
    """Milliseconds that each of `readers` takes for a batch: models in eval mode, run in eager PyTorch.

    They take turns, so that a slow moment of the machine is shared; five passes each come before the clock.

    Args:
        batch: on the device where the models are; the first dimension of its tensors is the batch size.
        threads: CPU threads for PyTorch while it measures.
        seconds: about how long to measure each model, at most `rounds` passes.

    Returns:
        For each model `p50`, `p95` and `min` in milliseconds, `rounds`, and where: `runtime`, `device`, `precision`,
        `threads`, `batch`.
    """
    inputs = next(iter(batch.values()))
    times: dict[str, list[float]] = {name: [] for name in readers}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for reader in readers.values():
                for _ in range(5):
                    reader(batch)
            start = time.perf_counter()
            while len(next(iter(times.values()))) < rounds:
                for name, reader in readers.items():
                    _synchronize(inputs)
                    begin = time.perf_counter()
                    reader(batch)
                    _synchronize(inputs)
                    times[name].append(1000 * (time.perf_counter() - begin))
                if time.perf_counter() - start > seconds * len(readers):
                    break
    finally:
        torch.set_num_threads(before)
    device = torch.cuda.get_device_name() if inputs.is_cuda else processor()
    return {name: _summary(values, device, threads, len(inputs)) for name, values in times.items()}


def _summary(times: list[float], device: str, threads: int, batch: int) -> dict[str, Any]:
    values = torch.tensor(times, dtype=torch.float64)
    return {
        "p50": values.median().item(),
        "p95": values.quantile(0.95).item(),
        "min": values.min().item(),
        "rounds": len(times),
        "runtime": f"pytorch {torch.__version__} eager",
        "device": device,
        "precision": "fp32",
        "threads": threads,
        "batch": batch,
    }


def _synchronize(inputs: Tensor) -> None:
    if inputs.is_cuda:
        torch.cuda.synchronize()
