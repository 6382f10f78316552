"""`limbeck bench`: how fast models are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from limbeck.errors import LimbeckError
from limbeck.terminal import clear_errors, console, say

if TYPE_CHECKING:
    from limbeck.results import Row

INCOMPLETE = 3
"""The exit code where a row lacks a number."""

MISSING = "–"


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Folders that limbeck saved or exported, a run's folder, .onnx files, or models by name (resnet20, "
            "timm:resnet18, hf:FOLDER), which are built untrained.",
        ),
    ],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="RUNTIME[:DEVICE[:THREADS]]",
            help="eager, compiled, onnxruntime, openvino (in the precision that it chooses, often bf16), "
            "openvino-fp32; with commas, or again. DEVICE: cpu or cuda. Without it: eager, and onnxruntime for .onnx "
            "files.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Samples in a pass, with commas.")] = "1",
    threads: Annotated[str, typer.Option("--threads", help="Threads of the processor, with commas.")] = "1",
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="About how long each row is measured.")] = 2.0,
    memory: Annotated[
        bool, typer.Option("--memory", help="Also the peak memory, in a fresh process for each row.")
    ] = False,
    energy: Annotated[
        bool, typer.Option("--energy", help="Also the energy of a pass, where this machine counts it (RAPL, NVML).")
    ] = False,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Of a model by name.")] = 100,
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="Pixels a side. Without it: the model's own, else 32.")
    ] = None,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Of a model by name.")] = 3,
    length: Annotated[
        int | None, typer.Option("--length", min=1, help="Tokens of a text. Without it: 64, or the model's most.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the rows there.")] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Allow models named python:package.module:function, which run code.")
    ] = False,
) -> None:
    """Measure how fast models are on this machine: in PyTorch, compiled, in ONNX Runtime and in OpenVINO.

    Every model first has to give the answers that PyTorch gives. All of one batch size and number of threads then take
    turns in random order, warm, so that a slow moment of the machine meets all alike. A time is only shown where its
    median is known well enough; else a line says what to do, and the exit code is 3.

    A row names runtime and precision, as int8 can be slower than fp32, and OpenVINO computes fp32 models in bf16 where
    the processor has it. PyTorch models are exported for the runtimes that read ONNX.

    Examples: `limbeck bench runs/digits --on eager,onnxruntime --batch 1,8`;
    `limbeck bench timm:resnet18 small.onnx --on onnxruntime:cpu:1,openvino:cpu:1 --memory --json times.json`
    """
    with clear_errors():
        from limbeck.bench.targets import parse_targets

        targets = parse_targets(on or [])
        batches, counts = _numbers("--batch", batch), _numbers("--threads", threads)

        from limbeck.bench.measure import bench as measure
        from limbeck.bench.measure import disturbed, refusals
        from limbeck.bench.subjects import Asked, open_subject
        from limbeck.compare import versions
        from limbeck.results import Results

        asked = Asked(classes, size, channels, length)
        with console.status("opening") as status:

            def watch(line: str) -> None:
                status.update(Text(line))

            subjects = []
            for name in dict.fromkeys(models):
                watch(f"opening {name}")
                subjects.append(open_subject(name, asked, trust_code=trust_code))
            rows = measure(
                subjects, targets, batches=batches, threads=counts, seconds=seconds, memory=memory, energy=energy,
                watch=watch,
            )  # fmt: skip
        _show(rows)
        refused = list(refusals(rows))
        busy = disturbed(rows)
        for line in [*refused, *([busy] if busy else [])]:
            say(line)
        if json is not None:
            options = {"models": models, "on": on or [], "batch": batches, "threads": counts, "seconds": seconds}
            Results({"bench": options}, versions(), rows, notes=[*refused, *([busy] if busy else [])]).write(json)
            say(f"rows     {json}")
    if refused:
        raise typer.Exit(INCOMPLETE)


def _numbers(option: str, text: str) -> list[int]:
    """The numbers of a list with commas, each once, sorted.

    Raises:
        LimbeckError: one is no whole number of 1 or more.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = [part for part in parts if not part.isdecimal() or int(part) < 1]
    if wrong:
        raise LimbeckError(f"{option}: expected numbers of 1 or more with commas between, got {wrong[0]!r} in {text!r}")
    return sorted({int(part) for part in parts})


def _show(rows: Sequence[Row]) -> None:
    """A table for each batch size and number of threads, and one of memory and energy where these were measured. The
    processor stands above, or in each row where there are several devices."""
    devices = list(dict.fromkeys(row.latency["device"] for row in rows))
    flags = next((row.latency["flags"] for row in rows if row.latency.get("flags")), "")
    if len(devices) == 1:
        say(f"on {devices[0]}{f' ({flags})' if flags else ''}")
    for batch, threads in dict.fromkeys((row.latency["batch"], row.latency["threads"]) for row in rows):
        say(f"\nbatch {batch}, {'1 thread' if threads == 1 else f'{threads} threads'}")
        here = [row for row in rows if (row.latency["batch"], row.latency["threads"]) == (batch, threads)]
        _table(here, len(devices) > 1, TIMES)
        asked = {heading: cell for heading, cell in COSTS.items() if any(cell(row) != MISSING for row in here)}
        if asked:
            _table(here, len(devices) > 1, asked)


def _spread(row: Row) -> str:
    value = row.latency.get("spread")
    return MISSING if value is None else f"{value:.1%}"


def _joules(row: Row) -> str:
    """Millijoules a pass, or that nothing counts them."""
    known = row.latency.get("energy_source") == "none"
    return "no counter" if known else _number(row.latency.get("joules"), 1e3)


Cells = Mapping[str, Callable[["Row"], str]]

TIMES: Cells = {
    "p50, ms": lambda row: _number(row.latency.get("p50")),
    "p95, ms": lambda row: _number(row.latency.get("p95")),
    "samples/s": lambda row: _number(row.latency.get("throughput")),
    "spread": _spread,
}
COSTS: Cells = {
    "memory, MB": lambda row: _number(row.cost.get("run_memory_bytes"), 1e-6),
    "model's, MB": lambda row: _number(row.cost.get("run_memory_model_bytes"), 1e-6),
    "energy, mJ": _joules,
}


def _table(rows: Sequence[Row], name_device: bool, columns: Cells) -> None:
    table = Table(box=None, padding=(0, 1))
    for heading in ("model", "runtime", "precision", *(("device",) if name_device else ())):
        table.add_column(heading, overflow="fold", min_width=9)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        told = row.latency
        names = [row.name, told["runtime"], told["precision"], *([told["device"]] if name_device else [])]
        # Text, not str: a name with brackets is not markup.
        table.add_row(*map(Text, [*names, *(cell(row) for cell in columns.values())]))
    console.print(table)


def _number(value: float | None, factor: float = 1.0) -> str:
    """Three digits that count; a dash where there is no number."""
    if value is None:
        return MISSING
    scaled = factor * value
    return f"{scaled:,.0f}" if scaled >= 100 else f"{scaled:.3g}"
