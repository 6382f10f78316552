"""A model as a graph of operators (torch.export), made ready for training in int8.

Operators that work in place give a new tensor, dropout follows the mode of its module, and BatchNorm behind a
convolution or linear layer is folded into it, with the statistics that it has.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from limbeck.errors import LimbeckError
from limbeck.export.graphs import quiet
from limbeck.export.plans import Part
from limbeck.types import Batch

aten = torch.ops.aten

CONVOLUTIONS = frozenset({aten.conv1d, aten.conv2d, aten.conv3d})
TRANSPOSED = frozenset({aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d})
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {aten.linear}
"""The operators of layers with weights: called with input, weight and bias."""

KEEPING = frozenset(
    {
        aten.view, aten.reshape, aten.flatten, aten.permute, aten.transpose, aten.contiguous, aten.unsqueeze,
        aten.squeeze, aten.expand, aten.slice, aten.select, aten.split, aten.split_with_sizes, aten.chunk, aten.unbind,
        aten.max_pool1d, aten.max_pool2d, aten.constant_pad_nd, aten.pad, operator.getitem,
    }
)  # fmt: skip
"""What gives values of its input, or zeros."""


def kind_of(node: Node) -> Any:
    """The operator that a node calls, whichever of its overloads; None of other nodes."""
    if node.op != "call_function":
        return None
    return getattr(node.target, "overloadpacket", node.target)


def capture(part: Part, example: Batch) -> GraphModule:
    """The part as a graph that gives its outputs as a tuple; it shares no tensor with the module.

    Raises:
        LimbeckError: torch.export cannot follow the model.
    """
    feeds = tuple(_several(example[name]) for name in part.inputs)
    sizes = tuple(dict.fromkeys(part.free[name], torch.export.Dim.DYNAMIC) for name in part.inputs)
    with quiet():
        try:
            program = torch.export.export(part.module.eval(), feeds, dynamic_shapes=(sizes,))
            exported: Any = program.module(check_guards=False)
            module = GraphModule(exported, exported.graph)
        except Exception as error:  # whatever a part of the exporter meets
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            raise LimbeckError(
                f"quantization_aware: torch.export cannot follow the model ({type(error).__name__}: {lines[0]:.200}); "
                "train it in fp32 and quantize the exported file with quantize_onnx"
            ) from None
    _out_of_place(module)
    _drop_by_mode(module)
    _fold_norms(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    return GraphModule(module, module.graph).eval()


def constant(module: GraphModule, node: object) -> Tensor | None:
    """The value of a node that depends on parameters and buffers only; None where it depends on the inputs."""
    if not isinstance(node, Node):
        return None
    ancestors, open_ends = {node}, [node]
    while open_ends:
        each = open_ends.pop()
        if each.op not in ("get_attr", "call_function") or (each.op == "call_function" and not each.all_input_nodes):
            return None
        fresh = [before for before in each.all_input_nodes if before not in ancestors]
        ancestors.update(fresh)
        open_ends += fresh
    values: dict[Node, Any] = {}
    with torch.no_grad():
        for each in module.graph.nodes:
            if each not in ancestors:
                continue
            if each.op == "get_attr":
                values[each] = operator.attrgetter(str(each.target))(module)
            else:
                arguments, named = torch.fx.map_arg((each.args, each.kwargs), values.__getitem__)
                values[each] = each.target(*arguments, **named)
    found = values[node]
    return found.detach() if isinstance(found, Tensor) else None


def on_device(module: GraphModule, device: torch.device) -> None:
    """Has the operators of the graph that make tensors make them on `device`."""
    changed = False
    for node in module.graph.nodes:
        if node.kwargs.get("device") not in (None, device):
            node.update_kwarg("device", device)
            changed = True
        if kind_of(node) is aten.to and len(node.args) > 1 and isinstance(node.args[1], torch.device):
            node.update_arg(1, device)
            changed = True
    if changed:
        module.recompile()


def _several(tensor: Tensor) -> Tensor:
    """At least two rows: a batch of one would be taken for the only size."""
    return tensor if len(tensor) > 1 else torch.cat([tensor, tensor])


def _out_of_place(module: GraphModule) -> None:
    places = {node: index for index, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if kind_of(node) is aten._assert_tensor_metadata:
            module.graph.erase_node(node)
            continue
        if kind_of(node) is None or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target.overloadpacket.__name__
        if not name.endswith("_") or name.startswith("_"):
            continue
        changed = node.args[0]
        if kind_of(changed) in KEEPING and any(places[each] > places[node] for each in changed.args[0].users):
            raise LimbeckError(
                f"quantization_aware: the model changes a part of a tensor in place ({name}), which cannot be "
                "followed; write it without, or quantize the exported file with quantize_onnx"
            )
        node.target = getattr(getattr(aten, name.removesuffix("_")), node.target._overloadname)
        changed.replace_all_uses_with(node, delete_user_cb=lambda user, at=node: places[user] > places[at])


def _drop_by_mode(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        if kind_of(node) not in (aten.dropout, aten.feature_dropout):
            continue
        share = float(node.args[1])
        if share > 0:
            name = f"dropouts.{node.name}"
            module.add_submodule(name, nn.Dropout(share))
            with module.graph.inserting_after(node):
                put = module.graph.call_module(name, (node.args[0],))
            put.meta = dict(node.meta)
            node.replace_all_uses_with(put)
        else:
            node.replace_all_uses_with(node.args[0])
        module.graph.erase_node(node)


def _fold_norms(module: GraphModule) -> None:
    for norm in list(module.graph.nodes):
        layer = norm.args[0] if kind_of(norm) is aten.batch_norm else None
        if not isinstance(layer, Node) or kind_of(layer) not in WEIGHTED or len(layer.users) > 1 or norm.args[5]:
            continue
        weight, bias = layer.args[1], layer.args[2] if len(layer.args) > 2 else None
        held = [each for each in (weight, bias) if each is not None]
        if any(not isinstance(each, Node) or each.op != "get_attr" or len(each.users) > 1 for each in held):
            continue
        assert isinstance(weight, Node)
        factor, offset, mean, variance = (constant(module, each) for each in norm.args[1:5])
        assert mean is not None
        assert variance is not None
        slope = (variance + norm.args[7]).rsqrt() * (1.0 if factor is None else factor)
        shift = (0.0 if offset is None else offset) - mean * slope
        old, start = _parameter(module, weight), constant(module, bias)
        across = [1] * old.dim()
        # Of a transposed convolution the second dimension is that of the outputs, within a group.
        if kind_of(layer) in TRANSPOSED:
            if _groups(layer) > 1:
                continue
            across[1] = -1
        else:
            across[0] = -1
        folded = nn.Parameter(old.detach() * slope.view(across), requires_grad=old.requires_grad)
        moved = shift if start is None else shift + start * slope
        _set(module, str(weight.target), folded)
        name = str(bias.target) if isinstance(bias, Node) else f"{weight.target}_offset"
        _set(module, name, nn.Parameter(moved.detach().clone(), requires_grad=old.requires_grad))
        if bias is None:
            with module.graph.inserting_before(layer):
                added = module.graph.get_attr(name)
            layer.args = (*layer.args[:2], added, *layer.args[3:])
        norm.replace_all_uses_with(layer)
        module.graph.erase_node(norm)


def _groups(layer: Node) -> int:
    """Of a transposed convolution: its last argument but one."""
    found: Any = layer.args[6] if len(layer.args) > 6 else layer.kwargs.get("groups", 1)
    return int(found)


def _parameter(module: GraphModule, node: Node) -> Tensor:
    found: Tensor = operator.attrgetter(str(node.target))(module)
    return found


def _set(module: nn.Module, path: str, value: nn.Parameter) -> None:
    *parents, name = path.split(".")
    holder = module.get_submodule(".".join(parents))
    if name in holder._parameters:
        del holder._parameters[name]
    holder.register_parameter(name, value)


def free_sizes(inputs: tuple[str, ...]) -> Mapping[str, Mapping[int, str]]:
    """The dimensions of the inputs that may be of any size: the batch, and of tokens the length."""
    return {name: {0: "batch"} if name == "inputs" else {0: "batch", 1: "length"} for name in inputs}
