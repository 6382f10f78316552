"""The texts of a batch as another tokenizer reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.sources.texts.classification import TextSet
from limbeck.sources.texts.tokenized import TOKEN_NAMES, Tokenized
from limbeck.sources.texts.tokenizing import Tokenizing


class Retokenize:
    """Gives each batch the tokens of another tokenizer for the same texts, which it finds by their `ids`.

    A teacher with a tokenizer of its own sees through it what the student sees. All other entries stay, labels among
    them. Texts are tokenised once.
    """

    def __init__(self, tokenizing: Tokenizing, sets: Sequence[TextSet]) -> None:
        """Args:
        tokenizing: the other tokenizer.
        sets: the sets that batches may come from.

        Raises:
            LimbeckError: there is no set, or some have pairs of texts and others have none.
        """
        paired = {one.pair(0) is not None for one in sets}
        if len(paired) != 1:
            raise LimbeckError(
                "retokenize: expected sets of texts, all with pairs or all without, got "
                f"{'both' if paired else 'no set'}"
            )
        self.tokenizing = tokenizing
        ids = torch.cat([one.ids for one in sets])
        places = [(one, index) for one in sets for index in range(len(one))]
        self._ids, first = np.unique(ids.numpy(), return_index=True)
        texts = [places[at][0].text(places[at][1]) for at in first]
        pairs = [places[at][0].pair(places[at][1]) or "" for at in first] if paired.pop() else None
        self._tokenized = Tokenized(texts, pairs, tokenizing)

    def __repr__(self) -> str:
        # A teacher's identity is made of it, so it must be the same in every process.
        return f"Retokenize({self.tokenizing.identity()})"

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch with `input_ids` (batch, longest) and the like of the other tokenizer, on the device of its ids.

        Raises:
            LimbeckError: the batch has no ids, or one that is in none of the sets.
        """
        if "ids" not in batch:
            raise LimbeckError(
                f"retokenize: the batch has no `ids`, only {', '.join(batch)}; give the data's own batch"
            )
        ids = batch["ids"].cpu().numpy()
        rows = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        unknown = ids[self._ids[rows] != ids]
        if len(unknown):
            raise LimbeckError(
                f"retokenize: sample {int(unknown[0])} is in none of the {len(self._ids):,} texts that it knows; "
                "give it every set that batches come from"
            )
        tokens = self._tokenized.take(torch.from_numpy(rows))
        others = {name: value for name, value in batch.items() if name not in TOKEN_NAMES}
        return {name: value.to(batch["ids"].device) for name, value in tokens.items()} | others
