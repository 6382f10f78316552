"""Pruning of transformers' blocks: whole heads and the inner units of feed-forward layers go, the width stays.

Heads: Michel et al. 2019, "Are Sixteen Heads Really Better than One?", arXiv:1905.10650.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.importance import Judge
from limbeck.models.cutting import LAYOUTS, Axis, Layout, place_in
from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import held, is_transformers

_SIGHT = Layout(
    layers=(
        (r"(q|k|v)_proj", "heads", "width"),
        (r"(o|out)_proj", "width", "heads"),
        (r"fc1", "inner", "width"),
        (r"fc2", "width", "inner"),
    ),
    inner=(),
)
KNOWN: Mapping[str, Layout] = {**LAYOUTS, **dict.fromkeys(("vit", "deit"), _SIGHT), "electra": LAYOUTS["bert"]}
"""The layouts by a configuration's `model_type`."""

_SIZES = ("attention_head_size", "head_dim", "key_value_proj_dim")
"""The attributes of an attention module that hold the size of a head."""
_COUNTS = ("num_attention_heads", "num_heads", "n_heads")
_WIDTHS = ("all_head_size", "inner_dim", "split_size")
"""Those that hold how many heads there are, and heads × head size."""


def layout_of(model: nn.Module) -> Layout | None:
    """How the blocks of a transformers model are laid out; None where limbeck does not know."""
    inner: Any = held(unwrapped(model))
    return KNOWN.get(inner.config.model_type) if is_transformers(inner) else None


@dataclass(slots=True)
class _Unit:
    """The heads of one attention layer, or the inner units of one feed-forward layer, and what they are part of.

    `parts` are the layers with the dimension of their weight that counts such members, and how members lie along it.
    `size` is how many entries a member has there: 1 of an inner unit, of a head its size.
    """

    kind: str
    size: int = 1
    parts: list[tuple[str, nn.Module, int, Axis]] = field(default_factory=list)
    attentions: list[nn.Module] = field(default_factory=list)
    count: int = 0


def prune_blocks(
    model: nn.Module,
    layout: Layout,
    ratio: float,
    judge: Judge,
    *,
    across: bool,
    round_to: int,
    keep: Collection[str],
) -> None:
    """Removes the share `ratio` of heads and inner units of the blocks of `model`, in place; of each one stays.

    Where queries share keys, a key goes with its queries. `across` ranks the members of all blocks together. What is
    left of inner units is a multiple of `round_to`; blocks with a layer in `keep` stay whole.
    """
    units = [unit for unit in _units(model, layout) if not any(name in keep for name, _, _, _ in unit.parts)]
    for kind in ("heads", "inner"):
        chosen = [unit for unit in units if unit.kind == kind]
        worth = [_worth(unit, judge) for unit in chosen]
        step = round_to if kind == "inner" else 1
        for unit, kept in zip(chosen, _kept(worth, ratio, across=across, round_to=step), strict=True):
            _cut(unit, kept)


def _units(model: nn.Module, layout: Layout) -> list[_Unit]:
    modules = dict(model.named_modules())
    found: dict[tuple[str, str], _Unit] = {}
    for name, module in modules.items():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        place = place_in(layout, name)
        if place is None or weight is None or weight.dim() != 2:
            continue
        outputs, inputs, where = place
        turned = layout.turned and outputs is not None
        # An embedding of one number a head has its heads where a linear layer has its inputs.
        for axis, dim in ((outputs, 1 if turned else 0), (inputs, 0 if turned else 1)):
            if axis not in ("heads", "keys", "fused", "head", "inner"):
                continue
            kind = "inner" if axis == "inner" else "heads"
            unit = found.setdefault((kind, where), _Unit(kind))
            unit.parts.append((name, module, dim, axis))
            if dim == (1 if turned else 0) and kind == "heads":
                parent = modules[name.rpartition(".")[0]]
                if all(parent is not each for each in unit.attentions):
                    unit.attentions.append(parent)
    for unit in found.values():
        if unit.kind == "heads":
            unit.size = next(vars(unit.attentions[0])[each] for each in _SIZES if each in vars(unit.attentions[0]))
        unit.count = min(_members(unit, module, dim, axis) for _, module, dim, axis in unit.parts)
    return list(found.values())


def _members(unit: _Unit, module: Any, dim: int, axis: Axis) -> int:
    length = module.weight.shape[dim]
    return int(length // (1 if axis == "head" else unit.size * (3 if axis == "fused" else 1)))


def _worth(unit: _Unit, judge: Judge) -> Tensor:
    """What each member is worth, (members,): the sum over the layers that it is part of."""
    worth = torch.zeros(unit.count, dtype=torch.float64)
    for name, module, dim, axis in unit.parts:
        weight = module.get_parameter("weight")
        values = judge.slices(f"{name}.weight", weight, dim)
        for piece in values.chunk(3) if axis == "fused" else (values,):
            worth += piece.view(unit.count, -1).mean(1)
    return worth


def _kept(worth: list[Tensor], ratio: float, *, across: bool, round_to: int) -> Iterator[Tensor]:
    """The members of each unit that stay, in their order."""
    counts = [max(1, round(len(each) * (1 - ratio))) for each in worth]
    if across and worth:
        ranked = torch.cat(worth).sort(descending=True).values
        least = ranked[max(1, round(len(ranked) * (1 - ratio))) - 1]
        counts = [max(1, int((each >= least).sum())) for each in worth]
    for each, count in zip(worth, counts, strict=True):
        rounded = max(count - count % round_to, min(round_to, len(each)))
        yield each.topk(rounded).indices.sort().values


@torch.no_grad()
def _cut(unit: _Unit, kept: Tensor) -> None:
    if len(kept) == unit.count:
        return
    for _, module, dim, axis in unit.parts:
        weight = module.get_parameter("weight")
        length = weight.shape[dim]
        pieces = 3 if axis == "fused" else 1
        # A key's queries lie beside each other, so they are one member of several heads.
        size = length // pieces // unit.count
        rows = (kept[:, None] * size + torch.arange(size)).flatten()
        rows = torch.cat([rows + part * (length // pieces) for part in range(pieces)]).to(weight.device)
        _replace(module, "weight", weight.index_select(dim, rows))
        bias = dict(module.named_parameters(recurse=False)).get("bias")
        outputs = _output_dim(module)
        if bias is not None and dim == outputs:
            _replace(module, "bias", bias.index_select(0, rows))
        _count_again(module, outputs, dim, len(rows))
    for attention in unit.attentions:
        own = vars(attention)
        for name in _COUNTS:
            if name in own:
                setattr(attention, name, own[name] * len(kept) // unit.count)
        for name in _WIDTHS:
            if name in own:
                setattr(attention, name, own[name] * len(kept) // unit.count)


def _output_dim(module: nn.Module) -> int:
    """The dimension of a layer's weight that counts its outputs."""
    return 0 if isinstance(module, nn.Linear) else 1


def _count_again(module: nn.Module, outputs: int, dim: int, count: int) -> None:
    if isinstance(module, nn.Linear):
        names = ("out_features", "in_features")
    elif isinstance(module, nn.Embedding):
        names = ("embedding_dim", "num_embeddings")
    else:  # the turned layer of GPT-2
        names = ("nf", "nx")
    setattr(module, names[0] if dim == outputs else names[1], count)


def _replace(module: nn.Module, name: str, values: Tensor) -> None:
    old = module.get_parameter(name)
    module.register_parameter(name, nn.Parameter(values.contiguous(), requires_grad=old.requires_grad))
