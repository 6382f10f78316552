"""What an .onnx file says of itself: its precision, its inputs, its bytes on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError

QUANTIZING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"})
"""Operators of a graph that computes in integers; so do all whose names begin with `QLinear`, of any domain."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a graph: numpy's name of its type, and its sizes, None where they are free."""

    name: str
    dtype: str
    sizes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """`bytes` counts the weights that lie in files beside it."""

    path: Path
    precision: str
    inputs: tuple[Input, ...]
    bytes: int


def read_onnx(path: Path) -> OnnxFile:
    """What the file says; its weights are not read.

    Raises:
        LimbeckError: there is no such file, it is not an ONNX file, or the package onnx is missing.
    """
    if not path.is_file():
        raise LimbeckError(f"{path}: no such .onnx file")
    try:
        import onnx
    except ImportError:
        raise LimbeckError('.onnx files need onnx and onnxruntime: pip install "limbeck[onnx]"') from None
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own class, which the package does not export
        raise LimbeckError(f"{path}: not an ONNX file ({str(error).splitlines()[0]})") from None
    if not model.graph.output:
        raise LimbeckError(f"{path}: not an ONNX file that computes anything: it has no outputs")
    weights = {each.name for each in model.graph.initializer}
    return OnnxFile(
        path=path,
        precision=_precision(model),
        inputs=tuple(_input(each) for each in model.graph.input if each.name not in weights),
        bytes=path.stat().st_size + sum(_beside(path, model)),
    )


def _input(value: Any) -> Input:
    from onnx import helper

    described = value.type.tensor_type
    sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in described.shape.dim)
    return Input(value.name, helper.tensor_dtype_to_np_dtype(described.elem_type).name, sizes)


def _precision(model: Any) -> str:
    """`int8` where activations are quantized, else the formats of the weights; `fp32, weights int8` where these alone
    are."""
    from onnx import TensorProto

    kinds = {node.op_type for graph in (model.graph, *model.functions) for node in _nodes(graph)}
    if kinds & QUANTIZING or any(kind.startswith(("QLinear", "QGemm", "QAttention")) for kind in kinds):
        return "int8"
    names = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    found = {names[each.data_type] for each in model.graph.initializer if each.data_type in names and each.dims}
    formats = "+".join(sorted(found)) or "fp32"
    stored = {"DequantizeLinear": "int8", "MatMulNBits": "int4"}
    weights = [bits for kind, bits in stored.items() if kind in kinds]
    return f"{formats}, weights {weights[0]}" if weights else formats


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph or a function, those inside of loops and branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _beside(path: Path, model: Any) -> Iterator[int]:
    """The sizes of the files of weights beside it."""
    names = {entry.value for each in model.graph.initializer for entry in each.external_data if entry.key == "location"}
    for name in sorted(names):
        if (path.parent / name).is_file():
            yield (path.parent / name).stat().st_size
