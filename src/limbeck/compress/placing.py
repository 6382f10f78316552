"""Where a graph is rounded to int8: so that each layer of the file reads, holds and gives integers.

A tensor is rounded where it is made, for all that read it:

* the weights of convolutions, linear layers and embeddings;
* what convolutions and linear layers read;
* what convolutions give, behind the ReLU if there is one: ONNX Runtime runs a convolution in integers only where its
  output is rounded too;
* sums, products and concatenations of tensors that are rounded.

Attention, normalisation and activation functions other than ReLU are computed in fp32.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from limbeck.compress.captured import CONVOLUTIONS, KEEPING, TRANSPOSED, WEIGHTED, aten, constant, kind_of
from limbeck.compress.rounding import ActivationRange, RoundedRows, RoundedWeight
from limbeck.errors import LimbeckError

JOINING = frozenset({aten.add, aten.mul, aten.cat})
ACTIVATIONS = frozenset({aten.relu, aten.hardtanh, aten.relu6})
"""What a runtime makes a part of the layer before it."""


def place(module: GraphModule) -> None:
    """Rounds the graph, in place.

    Raises:
        LimbeckError: it has no layer with weights that could be rounded.
    """
    made, passed = _rounded_at(module)
    weights = 0
    for node in list(module.graph.nodes):
        kind = kind_of(node)
        if kind in WEIGHTED and constant(module, node.args[1]) is not None:
            _call(module, f"weights.{node.name}", RoundedWeight(1 if kind in TRANSPOSED else 0), node.args[1], [node])
            weights += 1
        elif kind is aten.embedding and constant(module, node.args[0]) is not None:
            _call(module, f"weights.{node.name}", RoundedRows(), node, list(node.users))
            weights += 1
    if not weights:
        raise LimbeckError(
            "quantization_aware: the model has no convolution, linear layer or embedding whose weights could be int8"
        )
    for node in module.graph.nodes:
        source = node if node in made else passed.get(node)
        if source is not None:
            name = f"ranges.{source.name}"
            _call(module, name, None if source is not node else ActivationRange(source.name), node, list(node.users))
    module.graph.lint()
    module.recompile()


def _rounded_at(module: GraphModule) -> tuple[dict[Node, None], dict[Node, Node]]:
    """The tensors that get a range of their own, and those that have that of the tensor whose values they hold."""
    made: dict[Node, None] = {}
    passed: dict[Node, Node] = {}

    def on_grid(node: Node) -> bool:
        """Whether the values of a tensor are rounded already; if so, all on the way to it are."""
        way, source = [], node
        while source not in made and kind_of(source) in KEEPING and isinstance(source.args[0], Node):
            way.append(source)
            source = source.args[0]
        if source in made:
            # Several outputs are no tensor.
            passed.update((each, source) for each in way if _is_float(each))
            return True
        return False

    for node in module.graph.nodes:
        kind = kind_of(node)
        if kind in WEIGHTED:
            read = node.args[0]
            if isinstance(read, Node) and kind not in TRANSPOSED and _is_float(read) and not on_grid(read):
                made[read] = None
            if kind in CONVOLUTIONS:
                made[_end(node)] = None
        elif kind in JOINING and _is_float(node):
            members = [each for each in node.all_input_nodes if each.op != "call_function" or _is_float(each)]
            if len(members) == len(_members(node)) and all(on_grid(each) for each in members):
                made[_end(node)] = None
    # A range that no layer reads or gives would only cost.
    return {node: None for node in made if constant(module, node) is None}, passed


def _members(node: Node) -> list[object]:
    first = node.args[0]
    return list(first) if isinstance(first, (tuple, list)) else list(node.args[:2])


def _end(node: Node) -> Node:
    """The activation behind a layer that becomes a part of it, or the layer."""
    users = list(node.users)
    if len(users) != 1 or kind_of(users[0]) not in ACTIVATIONS:
        return node
    if kind_of(users[0]) is aten.hardtanh and (len(users[0].args) < 2 or users[0].args[1] != 0):
        return node
    return users[0]


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _call(module: GraphModule, name: str, rounding: nn.Module | None, node: object, users: list[Node]) -> None:
    """Puts a call of the module `name` between a node and its users; `rounding` is that module where it is new."""
    assert isinstance(node, Node)
    if rounding is not None:
        module.add_submodule(name, rounding)
    with module.graph.inserting_after(node):
        call = module.graph.call_module(name, (node,))
    call.meta = dict(node.meta)
    for user in users:
        user.replace_input_with(node, call)
