"""What it costs to read and write stored labels, against tensors in memory.

    python -m benchmarks.store_io [--rounds 20] [--threads 2] [--json FILE]

Reading: a batch of random records, against `index_select` of the same batch from a tensor in memory that holds what the
store gives (float32). Writing: encoding and writing shards, against `torch.save` of the values that are encoded.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import interleaved, machine, ratio, timed, write
from limbeck.store import (
    Codec,
    DenseLogits,
    Features,
    Items,
    LabelStore,
    Plan,
    Records,
    SampledLogits,
    SignalPlan,
    StoreWriter,
    TopKLogits,
)


@dataclass(frozen=True)
class Case:
    """A codec, the shape of an item, how many are stored, and how many a batch reads."""

    name: str
    codec: Codec
    shape: tuple[int, ...]
    stored: int
    batch: int


CASES = (
    Case("128 × 10 logits, dense", DenseLogits(), (10,), 50_000, 128),
    Case("128 × 1,000 logits, dense", DenseLogits(), (1000,), 10_000, 128),
    Case("1,024 tokens, V = 4,096, top-k 32", TopKLogits(k=32), (4096,), 8_192, 1024),
    Case("1,024 tokens, V = 4,096, sampled 12", SampledLogits(), (4096,), 8_192, 1024),
    Case("1,024 × 256 features, 16 bits", Features(), (256,), 16_384, 1024),
    Case("1,024 × 256 features, 8 bits", Features(bits=8), (256,), 16_384, 1024),
)


def written(case: Case, values: Tensor, folder: Path) -> LabelStore:
    """A store of one signal with a record an item."""
    ids = torch.arange(case.stored)
    none = torch.full_like(ids, -1)
    signals = {"logits": SignalPlan("sample", case.shape, case.codec)}
    writer = StoreWriter(folder, Plan("bench", "0", None, None, 0, signals, (case.stored,)))
    writer.begin()
    columns = case.codec.encode(values, Items(ids, ids * 0, ids * 0, none, 0))
    writer.write(0, Records(ids, ids * 0, ids, torch.ones_like(ids), {"logits": columns}))
    writer.finish()
    return LabelStore.open(folder)


def compare(case: Case, rounds: int, folder: Path) -> dict[str, Any]:
    """Reading and writing of one case."""
    torch.manual_seed(0)
    values = torch.randn(case.stored, *case.shape) * 2
    start = time.perf_counter()
    store = written(case, values, folder / "store")
    middle = time.perf_counter()
    torch.save(values, folder / "values.pt")
    saving = time.perf_counter() - middle
    target = store.read("logits", torch.arange(case.stored))
    given = target if isinstance(target, Tensor) else target.ids  # type: ignore[union-attr]
    ids = torch.randint(0, case.stored, (case.batch,))
    runs: dict[str, Callable[[], float]] = {
        "bare": lambda: timed(lambda: given.index_select(0, ids), 20),
        "store": lambda: timed(lambda: store.read("logits", store.rows(ids)), 20),
    }
    seconds = interleaved(runs, rounds)
    return {
        "bytes_an_item": store.manifest.bytes / case.stored,
        "bare_us": 1e6 * sorted(seconds["bare"])[rounds // 2],
        "store_us": 1e6 * sorted(seconds["store"])[rounds // 2],
        "read_ratio": ratio(seconds, "store", "bare"),
        "items_a_second": case.stored / (middle - start),
        "write_ratio": (middle - start) / saving,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/store_io.json"))
    options = parser.parse_args()
    print(machine(options.threads))
    print(f"{'':38}{'bytes':>8}{'bare, µs':>10}{'store, µs':>11}{'ratio':>7}{'items/s':>11}{'÷ torch.save':>14}")
    results = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            results[case.name] = row = compare(case, options.rounds, Path(folder))
        print(
            f"{case.name:38}{row['bytes_an_item']:8.1f}{row['bare_us']:10.1f}{row['store_us']:11.1f}"
            f"{row['read_ratio']:7.1f}{row['items_a_second']:11,.0f}{row['write_ratio']:14.1f}",
            flush=True,
        )
    write(options.json, results)


if __name__ == "__main__":
    main()
