"""What a model weighs and what a block of code takes: parameters, bytes, FLOPs, peak memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

import psutil
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from limbeck.errors import LimbeckError

SAMPLE_SECONDS = 0.02


def size_of(
    model: nn.Module,
    example_inputs: Tensor | Mapping[str, Tensor],
    run: Callable[[Any], object] | None = None,
) -> dict[str, float]:
    """`parameters`, `trainable_parameters`, `bytes` of the state dict, and `flops` of evaluating one sample.

    `example_inputs` is a batch on the model's device: a tensor (batch, …), or tensors by argument name. `run` runs the
    model on them, if a plain call does not. A tensor that several names share counts once. FLOPs are floating-point
    operations of matrix products, convolutions and attention (a multiply-add is two), as `torch.utils.flop_counter`
    counts them. The model is left as it was.

    Raises LimbeckError where the batch is empty.
    """
    tensors = [example_inputs] if isinstance(example_inputs, Tensor) else list(example_inputs.values())
    samples = len(tensors[0]) if tensors and tensors[0].ndim else 0
    if samples == 0:
        raise LimbeckError("size: expected example inputs of at least one sample, got none; give a batch (batch, …)")
    state = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    unique = {(t.data_ptr(), t.shape, t.stride(), t.dtype): t.numel() * t.element_size() for t in state if t.numel()}
    # Not every torch has a formula for the fused attention of processors; plain products it knows everywhere.
    with _evaluating(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if run is not None:
            run(example_inputs)
        elif isinstance(example_inputs, Tensor):
            model(example_inputs)
        else:
            model(**example_inputs)
    return {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "trainable_parameters": float(sum(p.numel() for p in model.parameters() if p.requires_grad)),
        "bytes": float(sum(unique.values())),
        "flops": counter.get_total_flops() / samples,
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation without gradients; then each module is back in its own mode, a frozen BatchNorm too."""
    modes = [(module, module.training) for module in model.modules()]
    # The fused path of nn.TransformerEncoderLayer is one operator without a FLOP formula: it would count as 0. So are
    # the recurrent layers of MKL-DNN and cuDNN, which are matrix products without these.
    fused = torch.backends.mha.get_fastpath_enabled()
    both: tuple[Any, Any] = (torch.backends.mkldnn, torch.backends.cudnn)
    libraries = [(library, library.enabled) for library in both]
    torch.backends.mha.set_fastpath_enabled(False)
    for library, _ in libraries:
        library.enabled = False
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for library, enabled in libraries:
            library.enabled = enabled
        for module, training in modes:
            module.training = training


class PeakMemory:
    """Peak memory of a block above what was in use when it began.

    `with PeakMemory(device) as peak: …`, then `peak.bytes` and `peak.source`: on a CUDA device `cuda`, the
    memory that torch's allocator held in tensors, exact; otherwise `rss`, the resident memory of this process
    sampled every 20 ms, which misses shorter peaks and does not see worker processes. Blocks on one CUDA
    device must not be nested: each resets torch's peak counter.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.source: Literal["cuda", "rss"] = "cuda" if self.device.type == "cuda" else "rss"
        self.bytes = 0
        self._start = 0
        self._done = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.bytes = 0
        if self.source == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
        else:
            self._start = psutil.Process().memory_info().rss
            self._done.clear()
            self._sampler = threading.Thread(target=self._sample, name="limbeck-peak-memory", daemon=True)
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is None:
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._start
            return
        self._done.set()
        self._sampler.join()
        self._sampler = None

    def _sample(self) -> None:
        process = psutil.Process()
        finished = False
        while not finished:
            finished = self._done.wait(SAMPLE_SECONDS)
            # Also once after the end, so that a block shorter than one interval is seen.
            self.bytes = max(self.bytes, process.memory_info().rss - self._start)
