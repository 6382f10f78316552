"""What a distilling step costs, from stored labels and with a live teacher, against bare PyTorch loops.

    python -m benchmarks.step_time [--threads 2] [--rounds 7] [--only TEXT] [--json FILE]

For each job, four figures:

* stored ÷ bare alone: a step of limbeck from a label store, against the student's cross-entropy step without a teacher;
* live ÷ bare live: a step with the teacher beside it, against the same maths written by hand with torch's functions,
  the teacher under no_grad;
* both again over whole epochs: DistillTrainer with data loading, against the same loops, which take their batches from
  tensors in memory by one permutation an epoch.

The bare loops use `torch.optim.AdamW` as it comes. Rounds interleave all of them and ratios are medians over rounds.
The models' weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments

import limbeck
from benchmarks.jobs import JOBS, Job, Rows
from benchmarks.measure import interleaved, machine, ratio, timed, write
from limbeck import Distiller, DistillTrainer, Live, Stored


class Samples(Dataset[dict[str, Any]]):
    """Rows in memory, given a batch at a time, with their numbers as ids."""

    def __init__(self, rows: Rows) -> None:
        count = len(next(iter(rows.values())))
        self.rows = {**rows, "ids": torch.arange(count)}

    def __len__(self) -> int:
        return len(self.rows["ids"])

    def __getitems__(self, indices: list[int]) -> Rows:
        at = torch.as_tensor(indices)
        return {name: values.index_select(0, at) for name, values in self.rows.items()}

    def __getitem__(self, index: int) -> Rows:
        return {name: values[index] for name, values in self.rows.items()}


def collate(batch: Any) -> Any:
    """Batches are made by the data set."""
    return batch


def bare(job: Job, student: nn.Module, teacher: nn.Module | None, rows: Rows) -> Callable[[int], float]:
    """Seconds a step, over so many steps, of the loop that one would write by hand."""
    model = copy.deepcopy(student).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    count = len(next(iter(rows.values())))

    def run(steps: int) -> float:
        start = time.perf_counter()
        for step in range(steps):
            if step % job.batches == 0:
                order = torch.randperm(count)
            at = order[step % job.batches * job.batch :][: job.batch]
            loss = job.plain(model, {name: values[at] for name, values in rows.items()}, teacher)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - start) / steps

    return run


def stepped(job: Job, student: nn.Module, teacher: limbeck.Teacher, rows: Samples) -> Callable[[int], float]:
    """Seconds a step of a Distiller in a loop of one's own."""
    distiller = Distiller(copy.deepcopy(student), teacher, job.terms()).train()
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-3, fused=True)

    def run(steps: int) -> float:
        start = time.perf_counter()
        for step in range(steps):
            if step % job.batches == 0:
                order = torch.randperm(len(rows))
            batch = rows.__getitems__(order[step % job.batches * job.batch :][: job.batch])  # type: ignore[arg-type]
            loss = distiller(batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - start) / steps

    return run


class Clock(TrainerCallback):
    """The time of each step's end, so that the Trainer's set-up is not counted as steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.times.append(time.perf_counter())


def trained(job: Job, student: nn.Module, teacher: limbeck.Teacher, rows: Samples) -> Callable[[int], float]:
    """Seconds a step of DistillTrainer, whole epochs with data loading."""

    def run(steps: int) -> float:
        distiller = Distiller(copy.deepcopy(student), teacher, job.terms())
        optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-3, fused=True)
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=steps + 1,
                per_device_train_batch_size=job.batch,
                max_grad_norm=0.0,
                dataloader_pin_memory=False,
                dataloader_drop_last=True,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                log_level="error",
                use_cpu=not torch.cuda.is_available(),
            )
            trainer = DistillTrainer(
                distiller,
                arguments,
                train_dataset=rows,
                data_collator=collate,
                callbacks=[clock],
                optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
            )
            for callback in list(trainer.callback_handler.callbacks):
                if type(callback).__name__ == "PrinterCallback":
                    trainer.remove_callback(callback)
            trainer.train()
        return (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)

    return run


def compare(job: Job, rounds: int, folder: Path) -> dict[str, Any]:
    """The four ratios of a job, and the milliseconds behind them."""
    torch.manual_seed(0)
    student, teacher = job.models()
    teacher.eval()
    plain = job.data(job.batch * job.batches)
    rows = Samples(plain)
    store = limbeck.label(teacher, rows, folder, signals=job.codecs, batch_size=job.batch, collate=collate, say=_silent)
    runs = {
        "bare alone": bare(job, student, None, plain),
        "bare live": bare(job, student, teacher, plain),
        "stored": stepped(job, student, Stored(store), rows),
        "live": stepped(job, student, Live(copy.deepcopy(teacher)), rows),
        "stored, epochs": trained(job, student, Stored(store), rows),
        "live, epochs": trained(job, student, Live(copy.deepcopy(teacher)), rows),
    }
    for run in runs.values():
        timed(lambda run=run: run(1), 1)  # type: ignore[misc]
    seconds = interleaved({name: lambda run=run: run(job.steps) for name, run in runs.items()}, rounds)  # type: ignore[misc]
    pairs = {
        "stored": ("bare alone", job.stored),
        "live": ("bare live", job.live),
        "stored, epochs": ("bare alone", 1.1 * job.stored),
        "live, epochs": ("bare live", 1.1 * job.live),
    }
    return {
        "milliseconds": {name: 1000 * statistics.median(values) for name, values in seconds.items()},
        "ratios": {name: ratio(seconds, name, plain) for name, (plain, _) in pairs.items()},
        "bars": {name: bar for name, (_, bar) in pairs.items()},
        "rounds": seconds,
    }


def _silent(_line: str) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="run the jobs whose name contains this")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/step_time.json"))
    options = parser.parse_args()
    print(machine(options.threads))
    print(f"{'job':36}{'':16}{'bare, ms':>10}{'limbeck, ms':>13}{'ratio':>8}{'bar':>6}")
    results: dict[str, Any] = {}
    for job in JOBS:
        if options.only.lower() not in job.name.lower():
            continue
        with tempfile.TemporaryDirectory() as folder:
            results[job.name] = found = compare(job, options.rounds, Path(folder) / "labels")
        for name, value in found["ratios"].items():
            base = found["milliseconds"]["bare alone" if name.startswith("stored") else "bare live"]
            mine = found["milliseconds"][name]
            print(f"{job.name:36}{name:16}{base:10.3f}{mine:13.3f}{value:8.2f}{found['bars'][name]:6.2f}", flush=True)
    write(options.json, {"threads": options.threads, "torch": torch.__version__, "jobs": results})


if __name__ == "__main__":
    main()
