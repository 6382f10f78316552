"""What a model has to be compared at: stages, embedding, attention, and queries, keys and values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from limbeck.pairing.calls import DROPOUTS, Call, Recording, Shape, record
from limbeck.pairing.stages import Stage, stages_of
from limbeck.taps import INPUT
from limbeck.types import Batch

Values = tuple[str, str, str]
"""The taps of queries, keys and values."""

_QUERIES = {
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
}


@dataclass(frozen=True, slots=True)
class Survey:
    """The places of a model.

    Attributes:
        stages: of a CNN the last module at each resolution, of a transformer its blocks, in the order of depth.
        embedding: the tap of what enters the head.
        attention: the signal of the last layer's attention.
        values: the taps of the last block's queries, keys and values.
        shapes: of every tap above, the batch first.
        positions: of the input: pixels, or tokens.
        missing: why there are no `stages`, no `embedding`, …
    """

    stages: tuple[Stage, ...]
    embedding: str | None
    attention: str | None
    values: Values | None
    shapes: Mapping[str, Shape]
    positions: int
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def changes_resolution(self) -> bool:
        """Whether later stages have fewer positions than earlier ones."""
        return len({stage.positions for stage in self.stages}) > 1


def survey(model: nn.Module, batch: Batch, owner: str) -> Survey:
    """Finds a model's places in one dry forward on the first rows of `batch`, which leaves no trace.

    Raises:
        LimbeckError: the model is a graph without modules, or gives no logits.
    """
    recording = record(model, batch, owner)
    missing: dict[str, str] = {}
    stages, why = stages_of(recording)
    shapes = {stage.tap: stage.shape for stage in stages}
    if not stages:
        missing["stages"] = why
    embedding = _embedding(recording)
    if embedding is None:
        missing["embedding"] = "its logits are not what one last linear layer makes of one vector"
    else:
        shapes[embedding[0]] = embedding[1]
    attention = recording.attention
    if attention is None or len(attention[1]) != 4 or attention[1][0] != recording.batch:
        attention = None
        missing["attention"] = "it is no transformers model that gives its attention, (batch, heads, tokens, tokens)"
    else:
        shapes[attention[0]] = attention[1]
    values = _values(recording, stages)
    if values is None:
        missing["values"] = "its last block has no layers of their own for queries, keys and values"
    else:
        shapes |= {call.name: call.shape for call in values}
    return Survey(
        stages=stages,
        embedding=embedding[0] if embedding is not None else None,
        attention=attention[0] if attention is not None else None,
        values=(values[0].name, values[1].name, values[2].name) if values is not None else None,
        shapes=shapes,
        positions=math.prod(recording.size),
        missing=missing,
    )


def _embedding(recording: Recording) -> tuple[str, Shape] | None:
    """What enters the layer that makes the logits: a module's output, or a module's input. Never after dropout. Of a
    model that gives an embedding, that."""
    if recording.embedding is not None:
        return recording.embedding
    layers = [call for call in recording.taps if call.weights and not call.inside]
    head = max(layers, key=lambda call: call.order, default=None)
    # A head may be a 1×1 convolution.
    if head is None or head.shape not in (recording.logits, (*recording.logits, 1, 1)):
        return None
    if len(head.given) != len(head.shape) or head.came_from not in recording.passes:
        return None
    vector = (head.came_from, head.given)
    for call in recording.taps:
        if call.order < head.order and (call.place, call.shape) == vector and not isinstance(call.module, DROPOUTS):
            return recording.outermost(call).name, call.shape
    taken_by = next(call for call in recording.calls if (call.came_from, call.given) == vector)
    return f"{taken_by.name}{INPUT}", head.given


def _values(recording: Recording, stages: tuple[Stage, ...]) -> tuple[Call, Call, Call] | None:
    """The layers of queries, keys and values in the last block."""
    if not stages or len(stages[-1].shape) != 3:
        return None
    block, tokens = stages[-1].tap, stages[-1].shape[:2]
    found: dict[str, dict[str, Call]] = {}
    for call in recording.calls:
        parent, _, last = call.name.rpartition(".")
        if call.name.startswith(f"{block}.") and len(call.shape) == 3 and call.shape[:2] == tokens:
            found.setdefault(parent, {})[last] = call
    triples = [
        (calls[names[0]], calls[names[1]], calls[names[2]])
        for calls in found.values()
        for names in sorted(_QUERIES)
        if calls.keys() >= set(names)
    ]
    return triples[0] if len(triples) == 1 else None
