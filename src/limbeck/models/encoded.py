"""What an encoder makes of single tokens: embeddings that hold what its layers know, for a student without layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.forward import evaluating, unwrapped
from limbeck.models.huggingface import is_transformers

ROWS = 512
"""Tokens that are read at a time."""


@torch.no_grad()
def encoded_tokens(model: nn.Module, rows: Sequence[Sequence[int]], pad_id: int, special: Sequence[int] = ()) -> Tensor:
    """The mean of an encoder's last hidden states of each row of tokens, (rows, width) float32.

    A row is one token of a student as the encoder reads it, in between its special tokens, which are left out of the
    mean unless there is nothing else.

    Args:
        model: of transformers, with or without a head.
        rows: token ids, at least one in each row.
        pad_id: fills up short rows.
        special: the ids that are left out.

    Raises:
        LimbeckError: the model is none of transformers, or gives no hidden states.

    As in Model2Vec (Tulkens and van Dongen 2024), without its weighting of tokens by rank.
    """
    inner: Any = unwrapped(model)
    if not is_transformers(inner):
        raise LimbeckError(f"encoded tokens: expected a transformers model, got {type(inner).__name__}")
    base: nn.Module = inner.base_model
    device = next(base.parameters()).device
    found = []
    with evaluating(base):
        for start in range(0, len(rows), ROWS):
            part = [torch.tensor(row, dtype=torch.int64) for row in rows[start : start + ROWS]]
            ids = nn.utils.rnn.pad_sequence(part, batch_first=True, padding_value=pad_id)
            lengths = torch.tensor([len(row) for row in part])
            real = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
            given = base(input_ids=ids.to(device), attention_mask=real.long().to(device))
            states = getattr(given, "last_hidden_state", None)
            if states is None:
                raise LimbeckError(f"encoded tokens: {type(base).__name__} gives no last hidden states")
            own = real & ~torch.isin(ids, torch.tensor(list(special), dtype=torch.int64))
            own = torch.where(own.any(1, keepdim=True), own, real).unsqueeze(-1)
            states = states.float().cpu()
            found.append(states.masked_fill(~own, 0.0).sum(1) / own.sum(1))
    return torch.cat(found)
