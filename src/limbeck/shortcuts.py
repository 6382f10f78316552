"""What limbeck does to a step by itself: the same values and gradients, sooner. Each can be switched off."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

from limbeck.errors import LimbeckError, nearest

Shortcut = Literal["fold-batchnorm", "channels-last", "linear-head", "compact-tokens", "joint-loss", "fused-optimizer"]
"""
* `fold-batchnorm`: a frozen teacher's BatchNorm becomes part of the layer before it.
* `channels-last`: convolutions run on (batch, height, width, channels) memory.
* `linear-head`: the logits of a language model are made, compared and forgotten in chunks of tokens.
* `compact-tokens`: hidden states are compared at the tokens that count, not at padding (which then weighs nothing).
* `joint-loss`: the terms on one set of logits are one node of the graph, whose gradient is made with their values.
* `fused-optimizer`: all parameters are updated in one call.
"""

SHORTCUTS: frozenset[Shortcut] = frozenset(get_args(Shortcut))
"""All of them: the default everywhere."""


def known_shortcuts(names: Collection[str]) -> frozenset[Shortcut]:
    """The names as a set. Raises LimbeckError for one that is not known."""
    for name in names:
        if name not in SHORTCUTS:
            raise LimbeckError(f"unknown shortcut {name!r}{nearest(name, SHORTCUTS)}")
    return frozenset(each for each in SHORTCUTS if each in names)
