"""Teachers: who teaches, behind one seam: `teacher(batch) -> Signal`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from limbeck.checks import LimbeckError
from limbeck.models import as_module
from limbeck.taps import LOGITS, SignalReader
from limbeck.types import Batch, Preprocessing, Signal


class Teacher(ABC):
    """Gives signals for a batch, without gradient. It is never a submodule of what is trained."""

    @abstractmethod
    def __call__(self, batch: Batch) -> Signal:
        """The signals asked for with `require`, on the batch's device."""

    @abstractmethod
    def require(self, names: Collection[str]) -> None:
        """Says which signals calls must give; raises LimbeckError for one that this teacher cannot give."""

    def modules(self) -> Iterable[nn.Module]:
        """The modules that must stay as they are while a student learns from them."""
        return ()

    def update(self, student: nn.Module) -> None:  # noqa: B027  (most teachers have nothing to do)
        """Called after each optimizer step; only a teacher that follows its student does something."""

    def state_dict(self) -> dict[str, Tensor]:
        """What must be saved to resume; empty for a teacher that does not change."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        if state:
            raise LimbeckError(f"{type(self).__name__} has no state, but the checkpoint holds {sorted(state)[:3]}")


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
        self._channels = expected.channels if expected.channels != given.channels else None
        self._size = expected.size if expected.size != given.size else None
        repeat = expected.channels // given.channels
        mean, std = torch.tensor(given.mean * repeat), torch.tensor(given.std * repeat)
        own_mean, own_std = torch.tensor(expected.mean), torch.tensor(expected.std)
        scale, shift = std / own_std, (mean - own_mean) / own_std
        same = torch.allclose(scale, torch.ones_like(scale)) and torch.allclose(shift, torch.zeros_like(shift))
        self._affine = None if same else (scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1))

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


class Live(Teacher):
    """A module that runs beside the student, in eval mode and inference mode.

    Args:
        model: any module, or a Keras 3 model on its torch backend.
        dtype: runs the teacher in this dtype (`torch.bfloat16` halves its memory); None leaves it as it is.
        adapt: takes the student's inputs to the teacher's own normalisation and size; see `adapter`.
    """

    def __init__(
        self, model: nn.Module, *, dtype: torch.dtype | None = None, adapt: InputAdapter | None = None
    ) -> None:
        self.model = as_module(model).eval()
        if dtype is not None:
            self.model.to(dtype)
        self._dtype = dtype
        self._adapt = adapt
        self._device: torch.device | None = None
        self._read = SignalReader(self.model, (), "teacher")

    def require(self, names: Collection[str]) -> None:
        self._read = SignalReader(self.model, names, "teacher")

    def modules(self) -> Iterable[nn.Module]:
        return (self.model,)

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
            self.model.to(device)
            self._device = device
        if self.model.training:
            self.model.eval()
        with torch.inference_mode():
            signal = self._read(self.prepare(batch))
        # Inference tensors cannot be saved for a backward pass, ordinary copies of them can.
        return Signal({name: tensor.clone() for name, tensor in signal.tensors.items()}, signal.masks)


class Ensemble(Teacher):
    """Several teachers as one: the weighted mean of their signals, logits included.

    The mean of logits is the geometric mean of the teachers' distributions at every temperature
    (Hinton et al., 2015, section 2). The teachers must know the same classes in the same order.
    """

    def __init__(self, teachers: Sequence[TeacherLike], weights: Sequence[float] | None = None) -> None:
        if not teachers:
            raise LimbeckError("an ensemble needs at least one teacher")
        if weights is not None and (len(weights) != len(teachers) or sum(weights) <= 0 or min(weights) < 0):
            raise LimbeckError(
                f"an ensemble of {len(teachers)} teachers needs as many weights, none negative, not all zero; "
                f"got {list(weights)}"
            )
        self.teachers = tuple(as_teacher(teacher) for teacher in teachers)
        shares = weights or [1.0] * len(self.teachers)
        self._shares = [share / sum(shares) for share in shares]

    def require(self, names: Collection[str]) -> None:
        for teacher in self.teachers:
            teacher.require(names)

    def modules(self) -> Iterable[nn.Module]:
        return (module for teacher in self.teachers for module in teacher.modules())

    def update(self, student: nn.Module) -> None:
        for teacher in self.teachers:
            teacher.update(student)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{i}.{k}": v for i, teacher in enumerate(self.teachers) for k, v in teacher.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for i, teacher in enumerate(self.teachers):
            own = f"{i}."
            teacher.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})

    def __call__(self, batch: Batch) -> Signal:
        signals = [teacher(batch) for teacher in self.teachers]
        means: dict[str, Tensor] = {}
        for name in signals[0]:
            shapes = {tuple(signal[name].shape[1:]) for signal in signals}
            if len(shapes) > 1:
                raise LimbeckError(
                    f"the ensemble's teachers give {name} of different shapes {sorted(shapes)}; "
                    "they must know the same classes in the same order"
                )
            parts = [signal[name] * share for signal, share in zip(signals, self._shares, strict=True)]
            means[name] = reduce(torch.add, parts)
        return Signal(means, signals[0].masks)


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
        self._live = Live(deepcopy(as_module(student)))
        self._average: Any = get_ema_multi_avg_fn(decay)

    def require(self, names: Collection[str]) -> None:
        self._live.require(names)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        pairs = list(zip(_tensors(self._live.model), _tensors(student), strict=True))
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


class Onnx(Teacher):
    """A frozen .onnx file, run by ONNX Runtime on the CPU (`pip install 'limbeck[onnx]'`).

    The file's first input takes the batch's `inputs`; its output named `logits`, or its only output, gives the
    logits. A file exported with a fixed batch is run in pieces of that size.
    """

    def __init__(self, path: str | Path, *, adapt: InputAdapter | None = None) -> None:
        self.path = Path(path)
        self._adapt = adapt
        if not self.path.is_file():
            raise LimbeckError(f"{self.path}: no such .onnx file")
        try:
            import onnxruntime
        except ImportError:
            raise LimbeckError("an .onnx teacher needs ONNX Runtime: pip install 'limbeck[onnx]'") from None
        try:
            self._session = onnxruntime.InferenceSession(self.path, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has an exception class for each of its status codes
            raise LimbeckError(f"{self.path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from None
        self._input = self._session.get_inputs()[0]
        batch = self._input.shape[0]
        self._fixed_batch = batch if isinstance(batch, int) else None
        names = [output.name for output in self._session.get_outputs()]
        if LOGITS not in names and len(names) > 1:
            raise LimbeckError(f"{self.path}: none of its outputs {names} is named 'logits'; export it so")
        self._names = {(LOGITS if len(names) == 1 else name): name for name in names}
        self._wanted: tuple[str, ...] = (LOGITS,)

    def require(self, names: Collection[str]) -> None:
        missing = set(names) - self._names.keys()
        if missing:
            raise LimbeckError(
                f"{self.path} cannot give {min(missing)!r}: an .onnx file has no modules to tap, only its outputs "
                f"{sorted(self._names)}"
            )
        self._wanted = tuple(sorted({LOGITS, *names}))

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


TeacherLike = Teacher | nn.Module | str | Path | Sequence[Any]


def as_teacher(teacher: TeacherLike) -> Teacher:
    """A Teacher as it is; a module as Live; the path of an .onnx file as Onnx; a list of those as an Ensemble."""
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, str | Path):
        if Path(teacher).suffix != ".onnx":
            raise LimbeckError(f"teacher {str(teacher)!r}: a path must end in .onnx; load other models first")
        return Onnx(teacher)
    if isinstance(teacher, Sequence) and not isinstance(teacher, nn.Module):
        return Ensemble(teacher)
    return Live(as_module(teacher))


def fingerprint(modules: Iterable[nn.Module]) -> tuple[int, ...]:
    """A number for every parameter and buffer, made where it lies; equal before and after if nothing changed."""
    return tuple(
        int(torch.hash_tensor(tensor.detach()).view(torch.int64))
        for module in modules
        for tensor in _tensors(module)
        if tensor.numel()
    )


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
