"""Classes of pictures and of texts, and numbers of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.artifact.given import both_of, has_pair, picture_of, text_of
from limbeck.artifact.opened import Opened
from limbeck.artifact.running import best_first, sigmoid, softmax
from limbeck.pictures import middle, normalised, opened_picture

TOP = 5
"""Classes that an answer names, at most."""


def of_pictures(artifact: Opened, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """The class of each picture, with the likeliest and their probabilities; with several labels a picture those above
    their thresholds."""
    pixels = np.stack([pixels_of(artifact, given, number) for number, given in enumerate(inputs)])
    card = artifact.pixels
    return read(artifact, artifact.model({"inputs": normalised(pixels, card.mean, card.std)})["logits"])


def pixels_of(artifact: Opened, given: Any, number: int) -> NDArray[np.uint8]:
    """A picture as the model learned to see pictures, uint8 (height, width, channels)."""
    source, name = picture_of(given, number)
    with opened_picture(source, name) as image:
        return middle(image, artifact.pixels.size[0], artifact.pixels.channels, name)


def of_texts(artifact: Opened, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """The class of each text, or of a text and its pair; or the number of a regression."""
    texts: list[str | tuple[str, str]] = []
    for number, given in enumerate(inputs):
        if has_pair(given, "pair"):
            first, second = both_of(given, number, ("text", "pair"))
            texts.append((text_of(first, number), text_of(second, number)))
        else:
            texts.append(text_of(given, number))
    tokenizer = artifact.tokenizer
    return read(artifact, artifact.model(tokenizer.padded(tokenizer.rows(texts)))["logits"])


def read(artifact: Opened, logits: NDArray[Any]) -> list[dict[str, Any]]:
    """Answers of logits (batch, classes)."""
    problem, classes = artifact.setting("problem"), artifact.card.classes
    if problem == "regression":
        return [{"value": float(row[0])} for row in logits]
    if problem == "multi-label":
        thresholds = np.asarray(artifact.setting("thresholds"))
        return [
            {
                "classes": [name for name, there in zip(classes, row > thresholds, strict=True) if there],
                "probabilities": dict(zip(classes, row.tolist(), strict=True)),
            }
            for row in sigmoid(logits)
        ]
    answers = []
    for row in softmax(logits):
        top = [{"class": classes[at], "probability": float(row[at])} for at in best_first(row, TOP)]
        answers.append({**top[0], "top": top})
    return answers
