"""A labelling that tests start as a process of its own, to kill it or to run it on two processes.

At the end each process writes how many samples its teacher saw, beside the folder.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from limbeck import label
from limbeck.sources import load
from limbeck.sources.views import Crop
from limbeck.store import DenseLogits, SampledLogits


class Slow(nn.Module):
    """A teacher that takes its time, so that a kill finds it at work."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        self.seconds = seconds
        self.seen = 0

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(self.seconds)
        self.seen += len(inputs)
        logits: Tensor = self.net(inputs)
        return logits


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codec", choices=["dense", "sampled"], default="dense")
    parser.add_argument("--seconds", type=float, default=0.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = load("digits").train.with_view(Crop(1), seed=3, count=2)
    codec = DenseLogits() if options.codec == "dense" else SampledLogits()
    teacher = Slow(options.seconds)
    label(teacher, train, options.folder, signals={"logits": codec}, batch_size=8, name="slow")
    Path(f"{options.folder}-saw-{os.environ.get('RANK', '0')}").write_text(str(teacher.seen))


if __name__ == "__main__":
    main()
