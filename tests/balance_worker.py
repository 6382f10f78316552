"""A training balanced by its gradients that a test starts on one process or two; it writes its losses and probes."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from torch import nn
from transformers import TrainingArguments

from limbeck import Distiller, DistillTrainer, Term
from limbeck.losses import KD, Supervised
from limbeck.sources import as_training_data


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("end", type=Path)
    parser.add_argument("batch_size", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (64,), generator=generator)
    labels[::3] = -1
    data, _ = as_training_data((torch.randn(64, 6, generator=generator), labels), 3)
    distiller = Distiller(net(0), net(1), [Term(Supervised(), 0.3), Term(KD(2.0), 0.7)], balance="gradient")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=20, per_device_train_batch_size=options.batch_size, learning_rate=0.1,
            optim="sgd", logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
            dataloader_pin_memory=False, dataloader_drop_last=True, max_grad_norm=0.0,
        )  # fmt: skip
        trainer = DistillTrainer(distiller, arguments, train_dataset=data, probe_every=5)
        trainer.train()
    if trainer.is_world_process_zero():
        history = trainer.state.log_history
        keys = ("gradient/norm/supervised", "gradient/norm/kd", "gradient/cosine/kd")
        end = {
            "losses": [entry["loss"] for entry in history if "loss" in entry],
            "probes": [[entry[key] for key in keys] for entry in history if keys[0] in entry],
            "world": trainer.args.world_size,
        }
        options.end.write_text(json.dumps(end))


if __name__ == "__main__":
    main()
