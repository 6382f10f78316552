"""Where a model's input flows: which tensors everything passes through on its way to the logits."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_LOOKUPS = (
    torch.ops.aten.embedding.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_select.default,
)
"""What turns token ids into numbers."""


class Flow(TorchDispatchMode):
    """Follows `source` through every operation that runs inside the block.

    A place is a tensor's memory between two writes into it; they are numbered in the order they were made, `source`
    has 0. Only floating-point tensors carry what the input says, and token ids their embedding: masks and positions
    that a model derives from its input reach every layer, and are no path.
    """

    def __init__(self, source: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = {_memory(source): 0}
        self._came_from: list[list[int]] = [[]]
        self._kept = [source]  # alive, so that no other tensor gets its memory

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        floats: set[int] = set()
        integers: set[int] = set()
        for tensor in tensors_in((args, kwargs)):
            if (place := self.place(tensor)) is not None:
                (floats if tensor.is_floating_point() else integers).add(place)
        came_from = sorted(floats | integers if func in _LOOKUPS else floats)
        for tensor in tensors_in(result):
            memory = _memory(tensor)
            if memory in self._places and not func._schema.is_mutable:
                continue  # a view
            if tensor.is_floating_point() and came_from:
                self._places[memory] = len(self._came_from)
                self._came_from.append(came_from)
            elif integers and not tensor.is_floating_point() and tensor.dtype is not torch.bool:
                self._places[memory] = 0
            else:
                continue
            self._kept.append(tensor)
        return result

    def place(self, tensor: Tensor) -> int | None:
        """Where a tensor is now; None where nothing of the input is in it."""
        return self._places.get(_memory(tensor))

    def passes(self, ends: Collection[int]) -> frozenset[int]:
        """The places that every path from the input to any of `ends` goes through."""
        relevant = set(ends)
        furthest = dict.fromkeys(ends, len(self._came_from))
        for place in range(max(ends), -1, -1):
            if place in relevant:
                for before in self._came_from[place]:
                    relevant.add(before)
                    furthest[before] = max(furthest.get(before, 0), place)
        found, reach = set(), 0
        for place in sorted(relevant):
            if reach <= place:
                found.add(place)
            reach = max(reach, furthest[place])
        return frozenset(found)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_in(each)


def _memory(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse tensors have none
        return id(tensor)
