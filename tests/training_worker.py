"""A training that tests start as a process of its own, to kill it or to run it on two processes.

It writes `progress` (the step) while it runs, and at the end `end.json`: the weights' bits, the losses, the world size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from limbeck import Distiller, DistillTrainer
from limbeck.sources import load
from limbeck.sources.views import Crop
from limbeck.trainer import last_checkpoint

STEPS = 60


def net(seed: int, width: int, dropout: float) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.LayerNorm(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 10)
    )


class Progress(TrainerCallback):
    """Says where the run is, and slows it down so that a kill finds the step it is meant for."""

    def __init__(self, path: Path, slow: bool) -> None:
        self.path, self.slow = path, slow

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.path.write_text(str(state.global_step))
        if self.slow:
            time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--no-dropout", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = load("digits", labelled=100).train.with_view(Crop(1), seed=3).subset(range(96))
    train.lengths = torch.arange(96) % 7  # type: ignore[attr-defined]  # as texts have them, for the order of samples
    distiller = Distiller(net(0, 16, 0.0 if options.no_dropout else 0.3), net(1, 64, 0.0))
    arguments = TrainingArguments(
        output_dir=str(options.folder),
        max_steps=STEPS,
        per_device_train_batch_size=options.batch_size,
        learning_rate=0.01,
        logging_steps=1,
        save_strategy="steps",
        save_steps=3,
        save_total_limit=2,
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="group_by_length",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = DistillTrainer(
        distiller, arguments, train_dataset=train, callbacks=[Progress(options.folder / "progress", options.slow)]
    )
    checkpoint = last_checkpoint(options.folder)
    resumed_from = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.is_world_process_zero():
        state = torch.cat([tensor.flatten() for tensor in distiller.student.state_dict().values()])
        history = [entry for entry in trainer.state.log_history if "loss" in entry]
        end = {
            "weights": hashlib.sha256(state.numpy().tobytes()).hexdigest(),
            "losses": [entry["loss"] for entry in history],
            "terms": [entry["term/supervised"] for entry in history],
            "world": trainer.args.world_size,
            "resumed_from": resumed_from,
        }
        (options.folder / "end.json").write_text(json.dumps(end))


if __name__ == "__main__":
    main()
