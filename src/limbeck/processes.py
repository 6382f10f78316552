"""The processes that were launched together: which one this is, and how it waits for the others."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def on_cpu() -> bool:
    """Whether work runs on the CPU: there is no accelerator, or accelerate was told not to use it."""
    return bool(parse_flag_from_env("ACCELERATE_USE_CPU")) or not torch.accelerator.is_available()


def processes() -> PartialState:
    """The state of what `accelerate launch` or `torchrun` started; of one process where nothing did.

    On the CPU accelerate joins processes only where it is told that they run there: a bare `PartialState()` would take
    each for the only one, and all of them would do the whole work and write the same files.
    """
    return PartialState(cpu=on_cpu())
