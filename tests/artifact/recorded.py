"""Artifacts without a model: what would be run is recorded, or a graph of two operators answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limbeck.artifact import ArtifactCard, GraphCard, PictureCard, TensorCard, write_artifact_card
from limbeck.artifact.card import checksum
from limbeck.artifact.opened import Opened
from limbeck.types import Preprocessing

CLASSES = ("cat", "dog", "owl")


class Recorder:
    """In the place of a graph: keeps what it is given, and answers always the same."""

    def __init__(self, **answer: NDArray[Any]) -> None:
        self.seen: list[NDArray[Any]] = []
        self.answer = answer

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.seen.append(feeds["inputs"])
        return {name: np.repeat(each, len(feeds["inputs"]), 0) for name, each in self.answer.items()}


def recording(
    task: str, pixels: Preprocessing, resized: Any, recorder: Any, *, padding: float = 1.0, classes: Any = CLASSES,
    **reading: Any,
) -> Opened:  # fmt: skip
    """An open artifact whose graph is the recorder."""
    prepared = PictureCard(pixels.size, pixels.channels, pixels.mean, pixels.std, resized, padding)
    card = ArtifactCard(task, tuple(classes), {}, prepared, None, reading)
    return Opened(Path(), card, {"model": recorder}, None)


def linear_artifact(folder: Path, *, side: int = 8) -> Path:
    """An artifact of a linear classifier of grey pictures in three classes, by brightness."""
    weights = np.stack([-np.ones(side * side), np.zeros(side * side), np.ones(side * side)], 1).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["inputs"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", 1, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights / side**2, "weights")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    write_artifact_card(
        folder,
        ArtifactCard(
            task="image-classification",
            classes=CLASSES,
            graphs={
                "model": GraphCard(
                    "model.onnx",
                    (TensorCard("inputs", "float32", ("batch", 1, side, side)),),
                    (TensorCard("logits", "float32", ("batch", 3)),),
                )
            },
            pixels=PictureCard((side, side), 1, (0.5,), (0.25,)),
            tokens=None,
            reading={"problem": "single-label"},
            sha256={"model.onnx": checksum(folder / "model.onnx")},
        ),
    )
    return folder
