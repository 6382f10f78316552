"""The stages of a network: of a CNN where each resolution ends, of a transformer its blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

from torch import nn

from limbeck.pairing.calls import DROPOUTS, Call, Recording, Shape
from limbeck.projectors import grid_of

_POOLING = tuple(getattr(nn.modules.pooling, name) for name in nn.modules.pooling.__all__)
_NO_ENDS = (*_POOLING, *DROPOUTS, nn.Identity)
SHRINKS = 3.0
"""A module that makes its input smaller than by this holds several stages."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A tap, what it gives, and how many positions that has."""

    tap: str
    shape: Shape
    positions: int


def stages_of(recording: Recording) -> tuple[tuple[Stage, ...], str]:
    """The stages from the input to the head, or none and why."""
    maps, why = _maps(recording)
    if why:
        return (), why
    blocks = _blocks(recording)
    found = maps if not blocks or (maps and maps[-1].order > blocks[-1].order) else blocks
    if found and _beyond(found[-1], recording) > 0.5:
        return (), "most of its layers come after the last module that gives a map or tokens and is on the only path"
    stages = tuple(_stage(call.name, call.shape) for call in found)
    if not stages:  # a block that runs several times, as ALBERT's, cannot be tapped
        hidden = [each for each in recording.hidden if len(each[1]) == 3 and each[1][0] == recording.batch]
        stages = tuple(_stage(name, shape) for name, shape in hidden)
    if not stages:
        return (), "no module gives maps or tokens through which everything passes on its way to the logits"
    if any(later.positions > earlier.positions for earlier, later in pairwise(stages)):
        return (), "its resolution goes up again, so that depth says little"
    return stages, ""


def _stage(tap: str, shape: Shape) -> Stage:
    return Stage(tap, shape, math.prod(shape[2:]) if len(shape) == 4 else positions_of(shape[1]))


def _beyond(last: Call, recording: Recording) -> float:
    """Which share of the layers runs after a call has ended."""
    layers = [call for call in recording.calls if call.weights and not call.inside]
    return sum(call.order > last.order for call in layers) / max(len(layers), 1)


def _maps(recording: Recording) -> tuple[list[Call], str]:
    """The last module at each resolution of the main path; or none, and why where there are some."""
    if len(recording.size) != 2:
        return [], ""
    picked: list[Call] = []
    for limit in (SHRINKS, 1.0):
        chain = _chain(recording.root, recording, limit)
        maps = [call for call in chain if len(call.shape) == 4 and call in recording.taps]
        maps = sorted((call for call in maps if not isinstance(call.module, _NO_ENDS)), key=lambda call: call.order)
        if _channels_last([call.shape for call in maps if call.weights > 1], recording.size):
            return [], "its maps have the channels last, (batch, height, width, channels), which losses cannot read"
        found = _ends(maps, recording)
        if limit == SHRINKS or len(found) > 1:
            picked = found
        if len(picked) > 1:
            break
    return picked, ""


def _chain(call: Call, recording: Recording, limit: float) -> Iterator[Call]:
    """The modules of the main path, opened up where they hold several stages."""
    for each in call.inside:
        is_map = len(each.shape) == 4 and each.shape[0] == recording.batch
        if each.inside and not (is_map and _shrinks(each) <= limit):
            yield from _chain(each, recording, limit)
        else:
            yield each


def _ends(maps: list[Call], recording: Recording) -> list[Call]:
    """The last block at each resolution; where there are only single layers, the last of those."""
    sizes: dict[Shape, list[Call]] = {}
    for call in maps:
        sizes.setdefault(call.shape[2:], []).append(call)
    ends = []
    for calls in sizes.values():
        layers = [call for call in calls if call.weights]
        groups = [call for call in layers if call.inside]
        blocks = [call for call in layers if call.weights > 1]
        if layers:
            ends.append((blocks or groups or calls)[-1])
    if any(call.weights > 1 for call in ends):
        first = next((call for call in recording.calls if not call.inside and call.weights), None)
        strides = first is not None and _shrinks(first) >= 1.5
        kept, begun = [], not strides
        for call in ends:
            begun = begun or call.weights > 1
            if begun:  # what strides before the first block is the stem
                kept.append(call)
        ends = kept
    heads = [call for call in ends if math.prod(call.shape[2:]) > 1 or call.weights > 1]
    return heads or ends


def _blocks(recording: Recording) -> list[Call]:
    """The blocks of the longest stack; where the number of tokens changes, the last block of each."""
    groups: dict[str, list[Call]] = {}
    for call in recording.calls:
        if number := re.search(r"\d+$", call.name):
            groups.setdefault(call.name[: number.start()], []).append(call)
    stacks = [
        calls for calls in groups.values() if all(_keeps_its_shape(call) and call in recording.taps for call in calls)
    ]
    names = {call.name for calls in stacks for call in calls}
    stacks = [calls for calls in stacks if not any(calls[0].name.startswith(f"{name}.") for name in names)]
    if len({positions_of(calls[0].shape[1]) for calls in stacks}) < 2:
        return max(stacks, key=len, default=[])
    blocks = sorted((call for calls in stacks for call in calls), key=lambda call: call.order)
    return [list(calls)[-1] for _, calls in groupby(blocks, key=lambda call: positions_of(call.shape[1]))]


def positions_of(tokens: int) -> int:
    """How many positions tokens have, without the class token of a square image."""
    grid = grid_of(tokens)
    return tokens if grid is None else grid.side**2


def _keeps_its_shape(call: Call) -> bool:
    """Whether a call is that of a block on tokens (batch, tokens, width)."""
    if len(call.shape) != 3 or call.given != call.shape or call.weights < 2:
        return False
    kinds = {type(module) for module in call.module.modules()}
    # Of blocks of 1-D convolutions (batch, channels, length) the tokens would be channels.
    return nn.Conv1d not in kinds or nn.Linear in kinds


def _shrinks(call: Call) -> float:
    """By how much a module makes a map smaller; 1 where it takes no map."""
    if len(call.given) != 4 or len(call.shape) != 4:
        return 1.0
    return max(before / max(after, 1) for before, after in zip(call.given[2:], call.shape[2:], strict=True))


def _channels_last(shapes: list[Shape], size: Shape) -> bool:
    """Whether the proportions of the input are those of the middle two dimensions, not of the last two."""

    def off(height: int, width: int) -> float:
        return abs(math.log(height / width) - math.log(size[0] / size[1]))

    return sum(off(*shape[1:3]) for shape in shapes) < sum(off(*shape[2:4]) for shape in shapes)
