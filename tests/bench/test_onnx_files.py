"""What is read from an .onnx file, against files that onnx and ONNX Runtime's quantizer wrote."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck.bench.onnx_files import read_onnx
from limbeck.errors import LimbeckError

onnx = pytest.importorskip("onnx", reason="needs limbeck[onnx]")
quantization = pytest.importorskip("onnxruntime.quantization", reason="needs limbeck[onnx]")

WIDTH = 64


def linear(path: Path, batch: int | str = "batch", dtype: str = "float32", external: bool = False) -> Path:
    """Writes a matrix product followed by Relu, of a weight of `WIDTH` by `WIDTH`."""
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", kind, [batch, WIDTH])],
        [helper.make_tensor_value_info("logits", kind, [batch, WIDTH])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def quantized(path: Path, source: Path, how: str) -> Path:
    """`source` in int8, by ONNX Runtime's own quantizer."""
    logging.disable(logging.WARNING)
    try:
        if how == "dynamic":
            quantization.quantize_dynamic(source, path)
        else:

            class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
                """Two batches."""

                def __init__(self) -> None:
                    draw = np.random.default_rng(1)
                    self._left = [{"x": draw.normal(size=(4, WIDTH)).astype("float32")} for _ in range(2)]

                def get_next(self) -> Any:
                    return self._left.pop() if self._left else None

            quantization.quantize_static(source, path, Reader(), quant_format=getattr(quantization.QuantFormat, how))
    finally:
        logging.disable(logging.NOTSET)
    return path


@pytest.mark.parametrize("how", ["dynamic", "QDQ", "QOperator"])
def test_int8_is_named(tmp_path: Path, how: str) -> None:
    """An int8 model in a table of fp32."""
    source = linear(tmp_path / "fp32.onnx")
    assert read_onnx(source).precision == "fp32"
    assert read_onnx(quantized(tmp_path / "int8.onnx", source, how)).precision == "int8"


def test_int8_inside_a_branch(tmp_path: Path) -> None:
    """A decoder with and without past is a branch; what it computes in is in there."""
    from onnx import TensorProto, helper, numpy_helper

    def branch(name: str) -> Any:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "scale"], [f"{name}q"]),
            helper.make_node("DequantizeLinear", [f"{name}q", "scale"], [name]),
        ]
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4])
        return helper.make_graph(nodes, name, [], [out])

    graph = helper.make_graph(
        [helper.make_node("If", ["first"], ["y"], then_branch=branch("a"), else_branch=branch("b"))],
        "either",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("first", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.float32(0.1), "scale")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "if.onnx")
    assert read_onnx(tmp_path / "if.onnx").precision == "int8"


def test_half_precision(tmp_path: Path) -> None:
    """fp16 weights called fp32."""
    assert read_onnx(linear(tmp_path / "half.onnx", dtype="float16")).precision == "fp16"


def test_inputs_and_sizes(tmp_path: Path) -> None:
    """A free batch that looks fixed or the reverse; a weight that is fed."""
    [free] = read_onnx(linear(tmp_path / "free.onnx")).inputs
    assert (free.name, free.dtype, free.sizes) == ("x", "float32", (None, WIDTH))
    [fixed] = read_onnx(linear(tmp_path / "fixed.onnx", batch=3)).inputs
    assert fixed.sizes == (3, WIDTH)


def test_bytes_count_the_weights_beside_it(tmp_path: Path) -> None:
    """A model of gigabytes that seems to have some kilobytes."""
    whole = read_onnx(linear(tmp_path / "whole.onnx"))
    assert whole.bytes == whole.path.stat().st_size > 4 * WIDTH * WIDTH
    apart = read_onnx(linear(tmp_path / "apart.onnx", external=True))
    assert apart.path.stat().st_size < 4 * WIDTH * WIDTH < apart.bytes


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    """protobuf's own words, or a graph of nothing that is measured."""
    for name, content in (("text.onnx", b"hello, this is text"), ("empty.onnx", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LimbeckError, match="not an ONNX file"):
            read_onnx(tmp_path / name)
    with pytest.raises(LimbeckError, match=r"gone\.onnx: no such .onnx file"):
        read_onnx(tmp_path / "gone.onnx")
