"""What a distilling step costs: DistillTrainer with a live teacher against a bare PyTorch loop of the same maths.

    python benchmarks/step_time.py [--threads 2] [--rounds 7] [--json FILE]

Each job alternates between the two for `rounds` rounds and takes medians, so that a slow moment of the machine
meets both. The bare loop uses the same optimizer, the teacher under inference mode, and torch's own losses; it gathers
its batches from tensors in memory by one permutation an epoch.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from limbeck import Distiller, DistillTrainer, Live, Term
from limbeck.bench import processor
from limbeck.losses import KD, Supervised
from limbeck.models import conv_student, conv_teacher, dense_student, dense_teacher
from limbeck.sources import as_training_data, collate_samples

BATCH = 128
TEMPERATURE = 4.0


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def bare(student: nn.Module, teacher: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> float:
    """Seconds of `steps` steps of the loop that one would write by hand."""
    optimizer = optimizer_of(student)
    student.train()
    teacher.eval()
    order = torch.randperm(len(inputs))
    start = time.perf_counter()
    for step in range(steps):
        at = order[(step * BATCH) % (len(inputs) - BATCH + 1) :][:BATCH]
        x, y = inputs[at], labels[at]
        with torch.inference_mode():
            taught = teacher(x)
        logits = student(x)
        soft = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, -1), F.softmax(taught.clone() / TEMPERATURE, -1), reduction="batchmean"
        )
        loss = 0.1 * F.cross_entropy(logits, y) + 0.9 * TEMPERATURE**2 * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


class Clock(TrainerCallback):
    """The time between the Trainer's first and last step, so that its set-up is not counted as steps."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *args: object, **kwargs: object) -> None:
        self.times.append(time.perf_counter())


def trained(student: nn.Module, teacher: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> float:
    """Seconds of `steps` steps of DistillTrainer."""
    objective = [Term(Supervised(), weight=0.1), Term(KD(TEMPERATURE), weight=0.9)]
    distiller = Distiller(student, Live(teacher), objective)
    optimizer = optimizer_of(distiller)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps + 1,
            per_device_train_batch_size=BATCH,
            max_grad_norm=0.0,
            dataloader_pin_memory=False,
            dataloader_drop_last=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = DistillTrainer(
            distiller,
            arguments,
            train_dataset=as_training_data((inputs, labels), 10)[0],
            data_collator=collate_samples,
            callbacks=[clock],
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)),
        )
        trainer.train()
    return clock.times[-1] - clock.times[0]


def compare(make: Callable[[], tuple[nn.Module, nn.Module]], shape: tuple[int, ...], steps: int, rounds: int) -> dict:
    """Medians of both, in milliseconds a step, and the median of the rounds' ratios."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(BATCH * 64, *shape), torch.randint(0, 10, (BATCH * 64,))
    student, teacher = make()
    pairs = []
    for round_ in range(rounds + 1):
        plain = bare(copy.deepcopy(student), copy.deepcopy(teacher), inputs, labels, steps)
        ours = trained(copy.deepcopy(student), copy.deepcopy(teacher), inputs, labels, steps)
        if round_:
            pairs.append((plain, ours))
    return {
        "bare_ms": 1000 * statistics.median(plain for plain, _ in pairs) / steps,
        "limbeck_ms": 1000 * statistics.median(ours for _, ours in pairs) / steps,
        "ratio": statistics.median(ours / plain for plain, ours in pairs),
        "ratios": [ours / plain for plain, ours in pairs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/step_time.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    jobs = {
        "dense 784-128-64-10 → 784-64-10": (lambda: (dense_student(), dense_teacher()), (1, 28, 28), 400, 1.5),
        "conv 32-64 → 16-32, 1×28×28": (lambda: (conv_student(), conv_teacher()), (1, 28, 28), 30, 1.1),
    }
    print(f"{processor()}, torch {torch.__version__}, {options.threads} threads, batch {BATCH}, fp32, live teacher")
    print(f"{'job':36}{'bare, ms':>10}{'limbeck, ms':>13}{'ratio':>8}{'bar':>6}")
    results = {}
    for name, (make, shape, steps, bar) in jobs.items():
        results[name] = found = compare(make, shape, steps, options.rounds) | {"bar": bar}
        print(
            f"{name:36}{found['bare_ms']:10.3f}{found['limbeck_ms']:13.3f}{found['ratio']:8.2f}{bar:6.2f}", flush=True
        )
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"threads": options.threads, "jobs": results}, indent=1))


if __name__ == "__main__":
    main()
