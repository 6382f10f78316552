"""Artifacts, opened and asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.artifact import answers, boxes, classes, faces, joints, writing
from limbeck.artifact.card import TOKENIZER, ArtifactCard, check_files, read_artifact_card
from limbeck.artifact.opened import Opened
from limbeck.artifact.running import Graph, chunks
from limbeck.artifact.texts import Texts
from limbeck.errors import LimbeckError

BATCH = 32

PREDICTED: Mapping[str, Callable[[Opened, Sequence[Any]], list[dict[str, Any]]]] = {
    "image-classification": classes.of_pictures,
    "text-classification": classes.of_texts,
    "object-detection": boxes.predict,
    "pose-estimation": joints.predict,
    "face-recognition": faces.predict,
    "question-answering": answers.predict,
    "translation": writing.translate,
    "language-modelling": writing.go_on,
}
"""By task what gives the answers to some inputs."""


class Artifact:
    """An exported model. Make one with `open_artifact`."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    @property
    def card(self) -> ArtifactCard:
        """What `artifact.json` says."""
        return self.opened.card

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.opened.folder

    def predict(self, inputs: Sequence[Any], *, batch_size: int = BATCH) -> list[dict[str, Any]]:
        """The answer to each input, as JSON values.

        | task | an input | an answer |
        |---|---|---|
        | image classification | a picture: a file or the bytes of one | `class`, `probability`, `top` |
        | text classification | a text, or `{text, pair}` | as above; `classes` of several labels; or `value` |
        | object detection | a picture | `objects`: `class`, `score`, `box` in pixels of the picture on disk |
        | pose estimation | a picture, or `{picture, box}` | `box`, `joints`: by name `x`, `y`, `score` |
        | face recognition | a picture, or `{picture, other}` | `embedding`; of two pictures their `cosine` |
        | question answering | `{question, context}` | `answer`, `start`, `end` in characters, `score` |
        | translation | a text | `text` |
        | language modelling | a text | `text`, how it goes on |

        Args:
            batch_size: inputs that are prepared and run at a time.

        Raises:
            LimbeckError: an input is none of the task, or a file is missing or broken.
        """
        ask = PREDICTED[self.card.task]
        if isinstance(inputs, str | bytes | Path):
            raise LimbeckError("predict: expected a list of inputs, got one; give [input]")
        return [answer for part in chunks(list(inputs), batch_size) for answer in ask(self.opened, part)]


def open_artifact(folder: Path | str, *, threads: int | None = None) -> Artifact:
    """An artifact that `limbeck export` wrote, its files checked and loaded.

    Args:
        threads: CPU threads; None leaves it to ONNX Runtime.

    Raises:
        LimbeckError: there is no artifact, or a file is missing, broken or another.
    """
    folder = Path(folder)
    card = read_artifact_card(folder)
    if card.task not in PREDICTED:
        raise LimbeckError(f"{folder}: this version knows no task {card.task!r}; export the model with it")
    check_files(folder, card)
    graphs = {
        name: Graph(folder / each.file, each, batch=card.batch, threads=threads) for name, each in card.graphs.items()
    }
    texts = None if card.tokens is None else Texts(folder / TOKENIZER, card.tokens)
    return Artifact(Opened(folder, card, graphs, texts))
