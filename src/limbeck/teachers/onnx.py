"""A frozen .onnx file as a teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import torch

from limbeck.errors import LimbeckError
from limbeck.models.embeddings import EMBEDDING
from limbeck.onnx_sessions import open_session
from limbeck.taps import LOGITS
from limbeck.teachers.adapt import Adapter
from limbeck.teachers.base import Teacher
from limbeck.teachers.fingerprint import combined
from limbeck.types import Batch, Signal


class Onnx(Teacher):
    """A frozen .onnx file, run by ONNX Runtime on the CPU (`pip install 'limbeck[onnx]'`).

    The file's first input takes the batch's `inputs`; its output named `logits`, or its only output, gives the
    logits, or the embedding where that is asked for. A file exported with a fixed batch is run in pieces of that size.
    """

    def __init__(self, path: str | Path, *, adapt: Adapter | None = None) -> None:
        self.path = Path(path)
        self._adapt = adapt
        if not self.path.is_file():
            raise LimbeckError(f"{self.path}: no such .onnx file")
        self._session = open_session(self.path)
        self._input = self._session.get_inputs()[0]
        batch = self._input.shape[0]
        self._fixed_batch = batch if isinstance(batch, int) else None
        names = [output.name for output in self._session.get_outputs()]
        if LOGITS not in names and len(names) > 1:
            raise LimbeckError(f"{self.path}: none of its outputs {names} is named 'logits'; export it so")
        self._names = {(LOGITS if len(names) == 1 else name): name for name in names}
        self._only = names[0] if len(names) == 1 else None
        self._wanted: tuple[str, ...] = (LOGITS,)

    def require(self, names: Collection[str]) -> None:
        if self._only is not None and set(names) == {EMBEDDING}:
            self._names, self._wanted = {EMBEDDING: self._only}, (EMBEDDING,)
            return
        missing = set(names) - self._names.keys()
        if missing:
            raise LimbeckError(
                f"{self.path} cannot give {min(missing)!r}: an .onnx file has no modules to tap, only its outputs "
                f"{sorted(self._names)}"
            )
        self._wanted = tuple(sorted({LOGITS, *names}))

    def identity(self) -> str:
        with self.path.open("rb") as file:
            return combined(hashlib.file_digest(file, "sha256").hexdigest(), repr(self._adapt))

    def __call__(self, batch: Batch) -> Signal:
        if self._adapt is not None:
            batch = self._adapt(batch)
        inputs = batch["inputs"]
        array = inputs.detach().cpu().numpy()
        size = self._fixed_batch or max(len(array), 1)
        if len(array) % size:
            raise LimbeckError(
                f"{self.path} takes batches of exactly {size}, which does not divide this batch of {len(array)}; "
                "export it with a dynamic batch"
            )
        outputs = [self._names[name] for name in self._wanted]
        pieces = [
            self._session.run(outputs, {self._input.name: array[start : start + size]})
            for start in range(0, len(array), size)
        ]
        signals = (torch.cat([torch.from_numpy(part) for part in parts]) for parts in zip(*pieces, strict=True))
        return Signal({name: tensor.to(inputs.device) for name, tensor in zip(self._wanted, signals, strict=True)})
