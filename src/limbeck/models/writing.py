"""How a transformers model writes: a batch of texts to hypotheses, by greedy or beam search, and their scores."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from limbeck.errors import LimbeckError
from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import is_transformers
from limbeck.types import Batch

SCORED_BYTES = 64 << 20
"""What the logits of hypotheses that are scored may take at a time."""


class Writing:
    """A transformers model that writes on its own device: an encoder-decoder a target, a causal language model what
    follows a prompt.

    Args:
        model: its own generation settings hold where nothing is said here.
        beams: hypotheses that are followed; 1 is greedy.
        most: the most tokens of a hypothesis, the one that ends it included.
        length_penalty: hypotheses are compared by their log-probability over their length to this power.
        every_beam: gives all hypotheses, rather than the best alone.
        scored: gives their scores as well.

    Raises:
        LimbeckError: the model cannot generate, or does not know where to begin.
    """

    def __init__(
        self, model: nn.Module, *, beams: int, most: int, length_penalty: float, every_beam: bool, scored: bool
    ) -> None:
        inner: Any = unwrapped(model)
        if not is_transformers(inner) or not inner.can_generate():
            raise LimbeckError(
                f"{type(inner).__name__} cannot generate; give a transformers model for translation or causal language "
                "modelling"
            )
        self.model = inner
        self.most = most
        self.kept = beams if every_beam else 1
        self.scored = scored
        self._length_penalty = length_penalty
        self._decodes = bool(inner.config.is_encoder_decoder)
        self._settings = self._decoding(beams)
        self._device = next((each.device for each in inner.parameters()), torch.device("cpu"))

    def _decoding(self, beams: int) -> Any:
        settings = copy.deepcopy(self.model.generation_config)
        ends = settings.eos_token_id
        settings.update(
            do_sample=False, num_beams=beams, num_return_sequences=self.kept, max_new_tokens=self.most, max_length=None,
            use_cache=True, return_dict_in_generate=False, output_scores=False,
        )  # fmt: skip
        if beams > 1:
            settings.length_penalty = self._length_penalty
        if settings.pad_token_id is None and ends is not None:
            settings.pad_token_id = ends[0] if isinstance(ends, list) else ends
        if self._decodes and settings.decoder_start_token_id is None:
            settings.decoder_start_token_id = settings.bos_token_id
            if settings.bos_token_id is None:
                raise LimbeckError(
                    f"{type(self.model).__name__} does not know the token before the first of a target; set its "
                    "generation_config.decoder_start_token_id"
                )
        return settings

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what is written beside the weights, as JSON values."""
        settings: dict[str, Any] = json.loads(self._settings.to_json_string(use_diff=True))
        settings.pop("transformers_version", None)
        return {**settings, "eos_token_id": list(self.ends)}

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        ends = self._settings.eos_token_id
        return () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)

    @property
    def vocabulary(self) -> int:
        """How many tokens the model can write."""
        return int(self.model.config.get_text_config(decoder=True).vocab_size)

    def check_room(self, longest: int) -> None:
        """Raises LimbeckError where the model has fewer positions than a text of `longest` tokens needs."""
        have = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        needed = self.most if self._decodes else longest + self.most
        if isinstance(have, int) and needed > have:
            raise LimbeckError(
                f"{type(self.model).__name__} has {have} positions, and {needed} may be needed; lower "
                f"max_new_tokens{'' if self._decodes else ' or shorten the prompts'}"
            )

    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of each text of a batch, `input_ids` and `attention_mask` (batch, length), its hypotheses, best first.

        Returns:
            The tokens (batch, beams, most) int64, -1 behind the last, and the scores (batch, beams) float32, 0 where
            nobody asked for them; both on the CPU. A text without a token has nothing but -1.
        """
        ids, mask = batch["input_ids"].to(self._device), batch["attention_mask"].to(self._device)
        tokens = torch.full((len(ids), self.kept, self.most), -1, device=self._device)
        scores = torch.zeros(len(ids), self.kept, device=self._device)
        there = mask.bool().any(1).nonzero().squeeze(1)
        if len(there):
            ids, mask = _padded(ids[there], mask[there], left=not self._decodes)
            own = self._ended(self._written(ids, mask)[:, 1 if self._decodes else ids.shape[1] :])
            if self.scored:
                scores[there] = self._scores(ids, mask, own).view(len(there), self.kept)
            tokens[there, :, : own.shape[1]] = own.view(len(there), self.kept, -1)
        return tokens.cpu(), scores.cpu()

    def _written(self, ids: Tensor, mask: Tensor) -> Tensor:
        """What transformers writes, the start or the prompt included, (rows, length)."""
        # Given as an argument, settings that are None would be taken from the model's own.
        own, self.model.generation_config = self.model.generation_config, self._settings
        try:
            written: Tensor = self.model.generate(input_ids=ids, attention_mask=mask)
        finally:
            self.model.generation_config = own
        return written

    def _ended(self, tokens: Tensor) -> Tensor:
        """The tokens (rows, length) with -1 behind the first that ends them."""
        ends = torch.isin(tokens, torch.tensor(self.ends, device=tokens.device, dtype=tokens.dtype)).long()
        return tokens.masked_fill(ends.cumsum(1) - ends > 0, -1)

    @torch.no_grad()
    def _scores(self, ids: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """The log-probability of each hypothesis over its length to the power of the length penalty, (rows,), from a
        pass over what was written: for the search to give them it would have to keep all logits of all steps."""
        source = self.model.get_encoder()(input_ids=ids, attention_mask=mask)[0] if self._decodes else ids
        source, mask = source.repeat_interleave(self.kept, 0), mask.repeat_interleave(self.kept, 0)
        step = max(1, SCORED_BYTES // (4 * self.vocabulary * tokens.shape[1]))
        parts = (slice(start, start + step) for start in range(0, len(source), step))
        sums = torch.cat([self._log_probabilities(source[at], mask[at], tokens[at]) for at in parts])
        return sums / (tokens >= 0).sum(1).clamp(min=1).float().pow(self._length_penalty)

    def _log_probabilities(self, source: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """The sums over tokens (rows, length), given the encoder's states (rows, length, width) or the prompts."""
        real, filled = tokens >= 0, tokens.clamp(min=0)
        if self._decodes:
            first = filled.new_full((len(filled), 1), self._settings.decoder_start_token_id)
            given: dict[str, Any] = {
                "encoder_outputs": BaseModelOutput(last_hidden_state=source),
                "attention_mask": mask,
            }
            given["decoder_input_ids"] = torch.cat([first, filled[:, :-1]], 1)
            logits = self.model(**given, use_cache=False).logits
        else:
            seen = torch.cat([mask, real.to(mask.dtype)], 1)
            given = {"input_ids": torch.cat([source, filled], 1), "attention_mask": seen}
            places = (seen.cumsum(1) - 1).clamp(min=0)
            logits = self.model(**given, position_ids=places, use_cache=False).logits[:, source.shape[1] - 1 : -1]
        logits = logits.float()
        log_p: Tensor = logits.gather(2, filled.unsqueeze(2)).squeeze(2) - logits.logsumexp(2)
        return log_p.masked_fill(~real, 0.0).sum(1)


def _padded(ids: Tensor, mask: Tensor, *, left: bool) -> tuple[Tensor, Tensor]:
    """Texts (batch, length) whose padding is on one side: a prompt ends at the last column, where a model goes on from;
    a source begins at the first, as many models count positions from there."""
    order = (mask if left else 1 - mask).argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)
