"""PyTorch modules written as ONNX files."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.artifact import GraphCard, TensorCard
from limbeck.errors import LimbeckError
from limbeck.export.plans import Part
from limbeck.types import Batch

NOISY = ("torch", "torch.onnx", "onnxscript", "onnx_ir", "transformers")
"""Loggers that tell every step of an export."""


def need_libraries() -> None:
    """Raises LimbeckError where what writes and runs graphs is not installed."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise LimbeckError("export needs onnx, onnxscript and onnxruntime: pip install 'limbeck[onnx]'") from None


def write_graph(part: Part, example: Batch, path: Path, *, static: bool) -> GraphCard:
    """Writes one graph, and says what it takes and gives. With `static` its batch is that of the example for good.

    It is exported by torch itself; where that cannot, in the way in which transformers prepares models for it.

    Raises:
        LimbeckError: neither can export it, or what they write names other inputs or outputs.
    """
    feeds = {name: example[name] for name in part.inputs}
    free = {
        name: {place: axis for place, axis in part.free[name].items() if not (static and place == 0)} for name in feeds
    }
    with plainly(part.module), quiet():
        try:
            model = _by_torch(part, feeds, free)
        except Exception as error:  # whatever a part of the exporter meets
            try:
                model = _by_transformers(part, feeds, free)
            except Exception as other:
                raise LimbeckError(
                    f"the {part.name} cannot be exported: {first_line(error)}; nor as transformers does it: "
                    f"{first_line(other)}"
                ) from None
    _name_axes(model, free)
    _bare(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    import onnx_ir

    onnx_ir.save(model, str(path))
    return GraphCard(path.name, *_tensors(model, part))


def _by_torch(part: Part, feeds: Batch, free: Mapping[str, Mapping[int, str]]) -> Any:
    for recurrent in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
        # The exporter puts another kernel in their place for free lengths, and torch would go on with the one it knows.
        recurrent._dispatch_cache.clear()
    program: Any = torch.onnx.export(
        ByPlace(part.module).eval(),
        tuple(feeds.values()),
        dynamo=True,
        input_names=list(part.inputs),
        output_names=list(part.outputs),
        dynamic_shapes=(tuple(any_size(free[name]) for name in part.inputs),),
        verbose=False,
    )
    return program.model


class ByPlace(nn.Module):
    """The module called with tensors by place, whatever its arguments are called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> Any:
        return self.module(*tensors)


class _ByName(nn.Module):
    """The module called with tensors by name, as transformers' exporter does it."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.module = part.module
        self._inputs, self._outputs = part.inputs, part.outputs

    def forward(self, **tensors: Tensor) -> dict[str, Tensor]:
        found = self.module(*(tensors[name] for name in self._inputs))
        return dict(zip(self._outputs, found, strict=True))


def _by_transformers(part: Part, feeds: Batch, free: Mapping[str, Mapping[int, str]]) -> Any:
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    shapes = {name: any_size(free[name]) for name in part.inputs}
    module: Any = _ByName(part).eval()
    model, _ = OnnxExporter().export_program(module, dict(feeds), OnnxConfig(dynamic=True, dynamic_shapes=shapes))
    return model


def any_size(axes: Mapping[int, str]) -> dict[int, Any]:
    """Free dimensions, as torch.export takes them."""
    return dict.fromkeys(axes, torch.export.Dim.DYNAMIC)


def _name_axes(model: Any, free: Mapping[str, Mapping[int, str]]) -> None:
    """Gives the free dimensions of inputs the names that the plan has for them, and those of outputs that are the
    same."""
    import onnx_ir

    names: dict[str, str] = {}
    for value in model.graph.inputs:
        shape = list(value.shape)
        for place, axis in free.get(value.name, {}).items():
            names[str(shape[place])] = axis
            shape[place] = axis
        value.shape = onnx_ir.Shape(shape)
    for value in model.graph.outputs:
        value.shape = onnx_ir.Shape(
            [each if isinstance(each, int) else names.get(str(each), each) for each in value.shape]
        )


def _bare(model: Any) -> None:
    """Takes out what the exporter noted of each operator's origin: of a small model that is most of the file, and has
    paths of the machine in it."""
    for graph in (model.graph, *(each.graph for each in model.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            value.metadata_props.clear()
    model.metadata_props.clear()


def _tensors(model: Any, part: Part) -> tuple[tuple[TensorCard, ...], tuple[TensorCard, ...]]:
    found = []
    for values, wanted in ((model.graph.inputs, part.inputs), (model.graph.outputs, part.outputs)):
        cards = {
            value.name: TensorCard(
                value.name, value.dtype.numpy().name,
                tuple(each if isinstance(each, int) else str(each) for each in value.shape),
            )
            for value in values
        }  # fmt: skip
        if cards.keys() != set(wanted):
            raise LimbeckError(f"the {part.name} was exported with {sorted(cards)}, not with {sorted(wanted)}")
        found.append(tuple(cards[name] for name in wanted))
    return found[0], found[1]


@contextlib.contextmanager
def plainly(module: nn.Module) -> Iterator[None]:
    """Bags of embeddings as look-ups and means while the module is exported: ONNX has no such bags, and a loop over the
    batch in their place takes long."""
    bags = [(parent, name, child) for parent in module.modules() for name, child in parent.named_children()
            if isinstance(child, nn.EmbeddingBag) and child.mode == "mean"]  # fmt: skip
    try:
        for parent, name, bag in bags:
            setattr(parent, name, _Mean(bag))
        yield
    finally:
        for parent, name, bag in bags:
            setattr(parent, name, bag)


class _Mean(nn.Module):
    """A bag of embeddings, rows (batch, length) to their mean (batch, width)."""

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.weight = bag.weight
        self.nothing = -1 if bag.padding_idx is None else bag.padding_idx

    def forward(self, rows: Tensor) -> Tensor:
        real = torch.ne(rows, self.nothing).unsqueeze(-1).to(self.weight.dtype)
        summed: Tensor = (nn.functional.embedding(rows, self.weight) * real).sum(1)
        return summed / real.sum(1).clamp(min=1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what exporters say of their own steps."""
    levels = {name: logging.getLogger(name).level for name in NOISY}
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nowhere):
                yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def first_line(error: Exception) -> str:
    """The class of what went wrong, and the first line of what it says."""
    cause = error.__cause__ or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0].strip():.200}" if lines else type(cause).__name__
