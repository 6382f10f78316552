"""Pruning by the dependency graph: channels that are added, joined or normalised together go together (torch-pruning).

Fang et al. 2023, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from limbeck.compress.importance import Judge
from limbeck.errors import LimbeckError
from limbeck.models import forward_of
from limbeck.types import Batch

_ATTENDING = re.compile(r"(?:to_)?(?:[qkv]|qkv|kv|query|key|value|query_key_value|c_attn)(?:_proj|_lin|_layer)?")
"""Names of layers that make queries, keys and values. Their outputs are cut into heads, which limbeck has to know of:
channels taken from here and there would be heads of nothing."""


def torch_pruning() -> Any:
    """The library.

    Raises:
        LimbeckError: it is not installed.
    """
    try:
        import torch_pruning as library
    except ImportError:
        raise LimbeckError('pruning needs torch-pruning: pip install "limbeck[prune]"') from None
    return library


def prune_graph(
    model: nn.Module,
    example: Batch,
    ratio: float,
    judge: Judge,
    *,
    across: bool,
    round_to: int,
    keep: Collection[str],
    within: str = "",
) -> None:
    """Removes the share `ratio` of the channels (and of the heads of timm's attention) of `model`, in place.

    Layers whose channels reach the outputs, and those that `keep` names, stay whole. `across` ranks the channels of all
    layers together. What is left of each layer is a multiple of `round_to`. `within` is the path of the module that is
    pruned, whose outputs then are those that stay whole.

    Raises:
        LimbeckError: torch-pruning cannot follow the model.
    """
    library = torch_pruning()
    named = dict(model.named_modules())
    attention = {name: module for name, module in named.items() if _is_fused_attention(module)}
    heads: dict[nn.Module, int] = {module.qkv: module.num_heads for module in attention.values()}
    groups: dict[nn.Module, int] = {
        each: each.num_heads for each in named.values() if isinstance(each, nn.MultiheadAttention)
    }
    learning = {name: each.requires_grad for name, each in model.named_parameters()}
    modes = {name: module.training for name, module in named.items()}
    model.requires_grad_(True)
    try:
        # It warns of every parameter outside a layer (position embeddings and the like), which it prunes rightly.
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            pruner = library.pruner.BasePruner(
                model,
                example,
                importance=_Worth(judge, named),
                global_pruning=across,
                pruning_ratio=ratio,
                pruning_ratio_dict={} if across else _fewest(named.values(), ratio),
                round_to=round_to if round_to > 1 else None,
                ignored_layers=[
                    each
                    for name, each in named.items()
                    # What holds the part that is pruned holds it whole.
                    if name in keep or not (inside(name, within) or inside(within, name)) or _attends(name, each, heads)
                ],
                in_channel_groups={},
                out_channel_groups=groups,
                num_heads=heads,
                prune_num_heads=bool(heads),
                prune_head_dims=not heads,
                head_pruning_ratio=ratio if heads else 0.0,
                forward_fn=partial(_outputs, path=within),
                root_module_types=[nn.modules.conv._ConvNd, nn.Linear],
            )
            pruner.ignored_layers.extend(_reaching_outputs(pruner.DG))
            pruner.step()
    except (LimbeckError, MemoryError):
        raise
    except Exception as error:  # whatever a library says that meets a model it was not made for
        raise LimbeckError(
            f"prune: torch-pruning cannot follow {type(model).__name__} ({_first_line(error)}); "
            "name the parts that it stumbles over in keep=, or take a smaller model instead"
        ) from None
    for module in attention.values():
        module.num_heads = heads[module.qkv]
        module.attn_dim = module.num_heads * module.head_dim
    for module in named.values():
        if isinstance(module, VisionTransformer):
            module.hidden_dim = module.conv_proj.out_channels
    for name, each in model.named_parameters():
        each.requires_grad_(learning[name])
        each.grad = None
    for name, module in model.named_modules():
        module.training = modes[name]


def _fewest(modules: Iterable[nn.Module], ratio: float) -> dict[nn.Module, float]:
    """The ratio of layers that `ratio` leaves nothing of, which torch-pruning would leave whole: one channel stays."""
    found: dict[nn.Module, float] = {}
    for module in modules:
        channels = 0
        if isinstance(module, nn.modules.conv._ConvNd):
            channels = module.out_channels // (1 if module.groups == module.out_channels else module.groups)
        elif isinstance(module, nn.Linear):
            channels = module.out_features
        if channels > 1 and int(channels * (1 - ratio)) < 1:
            found[module] = 1 - 1 / channels - 1e-6
    return found


class _Worth:
    """torch-pruning's importance of a group of layers: the worth of the filters that make its channels, added up."""

    def __init__(self, judge: Judge, named: Mapping[str, nn.Module]) -> None:
        self._judge = judge
        self._names = {module: name for name, module in named.items()}

    def __call__(self, group: Any) -> Tensor | None:
        library = torch_pruning()
        worth = torch.zeros(len(group[0].idxs), dtype=torch.float64)
        found = False
        for position, (dep, indices) in enumerate(group):
            layer, function = dep.target.module, dep.handler
            roots = group[position].root_idxs
            if any(root is None for root in roots):
                continue
            normalises = isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine
            if self._judge.by == "bn-scale":
                if not normalises:
                    continue
                values = layer.weight.detach().abs().double().cpu()
            elif function in (
                library.prune_conv_out_channels,
                library.prune_depthwise_conv_out_channels,
                library.prune_linear_out_channels,
            ):
                dim = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
                values = self._judge.slices(f"{self._names[layer]}.weight".lstrip("."), layer.weight, dim)
            else:
                continue
            worth.index_add_(0, torch.tensor(roots), values[torch.tensor(indices)])
            found = True
        return worth if found else None


def inside(name: str, path: str) -> bool:
    """Whether the module of that name is the one at `path`, or in it."""
    return not path or name == path or name.startswith(f"{path}.")


def _outputs(model: nn.Module, example: Batch, *, path: str) -> list[Tensor]:
    """All that the module at `path` gives for a batch, also what is no signal, so that no shape of it changes."""
    given: list[Any] = []
    handle = model.get_submodule(path).register_forward_hook(lambda _module, _inputs, output: given.append(output))
    try:
        forward_of(model)(example)
    finally:
        handle.remove()
    return [tensor for tensor in tensors_in(given) if tensor.grad_fn is not None]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a model gave, however deep."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from tensors_in(each)


def _reaching_outputs(graph: Any) -> list[nn.Module]:
    """The layers whose channels are the model's outputs, without a layer between."""
    library = torch_pruning()
    output = library.ops.OPTYPE.OUTPUT
    found: list[nn.Module] = []
    for group in graph.get_all_groups(root_module_types=[nn.modules.conv._ConvNd, nn.Linear]):
        ends = any(
            graph.is_out_channel_pruning_fn(dep.handler) and (dep.target.type == output or not dep.target.outputs)
            for dep, _ in group
        )
        if ends:
            found.extend(
                dep.target.module
                for dep, _ in group
                if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(dep.target.module, nn.Module)
            )
    return found


def _attends(name: str, module: nn.Module, known: Collection[nn.Module]) -> bool:
    """Whether a layer makes queries, keys or values for attention that limbeck does not know."""
    return _ATTENDING.fullmatch(name.rpartition(".")[2]) is not None and not any(module is each for each in known)


def _is_fused_attention(module: Any) -> bool:
    """Whether it is attention as timm writes it: one layer for queries, keys and values."""
    own = vars(module)
    return (
        isinstance(dict(module.named_children()).get("qkv"), nn.Linear)
        and {
            "num_heads",
            "head_dim",
            "attn_dim",
        }
        <= own.keys()
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
