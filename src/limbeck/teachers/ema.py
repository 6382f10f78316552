"""The student's own average as its teacher."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from limbeck.errors import LimbeckError
from limbeck.models import as_module
from limbeck.shortcuts import SHORTCUTS
from limbeck.teachers.base import Teacher
from limbeck.teachers.fingerprint import tensors_of
from limbeck.teachers.live import Live
from limbeck.types import Batch, Signal


class Ema(Teacher):
    """The student's own exponential moving average as its teacher (mean teacher; Tarvainen & Valpola, 2017).

    Weights and floating-point buffers follow as `average = decay · average + (1 - decay) · student` after every
    optimizer step. DistillTrainer calls `update`; a loop of your own must: `teacher.update(student)`.

    Args:
        student: the module that will be trained; it is copied.
        decay: between 0 and 1.
    """

    def __init__(self, student: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise LimbeckError(f"Ema: decay must be at least 0 and below 1, got {decay}")
        # What follows the student at every step would have to be folded anew at every step.
        self._live = Live(deepcopy(as_module(student)), shortcuts=SHORTCUTS - {"fold-batchnorm"})
        self._average: Any = get_ema_multi_avg_fn(decay)

    @property
    def model(self) -> nn.Module:
        """The average itself."""
        return self._live.model

    def require(self, names: Collection[str]) -> None:
        self._live.require(names)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        pairs = list(zip(tensors_of(self._live.model), tensors_of(student), strict=True))
        moving = [(mine.detach(), theirs.detach()) for mine, theirs in pairs if mine.is_floating_point()]
        if moving and moving[0][0].device != moving[0][1].device:
            self._live.model.to(moving[0][1].device)
            return self.update(student)
        self._average([mine for mine, _ in moving], [theirs for _, theirs in moving], None)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return self._live.model.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._live.model.load_state_dict(state)

    def __call__(self, batch: Batch) -> Signal:
        return self._live(batch)
