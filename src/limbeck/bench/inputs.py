"""What models are fed while they are measured: random pixels and tokens, which take as long as real ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.bench.onnx_files import Input, OnnxFile
from limbeck.errors import LimbeckError
from limbeck.models.spec import TextShape
from limbeck.types import Batch

LENGTH = 64
"""Tokens of a text where nothing else is said."""

SAFE_TOKENS = 100
"""How many tokens every vocabulary has; those of a file whose vocabulary is unknown are drawn from them."""

ONES, ZEROS = ("mask",), ("token_type", "segment")
"""What whole numbers by these names are: a mask hides nothing, and a text is one segment."""


def pixels(batch: int, size: Sequence[int]) -> Batch:
    """`inputs` (batch, channels, height, width), standard normal, the same in every call."""
    return {"inputs": torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))}


def tokens(batch: int, length: int, shape: TextShape) -> Batch:
    """`input_ids` and `attention_mask` (batch, length) without padding; `decoder_input_ids` too for an encoder-decoder,
    as of one pass over a whole translation."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocabulary, (batch, length), generator=draw)
    ids[ids == shape.pad_id] = (shape.pad_id + 1) % shape.vocabulary
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return made | ({"decoder_input_ids": ids.clone()} if shape.head == "seq2seq" else {})


def of_file(file: OnnxFile, batch: int, *, size: tuple[int, int, int], length: int) -> Batch:
    """Inputs for an .onnx file: free sizes become `batch`, then those of an image (channels, height, width) or a text.

    Raises:
        LimbeckError: the file takes another batch, or values of an unknown kind.
    """
    return {each.name: _values(file, each, batch, size, length) for each in file.inputs}


def _values(file: OnnxFile, of: Input, batch: int, size: tuple[int, int, int], length: int) -> Tensor:
    first, *rest = of.sizes or (None,)
    if first not in (None, batch):
        raise LimbeckError(
            f"{file.path}: takes batches of exactly {first}, not {batch}; measure it with --batch {first}, or export "
            "it with a free batch"
        )
    free = dict(enumerate(size)) if len(rest) == 3 else {}
    sizes = [batch, *(free.get(place, length) if each is None else each for place, each in enumerate(rest))]
    dtype: Any = getattr(torch, {"bool": "bool"}.get(of.dtype, of.dtype), None)
    if not isinstance(dtype, torch.dtype):
        raise LimbeckError(f"{file.path}: its input {of.name!r} is of {of.dtype}, which limbeck does not feed")
    draw = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(sizes, generator=draw).to(dtype)
    if dtype == torch.bool or any(word in of.name for word in ONES):
        return torch.ones(sizes, dtype=dtype)
    if any(word in of.name for word in ZEROS):
        return torch.zeros(sizes, dtype=dtype)
    return torch.randint(SAFE_TOKENS, sizes, generator=draw).to(dtype)
