"""A model that knows a part of its tokenizer's tokens: ids are renumbered before it reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError

NUMBERS = "token_numbers"
"""The buffer (vocabulary of the tokenizer,) int64 that holds the model's own id of each token."""

_NAMES = ("input_ids", "decoder_input_ids")


def install_renumbering(model: nn.Module, numbers: Tensor) -> None:
    """Has `model` take the tokenizer's ids from now on, in place; `numbers` (vocabulary,) gives its own for each."""
    if NUMBERS not in dict(model.named_buffers(recurse=False)):
        model.register_forward_pre_hook(_renumber, with_kwargs=True)
    model.register_buffer(NUMBERS, numbers.long())


def renumbering_of(model: nn.Module) -> Tensor | None:
    """The model's own id of each token of its tokenizer, (vocabulary,); None where they are the same."""
    return dict(model.named_buffers(recurse=False)).get(NUMBERS)


def blank_numbers(vocabulary: int) -> Tensor:
    """Numbers to load others into."""
    return torch.zeros(vocabulary, dtype=torch.long)


# A function of the module, not of one model: a copy of the model then reads its own buffer.
def _renumber(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    numbers = module.get_buffer(NUMBERS)
    if given and isinstance(given[0], Tensor):
        given = (numbers[given[0]], *given[1:])
    changed = {name: numbers[named[name]] for name in _NAMES if isinstance(named.get(name), Tensor)}
    return given, named | changed


@dataclass(frozen=True, slots=True)
class Kept:
    """The tokens that stay: `rows` (new vocabulary,) of the old embeddings, `numbers` (tokenizer's vocabulary,) the new
    id of each token."""

    rows: Tensor
    numbers: Tensor


def choose_tokens(
    model: Any,
    wanted: int | Sequence[int],
    counts: Sequence[int] | Tensor | None,
    unknown: int | None,
    always: Sequence[int],
) -> Kept:
    """The tokens of a model to keep, as `limbeck.models.shrinking.shrink` takes them.

    Raises:
        LimbeckError: the model gives logits over its vocabulary, counts or the unknown token are missing, or an id is
            not in the vocabulary.
    """
    if model.get_output_embeddings() is not None:
        raise LimbeckError(
            f"shrink: {type(model).__name__} gives logits over its vocabulary, so with other tokens it would say other "
            "things; leave vocabulary out, or train a tokenizer with fewer tokens and a student for it"
        )
    own = renumbering_of(model)
    old = len(own) if own is not None else model.get_input_embeddings().num_embeddings
    own = torch.arange(old) if own is None else own.cpu()
    if unknown is None:
        raise LimbeckError(
            "shrink: what a smaller vocabulary lacks is read as the unknown token, and none is given; give unknown=, "
            "or leave vocabulary out where the tokenizer has no such token"
        )
    listed = [] if isinstance(wanted, int) else [int(token) for token in wanted]
    for token in (unknown, *always, *listed):
        if not 0 <= token < old:
            raise LimbeckError(f"shrink: token {token} is not among the teacher's {old}; give ids of its tokenizer")
    special = torch.tensor(sorted(set(_special_ids(model.config).values())), dtype=torch.long)
    fixed = torch.isin(own, special)
    fixed[[unknown, *always]] = True
    if isinstance(wanted, int):
        chosen = _most_used(wanted, old, fixed, counts)
    else:
        chosen = fixed.clone()
        chosen[listed] = True
    rows = own[chosen].unique()
    pad = model.config.pad_token_id
    if pad is not None and pad < len(rows):
        # RoBERTa counts positions from the padding token's id, so it keeps its number.
        at = int((rows == pad).nonzero())
        rows[[pad, at]] = rows[[at, pad]]
    new = torch.zeros(int(own.max()) + 1, dtype=torch.long)
    new[rows] = torch.arange(len(rows))
    return Kept(rows, torch.where(chosen, new[own], new[own[unknown]]))


def _most_used(wanted: int, old: int, fixed: Tensor, counts: Sequence[int] | Tensor | None) -> Tensor:
    if counts is None:
        raise LimbeckError("shrink: a number of tokens needs to know how often each is used; give counts=")
    used = torch.as_tensor(counts).double().cpu()
    if used.dim() != 1 or len(used) > old:
        raise LimbeckError(f"shrink: expected counts of the teacher's {old} tokens, got {tuple(used.shape)}")
    # A teacher may have more rows than its tokenizer has tokens.
    used = torch.nn.functional.pad(used, (0, old - len(used)), value=-1.0)
    least = int(fixed.sum())
    if not least <= wanted <= old:
        raise LimbeckError(
            f"shrink: vocabulary {wanted}: the teacher has {old} tokens, of which {least} stay in any case; "
            f"give a number from {least} to {old}"
        )
    order = used.masked_fill(fixed, torch.inf).sort(descending=True, stable=True).indices
    chosen = torch.zeros(old, dtype=torch.bool)
    chosen[order[:wanted]] = True
    return chosen


def special_tokens(config: Any, kept: Kept) -> dict[str, int]:
    """The configuration's special tokens by their keys, in the new numbers."""
    numbers = {int(row): number for number, row in enumerate(kept.rows.tolist())}
    return {key: numbers[token] for key, token in _special_ids(config).items() if token in numbers}


def _special_ids(config: Any) -> dict[str, int]:
    size = config.vocab_size
    values = config.to_dict()
    return {
        key: value
        for key, value in values.items()
        if key.endswith("_token_id") and isinstance(value, int) and 0 <= value < size
    }
