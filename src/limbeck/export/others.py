"""The same graphs for other runtimes, beside the ONNX files: torch.export's programs, OpenVINO's and ExecuTorch's."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.errors import LimbeckError, nearest
from limbeck.export.checking import Run
from limbeck.export.graphs import ByPlace, any_size, first_line, quiet
from limbeck.export.plans import Arrays, Part
from limbeck.types import Batch

KINDS = ("torch", "openvino", "executorch")


def known_kinds(kinds: tuple[str, ...]) -> None:
    """Raises LimbeckError where a kind is unknown, or its runtime is not installed."""
    for kind in kinds:
        if kind not in KINDS:
            raise LimbeckError(f"--also {kind}: unknown{nearest(kind, KINDS)}; expected one of {', '.join(KINDS)}")
        if kind != "torch" and importlib.util.find_spec(kind) is None:
            raise LimbeckError(f'--also {kind}: needs it: pip install "limbeck[{kind}]"')


def write_other(
    kind: str, part: Part, example: Batch, onnx: Path, *, static: bool, longest: int | None = None
) -> tuple[Run, list[Path]]:
    """Writes a graph for another runtime beside its ONNX file; what runs it, and its files. `longest` is the most
    tokens of a text; ExecuTorch, which plans its memory, takes one sample at a time.

    Raises:
        LimbeckError: the runtime cannot have it.
    """
    try:
        with quiet():
            if kind == "executorch":
                return _executorch(part, example, onnx, longest)
            return (_program if kind == "torch" else _openvino)(part, example, onnx, static)
    except Exception as error:  # each runtime has classes of its own
        raise LimbeckError(f"the {part.name} cannot be exported for {kind}: {first_line(error)}") from None


def _program(part: Part, example: Batch, onnx: Path, static: bool) -> tuple[Run, list[Path]]:
    feeds = tuple(example[name] for name in part.inputs)
    free = tuple(
        any_size({place: axis for place, axis in part.free[name].items() if not (static and place == 0)})
        for name in part.inputs
    )
    program = torch.export.export(ByPlace(part.module).eval(), feeds, dynamic_shapes=(free,), strict=False)
    path = onnx.with_suffix(".pt2")
    torch.export.save(program, path)
    module = torch.export.load(path).module()

    def run(arrays: Arrays) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(arrays[name]) for name in part.inputs))
        return {name: each.numpy() for name, each in zip(part.outputs, found, strict=True)}

    return run, [path]


def _openvino(part: Part, _example: Batch, onnx: Path, _static: bool) -> tuple[Run, list[Path]]:
    import openvino

    path = onnx.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(str(onnx)), str(path), compress_to_fp16=False)
    # Its own choice is bf16 where the processor has it, which is another model.
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(arrays: Arrays) -> dict[str, NDArray[Any]]:
        found = compiled({name: arrays[name] for name in part.inputs})
        return {name: found[name] for name in part.outputs}

    return run, [path, path.with_suffix(".bin")]


def _executorch(part: Part, example: Batch, onnx: Path, longest: int | None) -> tuple[Run, list[Path]]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    bounds: dict[str, Any] = {}
    for axes in part.free.values():
        for place, axis in axes.items():
            if place:
                bounds.setdefault(axis, torch.export.Dim(axis, min=1, max=longest))
    feeds = tuple(example[name][:1] for name in part.inputs)
    free = tuple({place: bounds[axis] for place, axis in part.free[name].items() if place} for name in part.inputs)
    program = torch.export.export(ByPlace(part.module).eval(), feeds, dynamic_shapes=(free,), strict=False)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    path = onnx.with_suffix(".pte")
    path.write_bytes(lowered.buffer)
    method = Runtime.get().load_program(path).load_method("forward")

    def one(arrays: Arrays) -> dict[str, NDArray[Any]]:
        found = method.execute([torch.from_numpy(arrays[name]) for name in part.inputs])
        return {name: each.numpy().copy() for name, each in zip(part.outputs, found, strict=True)}

    return one_at_a_time(one), [path]


def one_at_a_time(run: Run) -> Run:
    """A graph that takes one sample, run on each of a batch."""

    def each_alone(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        count = len(next(iter(arrays.values())))
        parts = [run({name: each[at : at + 1] for name, each in arrays.items()}) for at in range(count)]
        return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}

    return each_alone
