"""A student that fails in a Ray worker where a test tells it to: a file `raise` or `die` in a folder does it once, and
while there is a file `slow`, a step takes a second."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from torch import Tensor, nn


class Slow(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(1.0)
        return inputs


def student(num_classes: int, faults: str) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes)]
    if "RAY_JOB_ID" in os.environ:
        with suppress(FileNotFoundError):
            (Path(faults) / "raise").unlink()
            raise RuntimeError("told to fail")
        with suppress(FileNotFoundError):
            (Path(faults) / "die").unlink()
            os._exit(1)
        if (Path(faults) / "slow").exists():
            layers.append(Slow())
    return nn.Sequential(*layers)
