"""A model made ready to run: a call without arguments, and what a row must say of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.bench.machine import Others, flags, processor
from limbeck.bench.steadiness import summary
from limbeck.bench.timing import interleave, warm_up
from limbeck.errors import LimbeckError
from limbeck.types import Batch

Answers = list[NDArray[Any]]

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
QUANTIZED = (torch.int8, torch.uint8, torch.qint8, torch.quint8)

COMPILED_VARIANTS = 256
"""How many shapes and thread counts of one class's forward torch.compile may know: beyond its default of 8 it would run
eager PyTorch without a word."""


@dataclass(frozen=True, slots=True, eq=False)
class Runner:
    """A model that is ready to run on inputs that it holds.

    Attributes:
        run: one pass; it returns when the outputs are there.
        read: what a pass gave, as arrays in the order of the outputs.
        threads: of the processor, also PyTorch's while this runs.
        batch: samples in a pass.
    """

    runtime: str
    device: str
    precision: str
    threads: int
    batch: int
    run: Callable[[], Any]
    read: Callable[[Any], Answers]

    def where(self) -> dict[str, Any]:
        """What a row says of its times: `runtime`, `device`, `flags` (of a processor), `precision`, `threads` and
        `batch`."""
        told = {"runtime": self.runtime, "device": self.device, "precision": self.precision}
        told |= {"flags": flags()} if self.device == processor() else {}
        return {**told, "threads": self.threads, "batch": self.batch}


def precision_of(module: nn.Module) -> str:
    """The number formats of a module's weights, joined by +: fp32, fp16, bf16, fp64, int8."""
    tensors = [*module.parameters(), *(each for each in module.buffers() if each.dtype in QUANTIZED)]
    names = {"int8" if each.dtype in QUANTIZED else PRECISIONS.get(each.dtype, str(each.dtype)) for each in tensors}
    return "+".join(sorted(names)) or "fp32"


def eager(module: nn.Module, run: Callable[[Batch], Any], batch: Batch, *, threads: int = 1) -> Runner:
    """A module in eval mode, run by `run` in eager PyTorch on `batch`, whose tensors are where the module is; their
    first dimension is the batch size."""
    return _in_pytorch(module, run, batch, "eager", threads)


def compiled(module: nn.Module, run: Callable[[Batch], Any], batch: Batch, *, threads: int = 1) -> Runner:
    """As `eager`, compiled by torch.compile for the shapes of `batch`. The first pass compiles."""
    torch._dynamo.config.recompile_limit = COMPILED_VARIANTS
    return _in_pytorch(module, torch.compile(run, dynamic=False), batch, "compiled", threads)


def on_cuda(module: nn.Module, batch: Batch) -> tuple[nn.Module, Batch]:
    """A copy of both on the GPU.

    Raises:
        LimbeckError: there is none.
    """
    if not torch.cuda.is_available():
        raise LimbeckError("cuda: PyTorch sees no GPU here; measure on cpu")
    return copy.deepcopy(module).to("cuda"), {name: each.to("cuda") for name, each in batch.items()}


def _in_pytorch(module: nn.Module, run: Callable[[Batch], Any], batch: Batch, how: str, threads: int) -> Runner:
    inputs = next(iter(batch.values()))
    on_gpu = inputs.is_cuda

    def once() -> Any:
        with torch.inference_mode():
            output = run(batch)
        if on_gpu:
            torch.cuda.synchronize()
        return output

    precision = precision_of(module)
    if on_gpu and precision == "fp32" and torch.backends.cudnn.allow_tf32:
        precision = "fp32, convolutions in tf32"
    device = torch.cuda.get_device_name() if on_gpu else processor()
    return Runner(f"pytorch {torch.__version__} {how}", device, precision, threads, len(inputs), once, arrays_of)


def arrays_of(output: Any) -> Answers:
    """The tensors of a model's output, copied to arrays."""
    tensors = [output] if isinstance(output, Tensor) else list(output.values())
    return [each.detach().float().cpu().numpy().copy() if each.is_floating_point() else each.cpu().numpy()
            for each in tensors]  # fmt: skip


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Gives PyTorch that many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def latency(
    runners: Mapping[str, Runner], *, seconds: float = 0.5, rounds: int = 200, least: int = 1
) -> dict[str, dict[str, Any]]:
    """How long each of `runners` takes for a pass, warm and in turns (see `limbeck.bench.timing`).

    Args:
        seconds: about how long to measure each, in at most `rounds` turns, and at `least` so many.

    Returns:
        For each the keys of `limbeck.bench.steadiness.summary` and of `Runner.where`, and `others`: how many processors
        other programs used meanwhile.

    Raises:
        LimbeckError: they have different numbers of threads, which PyTorch has only one of at a time.
    """
    threads = {runner.threads for runner in runners.values()}
    if len(threads) > 1:
        raise LimbeckError(f"latency: one number of threads at a time, got {sorted(threads)}; measure them in turn")
    with torch_threads(next(iter(threads), 1)):
        for runner in runners.values():
            warm_up(runner.run, seconds=seconds)
        others = Others()
        times = interleave(
            {name: each.run for name, each in runners.items()}, seconds=seconds, rounds=rounds, least=least
        )
    told = {"others": others.used()}
    return {name: {**summary(times[name], runner.batch), **told, **runner.where()} for name, runner in runners.items()}
