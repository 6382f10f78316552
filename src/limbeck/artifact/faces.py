"""Embeddings of faces, and how alike two are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from limbeck.artifact.classes import pixels_of
from limbeck.artifact.given import both_of, has_pair
from limbeck.artifact.opened import Opened
from limbeck.pictures import normalised


def predict(artifact: Opened, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """The embedding of each picture; of a pair both, and their cosine."""
    card, pictures, pairs = artifact.pixels, [], []
    for number, given in enumerate(inputs):
        pairs.append(has_pair(given, "other"))
        parts = both_of(given, number, ("picture", "other")) if pairs[-1] else (given,)
        pictures += [pixels_of(artifact, each, number) for each in parts]
    rows = iter(artifact.model({"inputs": normalised(np.stack(pictures), card.mean, card.std)})["embedding"])
    answers = []
    for pair in pairs:
        first = next(rows)
        answer: dict[str, Any] = {"embedding": first.tolist()}
        if pair:
            other = next(rows)
            answer = {"cosine": cosine(first, other), **answer, "other": other.tolist()}
        answers.append(answer)
    return answers


def cosine(first: Any, other: Any) -> float:
    """Of two vectors, in float64; 0 where one has no length."""
    one, two = np.asarray(first, np.float64), np.asarray(other, np.float64)
    length = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / length if length else 0.0
