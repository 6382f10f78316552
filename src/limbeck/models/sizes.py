"""The sizes of a smaller transformers model: how many heads, inner units and layers its configuration gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models.cutting import LAYOUTS, Heads
from limbeck.models.stacks import evenly_spaced, stacks_of

Layers = int | Sequence[int]

_INNER = ("intermediate_size", "hidden_dim", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim")
_HEAD_SIZES = ("head_dim", "d_kv")
_DECODERS = {
    "num_layers": "num_decoder_layers",
    "encoder_layers": "decoder_layers",
    "encoder_attention_heads": "decoder_attention_heads",
    "encoder_ffn_dim": "decoder_ffn_dim",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The teacher's and the student's width; and of the layers of encoder and decoder, heads and inner units."""

    width: tuple[int, int]
    heads: Mapping[str, tuple[Heads, Heads]]
    inner: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Taken:
    """A stack of the teacher by its path, and which of its blocks the student's are copies of."""

    path: str
    blocks: list[int]


def take_layers(model: nn.Module, config: Any, layers: Layers | Mapping[str, Layers] | None) -> list[Taken]:
    """The blocks to copy from each stack of `model`; `config`, the student's, gets their number.

    Raises:
        LimbeckError: the stacks cannot be found, or do not have these blocks.
    """
    if layers is None:
        return []
    keys = _keys(config, "num_hidden_layers")
    sides = ("encoder", "decoder")[: len(keys)] if len(keys) > 1 else ("",)
    wanted = _by_stack(layers, sides)
    found = stacks_of(model)
    taken = []
    for side, key in zip(sides, keys, strict=True):
        total = getattr(config, key)
        paths = [
            path for path, blocks in found.items() if len(blocks) == total and (not side or side in path.split("."))
        ]
        if not paths:
            raise LimbeckError(
                f"shrink: {type(model).__name__} has no list of {total} layers that limbeck finds; leave layers out"
            )
        what = f"layers of the {side}" if side else "layers"
        blocks = _chosen(wanted.get(side), total, what)
        taken.append(Taken(min(paths, key=lambda path: path.count(".")), blocks))
        _set_layers(config, key, blocks, total)
    return taken


def _by_stack(layers: Layers | Mapping[str, Layers], sides: tuple[str, ...]) -> dict[str, Layers]:
    if not isinstance(layers, Mapping):
        return dict.fromkeys(sides, layers)
    if len(sides) == 1:
        raise LimbeckError("shrink: the teacher has one stack of layers; give layers as a number or a list")
    for side in layers:
        if side not in sides:
            raise LimbeckError(f"shrink: layers of {side!r}{nearest(str(side), sides)}")
    return dict(layers)


def _chosen(wanted: Layers | None, total: int, what: str) -> list[int]:
    if wanted is None:
        return list(range(total))
    if isinstance(wanted, int):
        _check(what, wanted, total)
        return evenly_spaced(wanted, total)
    if not wanted or not all(isinstance(each, int) and 0 <= each < total for each in wanted):
        raise LimbeckError(
            f"shrink: {what} {list(wanted)}: the teacher has 0 to {total - 1}; name one or more of those"
        )
    return list(wanted)


def _set_layers(config: Any, key: str, blocks: list[int], total: int) -> None:
    setattr(config, key, len(blocks))
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == total and name.endswith(("layer_types", "attention_layers")):
            setattr(config, name, [value[index] for index in blocks])


def narrow(config: Any, width: int | None, heads: int | None, feed_forward: int | None) -> Sizes:
    """Sets the width, heads and inner units of `config`; what is not given goes down with the width.

    Raises:
        LimbeckError: a number is larger than the teacher's, or does not fit the others.
    """
    layout = LAYOUTS.get(config.model_type)
    before = config.hidden_size
    after = before if width is None else width
    _check("width", after, before)
    known = config.to_dict()
    size_key = layout.head_size if layout is not None else next((key for key in _HEAD_SIZES if known.get(key)), None)
    changes = []
    for key in _keys(config, "num_attention_heads"):
        total = getattr(config, key)
        old = Heads(total, known.get("num_key_value_heads") or total, _own_size(config, size_key) or before // total)
        count, new = _heads(old, (before, after), heads, follows=size_key is None)
        changes.append((old, new))
        setattr(config, key, count)
    if "num_key_value_heads" in known:
        config.num_key_value_heads = changes[0][1].keys
    if size_key is not None:
        setattr(config, size_key, changes[0][1].size)
    inner = []
    for key in layout.inner if layout is not None else _guessed_inner(known):
        units = getattr(config, key) or 4 * before
        kept = max(1, round(units * after / before)) if feed_forward is None else feed_forward
        _check("feed_forward", kept, units)
        inner.append((units, kept))
        setattr(config, key, kept)
    config.hidden_size = after
    both = ("encoder", "decoder")
    return Sizes(
        (before, after),
        dict(zip(both, (changes[0], changes[-1]), strict=True)),
        dict(zip(both, (inner[0], inner[-1]), strict=True)),
    )


def _heads(old: Heads, width: tuple[int, int], wanted: int | None, *, follows: bool) -> tuple[int, Heads]:
    """How many heads the configuration gets, and which the student has of the teacher's size or smaller.

    `follows` is whether a head's size follows from the width.
    """
    before, after = width
    count = wanted
    if count is None:
        # Whole heads go where that is possible.
        kept, rest = divmod(old.queries * after, before)
        fits = not rest and kept > 0 and _keys_left(old, kept) is not None
        count = kept if fits else old.queries
    _check("heads", count, old.queries)
    keys = _keys_left(old, count)
    if keys is None:
        raise LimbeckError(
            f"shrink: {count} heads: the teacher's {old.queries} share {old.keys} keys; "
            f"take a multiple of {old.keys} or of {old.queries // old.keys}"
        )
    if not follows:
        return count, Heads(count, keys, old.size)
    size, rest = divmod(after, count)
    if rest:
        raise LimbeckError(f"shrink: {count} heads do not divide a width of {after}; choose others")
    if size <= old.size:
        return count, Heads(count, keys, size)
    if size % old.size:
        raise LimbeckError(
            f"shrink: {count} heads of a width of {after} have a size of {size}, which is no multiple of the "
            f"teacher's {old.size}; take {after // old.size} heads, or another width"
        )
    # Fewer heads than the width has room for: each is several of the teacher's, joined.
    joined = count * size // old.size
    return count, Heads(joined, joined, old.size)


def _keys_left(old: Heads, count: int) -> int | None:
    """The keys that `count` queries share evenly; None where there is no such number."""
    shared = old.queries // old.keys
    if shared > 1 and count % old.keys == 0:
        return old.keys
    return None if count % shared else count // shared


def _own_size(config: Any, key: str | None) -> int | None:
    return None if key is None else getattr(config, key, None)


def _guessed_inner(known: Mapping[str, Any]) -> list[str]:
    first = next((key for key in _INNER if key in known), None)
    return [] if first is None else _with_decoder(first, known)


def _keys(config: Any, name: str) -> list[str]:
    """The configuration's own key of that name; of two stacks the encoder's and the decoder's."""
    return _with_decoder(config.attribute_map.get(name, name), config.to_dict() if config.is_encoder_decoder else {})


def _with_decoder(key: str, known: Mapping[str, Any]) -> list[str]:
    other = _DECODERS.get(key)
    return [key, other] if other is not None and other in known else [key]


def _check(what: str, given: int, most: int) -> None:
    if not isinstance(given, int) or not 1 <= given <= most:
        raise LimbeckError(f"shrink: {what} {given!r}: the teacher has {most}; give a number from 1 to {most}")
