"""A trained graph with its weights as integers: what PyTorch computes of it is what the file will."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from limbeck.compress.captured import CONVOLUTIONS, aten, constant, kind_of
from limbeck.compress.rounding import LARGEST, LEVELS, ActivationRange, RoundedRows, RoundedWeight, scales_of

MOST = 2**30
"""The largest bias as an integer."""


class IntegerRange(nn.Module):
    """An activation to uint8 and back."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, learned: ActivationRange) -> None:
        super().__init__()
        self.register_buffer("scale", learned.scale.detach().float().clone())
        self.register_buffer("zero_point", learned.zero_point.to(torch.uint8))

    def forward(self, values: Tensor) -> Tensor:
        """The values as the integers stand for them."""
        if torch.onnx.is_in_onnx_export():
            numbers = (self.scale, self.zero_point)
            whole = torch.onnx.ops.symbolic("QuantizeLinear", (values, *numbers), dtype=torch.uint8, shape=values.shape)
            return torch.onnx.ops.symbolic(
                "DequantizeLinear", (whole, *numbers), dtype=torch.float32, shape=whole.shape
            )
        zero = self.zero_point.float()
        return (((values / self.scale).round() + zero).clamp(0, LEVELS) - zero) * self.scale


class IntegerTensor(nn.Module):
    """A weight (int8) or bias (int32) with a scale for each place of the dimension `axis`."""

    integers: Tensor
    scales: Tensor
    zero_points: Tensor

    def __init__(self, values: Tensor, scales: Tensor, axis: int, dtype: torch.dtype = torch.int8) -> None:
        super().__init__()
        self.axis = axis
        across = _across(values, axis)
        # Double precision: a bias has more digits than float has.
        whole = (values.double() / scales.double().view(across)).round()
        whole = whole.clamp(-LARGEST, LARGEST) if dtype == torch.int8 else whole
        self.register_buffer("integers", whole.to(dtype))
        self.register_buffer("scales", scales.float())
        self.register_buffer("zero_points", torch.zeros_like(scales, dtype=dtype))

    def forward(self) -> Tensor:
        """The values that the integers stand for."""
        if torch.onnx.is_in_onnx_export():
            return torch.onnx.ops.symbolic(
                "DequantizeLinear",
                (self.integers, self.scales, self.zero_points),
                {"axis": self.axis},
                dtype=torch.float32,
                shape=self.integers.shape,
            )
        return self.integers * self.scales.view(_across(self.integers, self.axis))


class IntegerRows(nn.Module):
    """A table of embeddings (rows, width) in int8 with a scale a row, looked up by ids (…)."""

    integers: Tensor
    scales: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        scales = scales_of(table, 0)
        self.register_buffer("integers", (table / scales[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8))
        self.register_buffer("scales", scales[:, None])

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of the ids, (…, width); only what is looked up becomes float."""
        found = nn.functional.embedding(ids, self.integers)
        return found.to(torch.float32) * nn.functional.embedding(ids, self.scales)


def with_integers(module: GraphModule) -> GraphModule:
    """The graph, which is changed, in the form in which it is written: no parameter of a rounded layer is left."""
    modules = dict(module.named_modules())
    for name, each in modules.items():
        if isinstance(each, ActivationRange):
            module.set_submodule(name, IntegerRange(each))
    for call in list(module.graph.nodes):
        rounding = modules.get(str(call.target)) if call.op == "call_module" else None
        if isinstance(rounding, RoundedRows):
            looked_up = call.args[0]
            table = constant(module, looked_up.args[0])
            assert table is not None
            module.set_submodule(str(call.target), IntegerRows(table))
            call.args = (looked_up.args[1],)
        elif isinstance(rounding, RoundedWeight):
            for layer in list(call.users):
                _layer(module, layer, call, rounding)
            if not call.users:
                module.graph.erase_node(call)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    return GraphModule(module, module.graph).eval()


def _layer(module: GraphModule, layer: Node, call: Node, rounding: RoundedWeight) -> None:
    """Gives a layer its weight in int8, and its bias in int32 where runtimes add it to a sum of integers."""
    weight = constant(module, call.args[0])
    assert weight is not None
    scales = scales_of(weight, rounding.axis)
    bias = constant(module, layer.args[2]) if len(layer.args) > 2 else None
    rank = layer.args[0].meta["val"].dim()  # type: ignore[union-attr]
    entered = _range_of(module, layer.args[0])
    if bias is not None and entered is not None and (kind_of(layer) in CONVOLUTIONS or rank == 2):
        # A channel whose weights are as good as nothing would need a bias beyond what fits: its scale grows, which
        # rounds what is nothing beside its bias.
        scales = torch.maximum(scales, bias.abs().float() / (entered.scale * MOST))
        added = IntegerTensor(bias, scales * entered.scale, 0, torch.int32)
        layer.update_arg(2, _tensor(module, layer, f"biases.{layer.name}", added))
    if kind_of(layer) is aten.linear and rank > 2:
        # Runtimes take the product of more than two dimensions with its second factor as it lies in memory.
        turned = IntegerTensor(weight.T.contiguous(), scales, 1)
        read = layer.args[0]
        new = _tensor(module, layer, str(call.target), turned)
        with module.graph.inserting_before(layer):
            product = module.graph.call_function(aten.matmul.default, (read, new))
            if len(layer.args) > 2 and layer.args[2] is not None:
                product = module.graph.call_function(aten.add.Tensor, (product, layer.args[2]))
        product.meta = dict(layer.meta)
        layer.replace_all_uses_with(product)
        module.graph.erase_node(layer)
    else:
        integers = IntegerTensor(weight, scales, rounding.axis)
        layer.update_arg(1, _tensor(module, layer, str(call.target), integers))


def _tensor(module: GraphModule, before: Node, name: str, tensor: IntegerTensor) -> Node:
    module.add_submodule(name, tensor)
    with module.graph.inserting_before(before):
        return module.graph.call_module(name, ())


def _range_of(module: GraphModule, node: object) -> IntegerRange | None:
    if isinstance(node, Node) and node.op == "call_module":
        found = module.get_submodule(str(node.target))
        return found if isinstance(found, IntegerRange) else None
    return None


def _across(values: Tensor, axis: int) -> list[int]:
    return [-1 if place == axis % values.dim() else 1 for place in range(values.dim())]
