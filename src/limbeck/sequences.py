"""Sequence-level labels: what a teacher writes of each sample, kept in a label store, as targets for a student.

Kim and Rush 2016, "Sequence-Level Knowledge Distillation", arXiv:1606.07947: a student that learns its teacher's own
translations instead of the references sees the mode of the teacher's distribution over whole sequences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from limbeck.errors import LimbeckError, nearest
from limbeck.metrics.translation import Similarity, sentence_scores
from limbeck.store import LabelStore, Sequences

SEQUENCES, SCORES = "sequences", "scores"
"""The signals of a store of sequences: tokens, and the score of each hypothesis where it was asked for."""

Mode = Literal["best", "interpolation"]
MODES: tuple[Mode, ...] = ("best", "interpolation")


class Hypothesis(NamedTuple):
    """What a model wrote of a sample: its tokens without the one that ends it; its score, NaN where nobody asked for
    it; and whether it ended by itself or was cut off."""

    tokens: list[int]
    score: float
    ended: bool


class References(Protocol):
    """What interpolation compares with, as `limbeck.sources.texts.PairSet` has it."""

    ids: Tensor

    @property
    def references(self) -> Sequence[str | None]:
        """The text of each id, None where there is none."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of tokens."""


def as_hypotheses(tokens: Tensor, scores: Tensor | None, ends: Sequence[int]) -> list[list[Hypothesis]]:
    """Of each sample its hypotheses, best first: `tokens` (samples, beams, length) int64 with -1 behind the last,
    `scores` (samples, beams), and `ends` the tokens that end one. Beams that hold nothing are left out."""
    values = None if scores is None else scores.tolist()
    found: list[list[Hypothesis]] = []
    for sample, beams in enumerate(tokens.tolist()):
        own = []
        for beam, padded in enumerate(beams):
            row = padded[: padded.index(-1)] if -1 in padded else padded
            ended = bool(row) and row[-1] in ends
            if row or beam == 0:
                score = math.nan if values is None else values[sample][beam]
                own.append(Hypothesis(row[:-1] if ended else row, score, ended))
        found.append(own)
    return found


def read_sequences(store: LabelStore | str | Path) -> dict[int, list[Hypothesis]]:
    """What a store of sequences holds: of each id the teacher's hypotheses, best first.

    Raises:
        LimbeckError: there is no whole store of sequences, or a file of it is corrupt.
    """
    store = store if isinstance(store, LabelStore) else LabelStore.open(store)
    signal = store.signals.get(SEQUENCES)
    if signal is None or not isinstance(signal.codec, Sequences):
        raise LimbeckError(
            f"the label store {store.folder} holds {', '.join(store.signals)}, not what a teacher writes; make one "
            "with limbeck.generation.generate(…, cache=folder)"
        )
    rows = store.rows(store.ids)
    tokens = store.read(SEQUENCES, rows)
    scores = store.read(SCORES, rows) if SCORES in store.signals else None
    assert isinstance(tokens, Tensor)
    assert scores is None or isinstance(scores, Tensor)
    return dict(zip(store.ids.tolist(), as_hypotheses(tokens, scores, signal.codec.ends), strict=True))


def sequence_targets(
    sequences: LabelStore | str | Path | Mapping[int, Sequence[Hypothesis]],
    *,
    mode: Mode = "best",
    references: References | None = None,
    similarity: Similarity = "bleu",
) -> dict[int, list[int]]:
    """The tokens that a student learns of each sample, by id, for `PairSet.with_targets`.

    `best` takes the teacher's most probable hypothesis (section 3.2 of Kim and Rush 2016, arXiv:1606.07947);
    `interpolation` the one that is nearest to the reference (section 3.3), the more probable one where two are, and the
    best where a sample has no reference. Hypotheses that were cut off are not taken: a student would learn never to
    end; a sample that has no other is left out, and keeps the target that it had.

    Args:
        sequences: a store that `generate` wrote, its folder, or hypotheses by id.
        references: the set whose texts were given to the teacher; `interpolation` alone needs it.
        similarity: `bleu`, as in the paper, or `chrf`.

    Raises:
        LimbeckError: the mode is not known, interpolation has no references, or the store cannot be read.
    """
    if mode not in MODES:
        raise LimbeckError(f"unknown mode {mode!r} of sequence-level targets{nearest(str(mode), MODES)}")
    given = sequences if isinstance(sequences, Mapping) else read_sequences(sequences)
    ended = {each: [one for one in found if one.ended] for each, found in given.items()}
    chosen = {each: found[0] for each, found in ended.items() if found}
    if mode == "interpolation":
        if references is None:
            raise LimbeckError(
                "interpolation takes the hypothesis nearest to the reference; give references=the data set"
            )
        texts = dict(zip(references.ids.tolist(), references.references, strict=True))
        pairs = [(each, one, text) for each in chosen if (text := texts.get(each)) is not None for one in ended[each]]
        if not pairs:
            raise LimbeckError("interpolation: no sample has both a hypothesis and a reference; take the mode 'best'")
        written = references.decode([one.tokens for _, one, _ in pairs])
        nearness = sentence_scores(written, [text for _, _, text in pairs], similarity=similarity)
        best: dict[int, float] = {}
        for (each, one, _), near in zip(pairs, nearness, strict=True):
            if near > best.get(each, -1.0):
                best[each], chosen[each] = near, one
    return {each: one.tokens for each, one in chosen.items()}
