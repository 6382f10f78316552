"""Parallel texts by name, cut into splits and fitted with a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from limbeck.sources.splits import kept_mask
from limbeck.sources.texts.pairs import PairSet
from limbeck.sources.texts.parallel import read_parallel
from limbeck.sources.texts.tokenizing import Tokenizing, tokenizer_for

MAX_LENGTH = 128
"""Tokens of the longest row, where nothing is said."""


@dataclass(frozen=True, slots=True, eq=False)
class PairData:
    """Parallel texts ready for a run. `notes` say what was left out."""

    name: str
    train: PairSet
    validation: PairSet
    test: PairSet
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def load_pairs(
    name: str,
    *,
    tokenizing: Tokenizing | None = None,
    target_tokenizing: Tokenizing | None = None,
    tokenizer: str = "bpe",
    vocabulary: int = 8000,
    lowercase: bool = False,
    max_length: int = MAX_LENGTH,
    start_id: int | None = None,
    validation: float = 0.1,
    labelled: int | float | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
    split_column: str | None = None,
    header: Sequence[str] | None = None,
) -> PairData:
    """Loads parallel texts by name, cuts the splits that their author did not cut, and fits them with a tokenizer.

    Args:
        name: as for `read_parallel`; so are `validation` and the columns.
        tokenizing: the tokenizer of a model that is there; the next four are then of no use.
        target_tokenizing: one of its own for translations; by default both sides share one.
        tokenizer: the folder or name of one; or a kind that is trained on both sides of train: `bpe`, `wordpiece`,
            `bytes` or `characters`. Only `bpe` and `bytes` give every text back as it was.
        vocabulary: the tokens of a tokenizer that is trained here.
        lowercase: whether one that is trained here takes upper and lower case for one.
        max_length: tokens of the longest row on either side; longer texts are cut.
        start_id: the token before the first of a translation; see `PairSet`.
        labelled: how many training texts keep their translation (an int) or which share (a float). None keeps all.

    Raises:
        LimbeckError: something is missing, broken or out of range.
    """
    found = read_parallel(
        name,
        validation=validation,
        source_column=source_column,
        target_column=target_column,
        split_column=split_column,
        header=header,
    )
    if tokenizing is None:
        learned = [*found.train.sources, *(target for target in found.train.targets if target is not None)]
        tokenizing = Tokenizing(
            tokenizer_for(tokenizer, learned, vocabulary=vocabulary, lowercase=lowercase), max_length
        )
    sets = {
        part: PairSet(
            texts.sources,
            texts.targets,
            torch.from_numpy(texts.ids),
            tokenizing,
            target_tokenizing,
            start_id=start_id,
            name=f"{name} {part}",
        )
        for part, texts in (("train", found.train), ("validation", found.validation), ("test", found.test))
    }
    train = sets["train"]
    if labelled is not None:
        train = train.with_labels(kept_mask(train.labelled.numpy(), train.ids.numpy(), labelled))
    return PairData(name, train, sets["validation"], sets["test"], found.notes)
