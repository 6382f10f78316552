"""Quantization-aware distillation: a student that learns as the int8 file that it will be.

aware = quantization_aware(student, example, calibration=batches)
train(Distiller(aware, teacher), data)
aware.write("student.onnx")
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from limbeck.compress.captured import capture, free_sizes, on_device
from limbeck.compress.integers import with_integers
from limbeck.compress.placing import place
from limbeck.compress.quantize import make_compact
from limbeck.compress.rounding import ActivationRange
from limbeck.errors import LimbeckError
from limbeck.export.graphs import need_libraries, plainly, write_graph
from limbeck.export.plans import Part, of_signals
from limbeck.files import staged_file
from limbeck.models import as_module, forward_of, unwrapped
from limbeck.models.detection.dense import DenseDetector
from limbeck.models.detection.sets import SetDetector
from limbeck.models.forward import evaluating
from limbeck.models.heads import is_causal_lm
from limbeck.models.huggingface import held, is_transformers
from limbeck.models.keras import KerasModule
from limbeck.taps import LOGITS, SignalReader
from limbeck.types import Batch

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""What a model of texts may read."""


class Aware(nn.Module):
    """A student that computes with the weights and activations that its int8 file will hold. `quantization_aware` makes
    it.

    It is trained, saved (`state_dict`) and copied as any module, and gives a dict of signals: those of the student, and
    what `signals=` named. In eval mode it differs from in training mode by dropout only.
    """

    def __init__(self, graph: GraphModule, example: Batch, given: Collection[str], taps: Collection[str] = ()) -> None:
        super().__init__()
        self.graph = graph
        self.example = dict(example)
        self.given, self.taps = tuple(given), tuple(taps)
        self.eval()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of what it reads of a batch."""
        return tuple(self.example)

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of what it gives beside its logits."""
        return tuple(name for name in (*self.given, *self.taps) if name != LOGITS)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """The signals for `inputs` (batch, …)."""
        return self._run(inputs)

    def _run(self, *tensors: Tensor) -> dict[str, Tensor]:
        return dict(zip((*self.given, *self.taps), self.graph(*tensors), strict=True))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Aware:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = next((each.device for each in self.parameters()), None)
        if device is not None:
            on_device(self.graph, device)
        return self

    def integers(self) -> Aware:
        """A copy in the form in which it is written, on the processor: int8 weights, and activations that pass through
        uint8. It is called as this is, gives what the file gives, and cannot be trained; `limbeck.export` writes it as
        any module."""
        converted = copy.deepcopy(self).cpu()
        converted.graph = with_integers(converted.graph)
        return converted.eval().requires_grad_(False)

    def write(self, path: str | Path, outputs: Collection[str] | None = None) -> Path:
        """Writes the int8 model as an ONNX file of any batch size (and of texts of any length), whose inputs and
        outputs are called as in limbeck.

        Args:
            outputs: the signals that the file gives; by default those that the student gives by itself.

        Raises:
            LimbeckError: there is no such signal, ONNX is not installed, or the model cannot be written.
        """
        need_libraries()
        path = Path(path)
        wanted, known = self.given if outputs is None else tuple(outputs), (*self.given, *self.taps)
        for name in wanted:
            if name not in known:
                raise LimbeckError(f"{path}: the model gives {', '.join(known)}, not {name!r}; name one of those")
        part = of_signals(self.integers(), free_sizes(self.inputs), wanted)
        with staged_file(path) as staging:
            write_graph(part, self.example, staging, static=False)
            make_compact(staging)
        return path


class AwareOfTexts(Aware):
    """Of a student that reads tokens."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The signals for tokens (batch, length)."""
        given = dict(zip(TOKENS, (input_ids, attention_mask, token_type_ids), strict=True))
        tensors = [given[name] for name in self.inputs]
        missing = [name for name in self.inputs if given[name] is None]
        if missing:
            raise LimbeckError(
                f"the batch lacks {missing[0]!r}, which the example for quantization_aware had; give both, or neither"
            )
        return self._run(*(each for each in tensors if each is not None))


def quantization_aware(
    student: nn.Module,
    example: Batch,
    *,
    calibration: Iterable[Batch],
    signals: Collection[str] = (),
) -> Aware:
    """A copy of `student` that computes as its int8 file will, calibrated and ready to be trained, by any loss.

    Weights are signed integers with a scale for each output channel, that of the largest; activations are unsigned
    ones, whose ranges are what calibration saw and are learned from there on. BatchNorm is folded into the layer before
    it with the statistics that it has: train in fp32 first, then some epochs so, at a tenth of the learning rate.

    Args:
        student: classifies, embeds or finds joints in pictures, or classifies texts or their tokens.
        example: a batch as the student takes it.
        calibration: batches of real inputs, prepared as for training; a few hundred inputs are enough.
        signals: paths of modules of the student whose outputs it is to give too, for terms on features.

    Raises:
        LimbeckError: the model is of another kind, has no layer that could be int8, cannot be followed, or gives
            numbers that are not finite for the calibration batches, of which there has to be one.
    """
    source = unwrapped(as_module(student))
    _check(source)
    inputs = _inputs(source, example)
    device = next((each.device for each in source.parameters()), torch.device("cpu"))
    example = {name: example[name].detach()[:2].to(device) for name in inputs}
    copied = copy.deepcopy(source).eval()
    with torch.no_grad(), plainly(copied):
        given = tuple(forward_of(copied)(example))
        taps = tuple(name for name in dict.fromkeys(signals) if name not in given)
        part = Part("model", _Tapped(copied, inputs, (*given, *taps)), inputs, (*given, *taps), free_sizes(inputs))
        graph = capture(part, example)
    place(graph)
    kind = Aware if inputs == ("inputs",) else AwareOfTexts
    aware = kind(graph, {name: tensor.cpu() for name, tensor in example.items()}, given, taps).to(device)
    _calibrate(aware, calibration, device)
    return aware.train(source.training)


def _calibrate(aware: Aware, batches: Iterable[Batch], device: torch.device) -> None:
    run, seen = forward_of(aware), 0
    with torch.no_grad(), evaluating(aware):
        for batch in batches:
            missing = [name for name in aware.inputs if name not in batch]
            if missing:
                raise LimbeckError(
                    f"quantization_aware: a calibration batch has {', '.join(batch)}, but not {missing[0]!r}; give "
                    "batches like the example"
                )
            run({name: batch[name].to(device) for name in aware.inputs})
            seen += 1
    if not seen:
        raise LimbeckError("quantization_aware: calibration has no batch in it; give some of the training inputs")
    for each in aware.modules():
        if isinstance(each, ActivationRange):
            each.settle()


def _inputs(model: nn.Module, example: Batch) -> tuple[str, ...]:
    """What of a batch the model reads."""
    if "inputs" in example:
        return ("inputs",)
    known = inspect.signature(held(model).forward).parameters
    found = tuple(name for name in TOKENS if name in example and name in known)
    if "input_ids" not in found:
        raise LimbeckError(
            f"quantization_aware: the example has {', '.join(example) or 'nothing'}; give 'inputs' or 'input_ids', as "
            f"{type(model).__name__} takes them"
        )
    return found


def _check(model: nn.Module) -> None:
    """Raises LimbeckError where the model is of a kind that cannot learn as int8."""
    inner: Any = held(model)
    kind = type(model).__name__
    why = None
    if isinstance(model, KerasModule):
        why = "keeps its layers in Keras"
    elif isinstance(model, Aware):
        why = "learns as int8 already"
    elif isinstance(model, (DenseDetector, SetDetector)):
        why = "detects objects, and makes its own loss of what is inside it"
    elif is_causal_lm(model) or (is_transformers(inner) and inner.config.is_encoder_decoder):
        why = "writes texts"
    if why is not None:
        raise LimbeckError(
            f"quantization_aware: {kind} {why}; train it in fp32 and quantize the exported file with quantize_onnx"
        )


class _Tapped(nn.Module):
    """A model called with tensors by place, which gives a tuple of signals, taps among them."""

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names, self.outputs = inputs, outputs
        self.reader = SignalReader(model, outputs, "student")

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The signals in the order of the outputs."""
        signal = self.reader(dict(zip(self.names, tensors, strict=True)))
        return tuple(signal[name] for name in self.outputs)
