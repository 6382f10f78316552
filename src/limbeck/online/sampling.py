"""Continuations that a causal language model draws by itself, of prompts taken from data."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.losses.numeric import positive
from limbeck.models.forward import evaluating, unwrapped
from limbeck.models.heads import is_causal_lm
from limbeck.tokens import IGNORED, Addresses
from limbeck.types import UNLABELLED, Batch


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Beginnings of texts: `ids` (batch, longest) int64, filled up on the right, and `lengths` (batch,) int64."""

    ids: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, batch: Batch, count: int) -> Prompts:
        """The first `count` tokens of each row of a batch, of its longest document where several are packed in it.

        A document of `count` tokens or fewer leaves its last one to be drawn.

        Raises:
            LimbeckError: the batch is not one of texts, or the count is below 1.
        """
        if count < 1 or "input_ids" not in batch:
            raise LimbeckError(
                f"prompts: expected a batch with input_ids and 1 token or more, got {', '.join(batch)} and {count}"
            )
        texts = Addresses({name: tensor.cpu() for name, tensor in batch.items()})
        places = texts.places.masked_fill(~texts.real, -1)
        longest, at = places.max(1)
        lengths = longest.clamp(min=1, max=count)
        columns = torch.arange(int(lengths.max()))
        where = ((at - longest).unsqueeze(1) + columns).clamp(max=places.shape[1] - 1)
        ids = batch["input_ids"].gather(1, where.to(batch["input_ids"].device))
        return cls(ids, lengths.to(ids.device))


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Prompts with what was drawn behind them.

    `ids` (batch, length) int64, filled up on the right; `prompts` (batch,) int64 is how many tokens were given, `stops`
    (batch,) int64 how many there are with those that were drawn.
    """

    ids: Tensor
    prompts: Tensor
    stops: Tensor

    def batch(self) -> dict[str, Tensor]:
        """What a Distiller learns from: `labels` are -1 where a token was drawn, to be distilled without a label, and
        -100 elsewhere."""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        real = places < self.stops.unsqueeze(1)
        drawn = real & (places >= self.prompts.unsqueeze(1))
        labels = torch.full_like(self.ids, IGNORED).masked_fill(drawn, UNLABELLED)
        return {"input_ids": self.ids, "attention_mask": real.long(), "labels": labels}


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Prompts,
    count: int,
    *,
    temperature: float = 1.0,
    ends: tuple[int, ...] | None = None,
    vocabulary: int | None = None,
    generator: torch.Generator | None = None,
) -> Samples:
    """Up to `count` tokens behind each prompt, each drawn from the model's distribution over the next one.

    The model runs in eval mode and keeps the keys and values of earlier tokens; it gets its own mode back. Nothing is
    padded on the left: longer prompts are read token by token while shorter ones are continued already.

    Args:
        model: a causal language model.
        temperature: of the softmax that is drawn from.
        ends: tokens behind which nothing is drawn; those of the model's configuration by default.
        vocabulary: how many entries may be drawn, where those beyond are padding; all by default.
        generator: of the draws, on the prompts' device.

    Raises:
        LimbeckError: the model is not a causal one or has no room for that many tokens, or a number is out of range.
    """
    _check(model, int(prompts.lengths.max()) + count, count)
    positive(temperature, "sampling temperature")
    inner: Any = unwrapped(model)
    accepted = inspect.signature(inner.forward).parameters
    keeps = "past_key_values" in accepted
    options: dict[str, Any] = {"use_cache": keeps} | ({"logits_to_keep": 1} if "logits_to_keep" in accepted else {})
    ending = torch.tensor(ends_of(model) if ends is None else ends, dtype=torch.int64, device=prompts.ids.device)
    first, lengths = int(prompts.lengths.min()), prompts.lengths
    ids = prompts.ids[:, :first]
    done = torch.zeros_like(lengths, dtype=torch.bool)
    stops = lengths + count
    given, kept = ids, None
    with evaluating(model):
        for at in range(first, int(lengths.max()) + count):
            output = inner(input_ids=given, **({"past_key_values": kept} if kept is not None else {}), **options)
            logits = output.logits[:, -1, :vocabulary]
            shares = (logits.float() / temperature).softmax(-1)
            token = torch.multinomial(shares, 1, generator=generator).squeeze(1)
            if at < prompts.ids.shape[1]:
                token = torch.where(at < lengths, prompts.ids[:, at], token)
            ids = torch.cat([ids, token.unsqueeze(1)], 1)
            last = torch.isin(token, ending) & (at >= lengths) & ~done
            stops = torch.where(last, at + 1, stops)
            done = done | last | (at + 1 >= stops)
            if bool(done.all()):
                break
            kept = output.past_key_values if keeps else None
            given = token.unsqueeze(1) if keeps else ids
    beyond = torch.arange(ids.shape[1], device=ids.device) >= stops.unsqueeze(1)
    return Samples(ids.masked_fill(beyond, 0), lengths, stops)


def ends_of(model: nn.Module) -> tuple[int, ...]:
    """The tokens that end a text, as the model's configuration has them."""
    inner: Any = unwrapped(model)
    found = inner.config.get_text_config().eos_token_id
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list | tuple) else (int(found),)


def _check(model: nn.Module, total: int, count: int) -> None:
    if not is_causal_lm(model):
        raise LimbeckError(
            f"sampling: {type(unwrapped(model)).__name__} is not a causal language model of transformers; give one "
            "that predicts the next token"
        )
    if count < 1:
        raise LimbeckError(f"sampling: expected 1 new token or more, got {count}")
    inner: Any = unwrapped(model)
    room = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(room, int) and total > room:
        raise LimbeckError(
            f"sampling: prompts and {count} new tokens are {total} together, and {type(inner).__name__} has room for "
            f"{room}; take fewer of either"
        )
