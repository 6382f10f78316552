"""Memory and time of a language model's loss: dense logits against the chunked head.

    python -m benchmarks.memory [--vocabulary 151936] [--tokens 2048] [--width 512] [--repeats 3] [--threads 2]
        [--json FILE]

Forward KL of a student's head (hidden states and weight, both with gradients) from a teacher: written with torch's
functions on whole logits, and by limbeck from the teacher's dense logits, its hidden states, its top 32 and 12 draws.
Each runs in a process of its own, which measures how far its memory rises above what it had with all inputs made.
Times alternate between the two in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import machine, write
from limbeck.losses import KD
from limbeck.losses.fused import FusedTerm, fused_losses
from limbeck.types import LinearHead, Sampled, Target, TopK

DENSE = "dense, torch's functions"
WAYS = (DENSE, "dense teacher", "teacher hidden", "top-k 32", "sampled 12")


class Problem:
    """Inputs of one way; the teacher's logits only where the way is given them."""

    def __init__(self, way: str, vocabulary: int, tokens: int, width: int) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        torch.manual_seed(0)

        def normal(*shape: int, size: float = 1.0) -> Tensor:
            return (torch.randn(*shape, device=device) * size).to(dtype)

        self.way = way
        self.hidden = normal(tokens, width).requires_grad_()
        self.weight = normal(vocabulary, width, size=0.05).requires_grad_()
        self.share = torch.full((tokens,), 1 / tokens, device=device)
        self.target: Target
        if way in (DENSE, "dense teacher"):
            self.target = normal(tokens, vocabulary, size=2.0)
        elif way == "teacher hidden":
            self.target = LinearHead(normal(tokens, width), normal(vocabulary, width, size=0.05))
        else:
            ids = torch.randint(0, vocabulary, (tokens, 32 if way == "top-k 32" else 12), device=device)
            log_p = torch.randn(tokens, 33, device=device).log_softmax(1)
            entropy = torch.full((tokens,), 3.0, device=device)
            self.target = Sampled(ids, torch.full(ids.shape, 1 / 12, device=device), entropy)
            if way == "top-k 32":
                self.target = TopK(ids, log_p[:, :32].contiguous(), log_p[:, 32].contiguous())

    def step(self) -> None:
        """One forward and backward pass."""
        self.hidden.grad = self.weight.grad = None
        if self.way == DENSE:
            assert isinstance(self.target, Tensor)
            log_q = F.log_softmax(F.linear(self.hidden, self.weight).float(), -1)
            loss = F.kl_div(log_q, F.softmax(self.target.float(), -1), reduction="batchmean")
        else:
            head = LinearHead(self.hidden, self.weight)
            loss, _ = fused_losses(head, [FusedTerm(KD(1.0), self.share, self.target)])
        loss.backward()
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def peak_above(step: Callable[[], None]) -> int:
    """Bytes by which memory rises while `step` runs."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    process, done, peak = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    step()
    done.set()
    watcher.join()
    return max(peak[0], process.memory_info().rss) - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("vocabulary", 151_936), ("tokens", 2_048), ("width", 512), ("repeats", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/memory.json"))
    options = parser.parse_args()
    sizes = (options.vocabulary, options.tokens, options.width)
    said = machine(options.threads)
    if options.way:
        Problem(options.way, 1_000, 64, 32).step()  # what the libraries take once is not the loss's
        print(json.dumps(peak_above(Problem(options.way, *sizes).step)))
        return
    print(f"{said}\nV = {sizes[0]:,}, {sizes[1]:,} tokens, width {sizes[2]}")
    print(f"{'':28}{'peak, MB':>10}{'ratio':>8}{'ms':>10}{'ratio':>8}")
    results: dict[str, Any] = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.memory", "--way", way, "--threads", str(options.threads)]
        for name, value in zip(("--vocabulary", "--tokens", "--width"), sizes, strict=True):
            command += [name, str(value)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        mine, dense = Problem(way, *sizes), Problem(DENSE, *sizes)
        pairs = []
        for repeat in range(options.repeats + 1):
            start = time.perf_counter()
            dense.step()
            middle = time.perf_counter()
            mine.step()
            if repeat:
                pairs.append((time.perf_counter() - middle, middle - start))
        results[way] = {
            "peak_bytes": peak,
            "peak_ratio": peak / results[DENSE]["peak_bytes"] if results else 1.0,
            "milliseconds": 1000 * statistics.median(ours for ours, _ in pairs),
            "time_ratio": statistics.median(ours / plain for ours, plain in pairs),
        }
        row = results[way]
        print(
            f"{way:28}{peak / 1e6:10.0f}{row['peak_ratio']:8.3f}{row['milliseconds']:10.0f}{row['time_ratio']:8.2f}",
            flush=True,
        )
    write(options.json, {"vocabulary": sizes[0], "tokens": sizes[1], "width": sizes[2], "ways": results})


if __name__ == "__main__":
    main()
