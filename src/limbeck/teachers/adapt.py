"""From the student's inputs to what a teacher expects: other mean, std, size, or channels."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from limbeck.errors import LimbeckError
from limbeck.types import Batch, Preprocessing


class Adapter(Protocol):
    """Takes a student's batch to the one that a teacher expects. Its `repr` says all that it does: a label store keeps
    it as a part of the teacher's identity."""

    def __call__(self, batch: Batch) -> Batch: ...


class InputAdapter:
    """Takes inputs prepared for the student to what the teacher expects: other mean, std, size, or channels.

    Inputs are (batch, channels, height, width). The two normalisations are folded into one scale and shift a channel;
    what needs no change is not touched.
    """

    def __init__(self, given: Preprocessing, expected: Preprocessing) -> None:
        if given.channels not in (1, expected.channels):
            raise LimbeckError(
                f"the data has {given.channels} channels, the teacher expects {expected.channels}; "
                "only grey images can be given to a colour model"
            )
        self._described = f"InputAdapter({given}, {expected})"
        self._channels = expected.channels if expected.channels != given.channels else None
        self._size = expected.size if expected.size != given.size else None
        repeat = expected.channels // given.channels
        mean, std = torch.tensor(given.mean * repeat), torch.tensor(given.std * repeat)
        own_mean, own_std = torch.tensor(expected.mean), torch.tensor(expected.std)
        scale, shift = std / own_std, (mean - own_mean) / own_std
        same = torch.allclose(scale, torch.ones_like(scale)) and torch.allclose(shift, torch.zeros_like(shift))
        self._affine = None if same else (scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1))

    def __repr__(self) -> str:
        return self._described

    def __call__(self, batch: Batch) -> Batch:
        inputs = batch["inputs"]
        if self._channels is not None:
            inputs = inputs.expand(-1, self._channels, -1, -1)
        if self._affine is not None:
            scale, shift = (each.to(inputs) for each in self._affine)
            inputs = torch.addcmul(shift, inputs, scale)
        if self._size is not None:
            inputs = F.interpolate(inputs, self._size, mode="bilinear", align_corners=False, antialias=True)
        return batch if inputs is batch["inputs"] else {**batch, "inputs": inputs}


def adapter(given: Preprocessing | None, expected: Preprocessing | None) -> InputAdapter | None:
    """The InputAdapter between two preparations, or None where one is unknown or they are equal."""
    return None if given is None or expected is None or given == expected else InputAdapter(given, expected)
