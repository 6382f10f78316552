"""Teachers: who teaches, behind one seam: `teacher(batch) -> Signal`."""

from __future__ import annotations

from limbeck.teachers.adapt import Adapter, InputAdapter, adapter
from limbeck.teachers.base import Teacher
from limbeck.teachers.ema import Ema
from limbeck.teachers.ensemble import Ensemble, TeacherLike, as_teacher
from limbeck.teachers.fingerprint import fingerprint, weights_hash
from limbeck.teachers.live import Live
from limbeck.teachers.mapped import Mapped
from limbeck.teachers.onnx import Onnx
from limbeck.teachers.several import Several
from limbeck.teachers.stored import Stored, same_inputs, same_teacher

__all__ = [
    "Adapter",
    "Ema",
    "Ensemble",
    "InputAdapter",
    "Live",
    "Mapped",
    "Onnx",
    "Several",
    "Stored",
    "Teacher",
    "TeacherLike",
    "adapter",
    "as_teacher",
    "fingerprint",
    "same_inputs",
    "same_teacher",
    "weights_hash",
]
