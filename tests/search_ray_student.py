"""A student that fails in a Ray worker where a test tells it to: a file `raise` or `die` in a folder does it once."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from torch import nn


def student(num_classes: int, faults: str) -> nn.Module:
    if "RAY_JOB_ID" in os.environ:
        with suppress(FileNotFoundError):
            (Path(faults) / "raise").unlink()
            raise RuntimeError("told to fail")
        with suppress(FileNotFoundError):
            (Path(faults) / "die").unlink()
            os._exit(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))
