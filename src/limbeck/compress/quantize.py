"""Post-training int8: an ONNX file with weights and activations of eight bits, from one of 32."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from limbeck.errors import LimbeckError, nearest
from limbeck.files import staged_file
from limbeck.onnx_sessions import open_session

Kind = Literal["static", "dynamic"]
Arrays = Mapping[str, np.ndarray[Any, Any]]
"""A batch as ONNX Runtime takes it: arrays by the names of the model's inputs."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that hold nearly all weights."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """What `quantize_onnx` wrote.

    Attributes:
        path: the int8 file.
        kind: `static` or `dynamic`.
        bytes: of the files before and after.
        layers: the names of the layers with weights that are int8 now.
    """

    path: Path
    kind: Kind
    bytes: tuple[int, int]
    layers: tuple[str, ...]

    @property
    def smaller(self) -> float:
        """How many times smaller the file is."""
        return self.bytes[0] / self.bytes[1]


def quantize_onnx(
    source: str | Path,
    target: str | Path,
    *,
    kind: Kind = "static",
    calibration: Iterable[Arrays] | None = None,
    exclude: Collection[str] = (),
) -> Quantized:
    """Writes an int8 copy of the model at `source` to `target`; weights have a scale for each output channel.

    `static` has fixed ranges of the activations, seen in the `calibration` batches (a few hundred real inputs,
    prepared as for the model), written as pairs of QuantizeLinear and DequantizeLinear that runtimes fuse. `dynamic`
    takes the ranges of each input as it comes and needs no data; it suits transformers, and makes convolutions slow.
    What comes behind the last layer with weights, such as a detector's boxes in pixels, stays fp32.

    Args:
        exclude: names of layers that stay as they are, as `layers_of` and `sensitivity` give them.

    Raises:
        LimbeckError: onnxruntime is not installed, a file or name is unknown, or calibration data do not fit.
    """
    source, target = Path(source), Path(target)
    with prepared(source) as model:
        known = layers_of_prepared(model)
        for name in exclude:
            if name not in known:
                raise LimbeckError(f"{source}: no layer {name!r} to exclude{nearest(name, known)}")
        chosen = tuple(name for name in known if name not in exclude)
        if not chosen:
            raise LimbeckError(f"{source}: no layer with weights is left to quantize; exclude fewer")
        batches = checked(model, calibration, source) if kind == "static" else []
        with staged_file(target) as staging:
            write_quantized(model, staging, kind, batches, exclude=list(exclude))
            make_compact(staging)
    return Quantized(target, kind, (source.stat().st_size, target.stat().st_size), chosen)


def layers_of(source: str | Path) -> dict[str, str]:
    """The names of the layers with weights in the model at `source`, with their operators."""
    with prepared(Path(source)) as model:
        return layers_of_prepared(model)


def layers_among(source: str | Path, names: Collection[str]) -> list[str]:
    """Those of `names`, which are of several models, that are layers of the model at `source`."""
    return [name for name in layers_of(source) if name in names] if names else []


def write_quantized(
    model: Path,
    target: Path,
    kind: Kind,
    batches: Sequence[Arrays],
    *,
    exclude: list[str] | None = None,
    only: list[str] | None = None,
) -> None:
    """Quantizes a prepared model; `only` names the nodes to quantize, `exclude` those to leave."""
    _, quantization = _libraries()
    left = [*(exclude or []), *(behind_the_last_layer(model) if only is None else [])]
    options: dict[str, Any] = {"per_channel": True, "nodes_to_exclude": left or None, "nodes_to_quantize": only}
    if kind == "static":
        # ONNX Runtime leaves a layer in fp32 whose signed activations another layer reads too, on x86 at least.
        options["activation_type"] = quantization.QuantType.QUInt8
        quantization.quantize_static(model, target, _reader(batches, quantization), **options)
    else:
        quantization.quantize_dynamic(model, target, **options)


@contextmanager
def prepared(source: Path) -> Iterator[Path]:
    """A copy of the model with its shapes inferred and its constants folded, in which every node has a name.

    Raises:
        LimbeckError: there is no such file, or it is not a model that can be quantized.
    """
    onnx, quantization = _libraries()
    if not source.is_file():
        raise LimbeckError(f"{source}: no such .onnx file")
    with tempfile.TemporaryDirectory(prefix="limbeck-") as folder:
        named, done = Path(folder) / "named.onnx", Path(folder) / "prepared.onnx"
        try:
            model = onnx.load(source)
            if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in model.graph.node):
                raise LimbeckError(f"{source}: is quantized already; give the model that it was made from")
            # Shapes that an exporter noted are in the way where ONNX Runtime makes other nodes of its nodes.
            del model.graph.value_info[:]
            _name(model.graph.node)
            onnx.save(model, named)
            # Symbolic shapes need sympy's patience and are no better on what torch exports.
            quantization.shape_inference.quant_pre_process(named, done, skip_symbolic_shape=True)
            model = onnx.load(done)
            _name(model.graph.node)
            onnx.save(model, done)
        except LimbeckError:
            raise
        except Exception as error:  # onnx, protobuf and ONNX Runtime have classes of their own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise LimbeckError(f"{source}: cannot be prepared for int8 ({lines[0]}); export it again") from None
        yield done


def _name(nodes: Any) -> None:
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)


def layers_of_prepared(model: Path) -> dict[str, str]:
    """The names of the nodes that hold weights, with their operators."""
    onnx, _ = _libraries()
    graph = onnx.load(model).graph
    constants = {each.name for each in graph.initializer}
    return {
        node.name: node.op_type
        for node in graph.node
        if node.op_type in WEIGHTED and any(name in constants for name in node.input[:2])
    }


def make_compact(path: Path) -> None:
    """Gives all that is inside the model at `path` short names, and keeps equal constants (zero points, mostly) once:
    of a small one in int8 that is a third of the file."""
    onnx, _ = _libraries()
    model = onnx.load(path)
    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return  # what is inside of it may name what is outside
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    free = (name for number in itertools.count() if (name := f"v{number}") not in kept)
    names: dict[str, str] = {}

    def short(name: str) -> str:
        if name not in kept and name not in names:
            names[name] = next(free)
        return names.get(name, name)

    constants: dict[tuple[Any, ...], Any] = {}
    for each in graph.initializer:
        array = onnx.numpy_helper.to_array(each)
        content = (each.data_type, array.shape, array.tobytes())
        if content in constants and each.name not in kept:
            names[each.name] = constants[content].name
        else:
            constants[content] = onnx.numpy_helper.from_array(array, short(each.name))
    used = {node.domain for node in graph.node} | {""}
    for domain in [each for each in model.opset_import if each.domain not in used]:
        model.opset_import.remove(domain)
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:], graph.initializer[:]
    graph.initializer.extend(constants.values())
    for node in graph.node:
        node.name = ""
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    onnx.save(model, path)


def behind_the_last_layer(model: Path) -> list[str]:
    """The names of the nodes of a prepared model whose results no layer with weights reads."""
    onnx, _ = _libraries()
    graph = onnx.load(model).graph
    weighted = layers_of_prepared(model)
    needed: set[str] = set()
    behind = []
    for node in reversed(graph.node):  # an ONNX graph is in the order of its computation
        if node.name in weighted or any(name in needed for name in node.output):
            needed.update(node.input)
        else:
            behind.append(node.name)
    return behind


def checked(model: Path, batches: Iterable[Arrays] | None, source: Path) -> list[Arrays]:
    """The batches as a list; raises LimbeckError where there are none, or they are not the model's inputs."""
    if batches is None:
        raise LimbeckError(f"{source}: static int8 needs calibration=, batches of real inputs; or take kind='dynamic'")
    names = {each.name for each in open_session(model, threads=1).get_inputs()}
    found = list(batches)
    if not found:
        raise LimbeckError(f"{source}: calibration has no batch in it; give some of the training inputs")
    for batch in found:
        if set(batch) != names:
            raise LimbeckError(
                f"{source}: a calibration batch has {', '.join(sorted(batch))}, the model takes "
                f"{', '.join(sorted(names))}; name its arrays so"
            )
    return found


def _reader(batches: Sequence[Arrays], quantization: Any) -> Any:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> Arrays | None:
            return next(self._left, None)

        def rewind(self) -> None:
            self._left = iter(batches)

    return Reader()


def _libraries() -> tuple[Any, Any]:
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization import shape_inference  # noqa: F401
    except ImportError:
        raise LimbeckError('int8 needs ONNX and ONNX Runtime: pip install "limbeck[onnx]"') from None
    return onnx, quantization
