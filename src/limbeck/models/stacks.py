"""Stacks: the lists of equal blocks that a deep model is made of."""

from __future__ import annotations

from torch import nn


def stacks_of(model: nn.Module) -> dict[str, list[nn.Module]]:
    """All stacks of a model by their path; those inside the blocks of a stack of several, such as experts, left out."""
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        outer = (name for name, blocks in found.items() if len(blocks) > 1)
        if any(not name or path.startswith(f"{name}.") for name in outer):
            continue
        if blocks := blocks_of(module):
            found[path] = blocks
    return found


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks of a list that is a stack; none of any other module."""
    blocks = list(module.children()) if isinstance(module, nn.ModuleList | nn.Sequential) else []
    same = len({type(block) for block in blocks}) == 1 and next(blocks[0].parameters(), None) is not None
    return blocks if same else []


def evenly_spaced(count: int, total: int) -> list[int]:
    """Which `count` of `total` blocks to take, from the first one on: 0, 2, 4, 6, 8, 10 for 6 of 12."""
    return [index * total // count for index in range(count)]
