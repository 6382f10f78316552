"""Graphs run by ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.artifact.card import GraphCard
from limbeck.errors import LimbeckError
from limbeck.onnx_sessions import open_session

Arrays = Mapping[str, NDArray[Any]]


class Graph:
    """A file of an artifact, ready to run.

    Args:
        batch: samples of a run, where the file takes no other number.
        threads: CPU threads; None leaves it to ONNX Runtime.

    Raises:
        LimbeckError: ONNX Runtime is not there, or cannot load the file.
    """

    def __init__(self, path: Path, card: GraphCard, *, batch: int | None, threads: int | None) -> None:
        self._session = open_session(path, threads=threads)
        self._batch, self._path = batch, path
        self.inputs = tuple(each.name for each in card.inputs)
        self.outputs = tuple(each.name for each in card.outputs)

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The outputs by name, of inputs by name whose first dimension is the batch."""
        feeds = {name: feeds[name] for name in self.inputs}
        count = len(feeds[self.inputs[0]])
        step = self._batch or max(count, 1)
        parts = []
        for start in range(0, max(count, 1), step):
            piece = {name: _filled(each[start : start + step], self._batch) for name, each in feeds.items()}
            kept = min(step, count - start)
            parts.append([each[:kept] for each in self._ran(piece)])
        joined = (np.concatenate(each) if len(parts) > 1 else each[0] for each in zip(*parts, strict=True))
        return dict(zip(self.outputs, joined, strict=True))

    def _ran(self, feeds: Arrays) -> list[NDArray[Any]]:
        try:
            found: list[NDArray[Any]] = self._session.run(list(self.outputs), feeds)
        except Exception as error:  # ONNX Runtime has an exception class for each of its status codes
            shapes = ", ".join(f"{name} {each.shape}" for name, each in feeds.items())
            reason = str(error).splitlines()[0]
            raise LimbeckError(f"{self._path}: ONNX Runtime cannot run it on {shapes} ({reason})") from None
        return found


def _filled(rows: NDArray[Any], batch: int | None) -> NDArray[Any]:
    """Rows up to the size of a batch, the last one again and again."""
    missing = 0 if batch is None else batch - len(rows)
    return rows if missing <= 0 else np.concatenate([rows, np.repeat(rows[-1:], missing, 0)])


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Over the last dimension, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    shares: NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return shares


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """In float64."""
    values = logits.astype(np.float64)
    small = np.exp(-np.abs(values))
    found: NDArray[np.float64] = np.where(values >= 0, 1 / (1 + small), small / (1 + small))
    return found


def best_first(scores: NDArray[Any], most: int) -> NDArray[np.int64]:
    """The places of the `most` largest of (n,), the largest first; of equal ones the first."""
    return np.argsort(-scores, kind="stable")[:most]


def chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """The items, at most `size` at a time."""
    return [items[start : start + size] for start in range(0, len(items), size)]
