"""A module that teaches while the student learns."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import nn

from limbeck.models import as_module
from limbeck.models.layout import (
    channels_last_batch,
    channels_last_model,
    contiguous_batch,
    refuses_channels_last,
)
from limbeck.shortcuts import SHORTCUTS, known_shortcuts
from limbeck.taps import SignalReader, signals_given_by
from limbeck.teachers.adapt import Adapter
from limbeck.teachers.base import Teacher
from limbeck.teachers.fingerprint import combined
from limbeck.teachers.folding import FoldedModel
from limbeck.types import Batch, Signal


class Live(Teacher):
    """A module that runs beside the student, in eval mode and without gradient.

    Args:
        model: any module, or a Keras 3 model on its torch backend.
        dtype: runs the teacher in this dtype (`torch.bfloat16` halves its memory); None leaves it as it is.
        adapt: takes the student's inputs to the teacher's own normalisation and size; see `adapter`.
        shortcuts: which of `fold-batchnorm` (on a copy; the model stays as it is), `channels-last` and `linear-head`
            it takes.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        dtype: torch.dtype | None = None,
        adapt: Adapter | None = None,
        shortcuts: Collection[str] = SHORTCUTS,
    ) -> None:
        self.model = as_module(model).eval()
        if dtype is not None:
            self.model.to(dtype)
        self._dtype = dtype
        self._adapt = adapt
        self._shortcuts = known_shortcuts(shortcuts)
        self._names: Collection[str] = ()
        self._device: torch.device | None = None
        self._folded: FoldedModel | None = None
        self._read = SignalReader(self.model, (), "teacher")
        self._heads = False

    def require(self, names: Collection[str]) -> None:
        self._names = names
        self._read = SignalReader(self.model, names, "teacher")
        self._folded = None

    def offers(self, name: str) -> bool:
        return name in signals_given_by(self.model)

    def give_heads(self, wanted: bool) -> bool:
        self._heads = wanted and "linear-head" in self._shortcuts and self._read.has_head
        return self._heads

    def modules(self) -> Iterable[nn.Module]:
        return (self.model,)

    def identity(self) -> str:
        if self._adapt is None:
            return super().identity()
        return combined(super().identity(), repr(self._adapt))

    def prepare(self, batch: Batch) -> Batch:
        """The batch as the model takes it: adapted to its normalisation and size, and in its dtype."""
        if self._adapt is not None:
            batch = self._adapt(batch)
        if self._dtype is not None:
            batch = {k: v.to(self._dtype) if v.is_floating_point() else v for k, v in batch.items()}
        return batch

    def __call__(self, batch: Batch) -> Signal:
        device = batch["inputs"].device if "inputs" in batch else next(iter(batch.values())).device
        if device != self._device:
            self._move(device)
        if self.model.training:
            self.model.eval()
        # Not inference mode: a loss of the user's may save what the teacher gives for its backward pass.
        with torch.no_grad():
            prepared = self.prepare(batch)
            try:
                return self._answer(prepared)
            except RuntimeError as error:
                if "channels-last" not in self._shortcuts or not refuses_channels_last(error):
                    raise
            self._shortcuts -= {"channels-last"}
            self.model.to(memory_format=torch.contiguous_format)
            self._folded = None
            return self._answer(prepared)

    def _answer(self, batch: Batch) -> Signal:
        batch = channels_last_batch(batch) if "channels-last" in self._shortcuts else contiguous_batch(batch)
        if self._folded is not None and not self._folded.current:
            self._folded = None
        if self._folded is None and "fold-batchnorm" in self._shortcuts:
            self._folded = FoldedModel(self.model, batch, self._names)
            self._read = SignalReader(self._folded.model or self.model, self._names, "teacher")
        return self._read.with_head(batch) if self._heads else self._read(batch)

    def _move(self, device: torch.device) -> None:
        self.model.to(device)
        if "channels-last" in self._shortcuts:
            channels_last_model(self.model)
        self._device = device
        self._folded = None
