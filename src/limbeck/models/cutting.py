"""Which rows and columns of a transformers model's weights belong together, and which of them to keep.

A model of smaller width has fewer entries in its residual stream: the same ones have to go from every layer that
reads or writes it. Heads, and the inner units of a feed-forward layer, go from all the matrices of that layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

Axis = str | None
"""What a dimension counts: `width`, `heads` (heads × head size), `keys` (the same of keys and values), `fused`
(queries, keys and values, one after the other), `head` (one a head), `inner`; None for what is never cut."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the models of one kind are laid out.

    Attributes:
        layers: ends of a module's path, what its outputs count, what its inputs count; the first that fits holds. What
            comes before the end is the unit in which heads or inner units are chosen.
        heads, inner: the configuration's keys; of two stacks the encoder's, then the decoder's.
        head_size: the key of a head's size where it does not follow from the width.
        turned: whether weights are (inputs, outputs), as in GPT-2.
    """

    layers: tuple[tuple[str, Axis, Axis], ...]
    inner: tuple[str, ...]
    heads: tuple[str, ...] = ("num_attention_heads",)
    head_size: str | None = None
    turned: bool = False


_HEADS = (r"lm_head|score|classifier|qa_outputs", None, "width")

_BERT = Layout(
    layers=(
        (r"\w+_embeddings", None, "width"),
        (r"LayerNorm|layer_norm", "width", None),
        (r"attention\.self\.(query|key|value)", "heads", "width"),
        (r"attention\.output\.dense", "width", "heads"),
        (r"intermediate\.dense", "inner", "width"),
        (r"(pooler|transform|classifier|lm_head)\.dense", "width", "width"),
        (r"output\.dense", "width", "inner"),
        (r"classifier\.out_proj|predictions\.decoder|lm_head\.decoder", None, "width"),
        _HEADS,
    ),
    inner=("intermediate_size",),
)
_DISTILBERT = Layout(
    layers=(
        (r"\w+_embeddings", None, "width"),
        (r"LayerNorm|\w+_layer_norm", "width", None),
        (r"attention\.(q|k|v)_lin", "heads", "width"),
        (r"attention\.out_lin", "width", "heads"),
        (r"ffn\.lin1", "inner", "width"),
        (r"ffn\.lin2", "width", "inner"),
        (r"pre_classifier|vocab_transform", "width", "width"),
        (r"vocab_projector", None, "width"),
        _HEADS,
    ),
    inner=("hidden_dim",),
)
_GPT2 = Layout(
    layers=(
        (r"wte|wpe", None, "width"),
        (r"ln_\w+", "width", None),
        (r"attn\.c_attn", "fused", "width"),
        (r"attn\.c_proj", "width", "heads"),
        (r"mlp\.c_fc", "inner", "width"),
        (r"mlp\.c_proj", "width", "inner"),
        _HEADS,
    ),
    inner=("n_inner",),
    turned=True,
)
_LLAMA = Layout(
    layers=(
        (r"embed_tokens", None, "width"),
        (r"self_attn\.(q|k)_norm", None, None),
        (r"norm|\w+_layernorm", "width", None),
        (r"q_proj", "heads", "width"),
        (r"(k|v)_proj", "keys", "width"),
        (r"o_proj", "width", "heads"),
        (r"mlp\.(gate|up)_proj", "inner", "width"),
        (r"mlp\.down_proj", "width", "inner"),
        _HEADS,
    ),
    inner=("intermediate_size",),
    head_size="head_dim",
)
_T5 = Layout(
    layers=(
        (r"shared|embed_tokens", None, "width"),
        (r"\w*layer_norm", "width", None),
        # The first block's position bias is that of all blocks, so they keep the same heads.
        (r"block\.\d+\.layer\.0\.SelfAttention\.(q|k|v)", "heads", "width"),
        (r"block\.\d+\.layer\.0\.SelfAttention\.o", "width", "heads"),
        (r"block\.\d+\.layer\.0\.SelfAttention\.relative_attention_bias", None, "head"),
        (r"EncDecAttention\.(q|k|v)", "heads", "width"),
        (r"EncDecAttention\.o", "width", "heads"),
        (r"DenseReluDense\.wi(_\d)?", "inner", "width"),
        (r"DenseReluDense\.wo", "width", "inner"),
        (r"classification_head\.dense", "width", "width"),
        (r"classification_head\.out_proj", None, "width"),
        _HEADS,
    ),
    inner=("d_ff",),
    head_size="d_kv",
)
_BART = Layout(
    layers=(
        (r"shared|embed_tokens|embed_positions", None, "width"),
        (r"layernorm_embedding|\w*layer_norm", "width", None),
        (r"classification_head\.dense", "width", "width"),
        (r"classification_head\.out_proj", None, "width"),
        (r"(q|k|v)_proj", "heads", "width"),
        (r"out_proj", "width", "heads"),
        (r"fc1", "inner", "width"),
        (r"fc2", "width", "inner"),
        _HEADS,
    ),
    inner=("encoder_ffn_dim", "decoder_ffn_dim"),
    heads=("encoder_attention_heads", "decoder_attention_heads"),
)

LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), _BERT),
    "distilbert": _DISTILBERT,
    "gpt2": _GPT2,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMA),
    **dict.fromkeys(("t5", "mt5"), _T5),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus"), _BART),
}
"""The layouts by a configuration's `model_type`."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How many heads a layer's queries have, how many its keys and values, and the size of each."""

    queries: int
    keys: int
    size: int


@dataclass(slots=True)
class Cutter:
    """Cuts tensors from a teacher's sizes to a student's, by the layout that both have.

    `names` are the teacher's tensors in use, whose norms say what matters. A row matters by its share of each matrix's
    squared norm, added up over the matrices that it belongs to.
    """

    layout: Layout
    source: Mapping[str, Tensor]
    names: list[str]
    width: tuple[int, int]
    """The teacher's and the student's."""
    heads: Mapping[str, tuple[Heads, Heads]]
    """The same for the stack that a path is in, by `encoder` or `decoder`."""
    inner: Mapping[str, tuple[int, int]]
    _scores: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    _kept: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            tensor = self.source[name]
            axes = self._axes(name, tensor.dim())
            if tensor.dim() != 2 or axes is None:
                continue
            squares = tensor.detach().float().square()
            total = squares.sum().clamp(min=torch.finfo(torch.float32).tiny)
            for dim, (axis, unit) in enumerate(axes):
                if axis in ("width", "heads", "keys", "fused", "inner"):
                    share = (squares.sum(1 - dim) / total).cpu()
                    kind, share = ("heads", share.view(3, -1).sum(0)) if axis == "fused" else (axis, share)
                    self._scores[kind, unit] = self._scores.get((kind, unit), torch.zeros_like(share)) + share

    def cut(self, name: str) -> Tensor | None:
        """The student's part of one of the teacher's tensors; None where the layout does not know it."""
        tensor = self.source[name]
        axes = self._axes(name, tensor.dim())
        if axes is None:
            return None
        for dim, (axis, unit) in enumerate(axes):
            if axis is not None:
                tensor = tensor.index_select(dim, self._keep(axis, unit).to(tensor.device))
        return tensor

    def _axes(self, name: str, dims: int) -> list[tuple[Axis, str]] | None:
        """What each dimension of a tensor counts, and the unit that it belongs to."""
        found = place_in(self.layout, name.rpartition(".")[0])
        if found is None or dims not in (1, 2):
            return None
        outputs, inputs, unit = found
        if dims == 1:
            return [(outputs, "" if outputs == "width" else unit)]
        axes = [(axis, "" if axis == "width" else unit) for axis in (outputs, inputs)]
        turned = self.layout.turned and outputs is not None
        return axes[::-1] if turned else axes

    def _keep(self, axis: str, unit: str) -> Tensor:
        if (axis, unit) not in self._kept:
            if axis == "width":
                self._kept[axis, unit] = _largest(self._scores[axis, unit], self.width[1])
            elif axis == "inner":
                self._kept[axis, unit] = _largest(self._scores[axis, unit], self.inner[_stack(unit)][1])
            else:
                self._keep_heads(unit)
        return self._kept[axis, unit]

    def _keep_heads(self, unit: str) -> None:
        before, after = self.heads[_stack(unit)]
        queries = self._scores["heads", unit].view(before.queries, before.size)
        keys = self._scores.get(("keys", unit), torch.zeros(before.keys * before.size)).view(before.keys, before.size)
        shared = before.queries // before.keys
        if after.keys == before.keys:
            # Every key keeps as many of its queries.
            each = _largest(queries.sum(1).view(before.keys, shared), after.queries // after.keys)
            heads = (each + torch.arange(before.keys)[:, None] * shared).flatten()
            kept_keys = torch.arange(before.keys)
        else:
            kept_keys = _largest(queries.view(before.keys, -1).sum(1) + keys.sum(1), after.keys)
            heads = (kept_keys[:, None] * shared + torch.arange(shared)).flatten()
        rows = _largest(queries[heads], after.size) + heads[:, None] * before.size
        flat = rows.flatten()
        self._kept["head", unit] = heads
        self._kept["heads", unit] = flat
        self._kept["fused", unit] = torch.cat([flat + part * before.queries * before.size for part in range(3)])
        self._kept["keys", unit] = (kept_keys[:, None] * before.size + torch.arange(before.size)).flatten()


@cache
def place_in(layout: Layout, path: str) -> tuple[Axis, Axis, str] | None:
    """What the outputs and the inputs of the layer at `path` count, and the unit that it belongs to; None where the
    layout does not know the layer."""
    for end, outputs, inputs in layout.layers:
        if found := re.fullmatch(rf"(?P<unit>.*?)(?:^|\.)(?:{end})", path):
            return outputs, inputs, found["unit"]
    return None


def _largest(scores: Tensor, count: int) -> Tensor:
    """The places of the largest scores along the last dimension, in their order."""
    return scores.topk(count, dim=-1).indices.sort(-1).values


def _stack(path: str) -> str:
    return "decoder" if "decoder" in path.split(".") else "encoder"
