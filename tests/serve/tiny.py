"""Artifacts of a few operators for every task, and pictures for them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from limbeck.artifact import ArtifactCard, GraphCard, PictureCard, TensorCard, TokenCard, write_artifact_card
from limbeck.artifact.card import checksum

CLASSES = ("cat", "dog", "owl")
WORDS = ("[PAD]", "[UNK]", "a", "fine", "film", "what", "bore", "is", "it", "the", "end", "good")
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}

Shapes = Mapping[str, tuple[str, Sequence[int | str]]]


def png(seed: int = 0, size: tuple[int, int] = (8, 8), *, format: str = "png", channels: int = 3) -> bytes:
    """A picture of noise."""
    shape = (*size, channels) if channels > 1 else size
    return encoded(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8), format)


def encoded(pixels: NDArray[np.uint8], format: str = "png") -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, format)
        return file.getvalue()


def graph(
    path: Path, nodes: Sequence[tuple[Any, ...]], inputs: Shapes, outputs: Shapes, **constants: NDArray[Any]
) -> GraphCard:
    """Writes a graph of (operator, inputs, outputs, attributes), and says what it is."""
    made = [helper.make_node(name, taken, given, **(rest[0] if rest else {})) for name, taken, given, *rest in nodes]

    def values(shapes: Shapes) -> list[Any]:
        return [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, (kind, shape) in shapes.items()]

    weights = [numpy_helper.from_array(each, name) for name, each in constants.items()]
    whole = helper.make_graph(made, "tiny", values(inputs), values(outputs), weights)
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)

    def cards(shapes: Shapes) -> tuple[TensorCard, ...]:
        return tuple(TensorCard(name, kind, tuple(shape)) for name, (kind, shape) in shapes.items())

    return GraphCard(path.name, cards(inputs), cards(outputs))


def tiny(folder: Path, task: str, seed: int = 0, **settings: Any) -> Path:
    """An artifact of the task; another seed answers otherwise. `settings` are of the reading of answers."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    pictures = task in ("image-classification", "object-detection", "pose-estimation", "face-recognition")
    graphs, reading, more = (_of_pictures if pictures else _of_texts)(folder, task, draw)
    if not pictures:
        tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.save(str(folder / "tokenizer.json"))
    sums = {each.name: checksum(each) for each in folder.iterdir()}
    card = ArtifactCard(task, CLASSES, graphs, more.get("pixels"), more.get("tokens"), reading | settings, sha256=sums)
    write_artifact_card(folder, card)
    return folder


def _of_pictures(folder: Path, task: str, draw: np.random.Generator) -> Any:
    side, path = 8, folder / "model.onnx"
    inputs: Shapes = {"inputs": ("float32", ["batch", 3, side, side])}
    weights = draw.normal(size=(3 * side * side, 3)).astype(np.float32) / side
    resized = {"object-detection": "letterbox", "pose-estimation": "box"}.get(task, "middle")
    more = {"pixels": PictureCard((side, side), 3, (0.5,) * 3, (0.25,) * 3, resized)}  # type: ignore[arg-type]
    flat = [("Flatten", ["inputs"], ["flat"])]
    if task == "image-classification":
        nodes = [*flat, ("MatMul", ["flat", "weights"], ["logits"])]
        made = graph(path, nodes, inputs, {"logits": ("float32", ["batch", 3])}, weights=weights)
        return {"model": made}, {"problem": "single-label"}, more
    if task == "face-recognition":
        nodes = [*flat, ("MatMul", ["flat", "weights"], ["embedding"])]
        made = graph(path, nodes, inputs, {"embedding": ("float32", ["batch", 3])}, weights=weights)
        return {"model": made}, {}, more
    if task == "pose-estimation":
        nodes = [("AveragePool", ["inputs"], ["heatmaps"], {"kernel_shape": [2, 2], "strides": [2, 2]})]
        made = graph(path, nodes, inputs, {"heatmaps": ("float32", ["batch", 3, 4, 4])})
        return {"model": made}, {"decoding": "cell"}, more
    nodes = [
        *flat,
        ("MatMul", ["flat", "weights"], ["shares"]),
        ("Unsqueeze", ["shares", "one"], ["logits"]),
        ("Sigmoid", ["shares"], ["part"]),
        ("ReduceMean", ["part", "one"], ["mean"]),
        ("Unsqueeze", ["mean", "one"], ["middle"]),
        ("MatMul", ["middle", "corners"], ["boxes"]),
    ]
    made = graph(
        path, nodes, inputs, {"logits": ("float32", ["batch", 1, 3]), "boxes": ("float32", ["batch", 1, 4])},
        weights=weights, one=np.array([1], np.int64), corners=np.array([[1, 2, 7, 8]], np.float32),
    )  # fmt: skip
    return {"model": made}, {"chosen": "queries", "detections": 1}, more


def _of_texts(folder: Path, task: str, draw: np.random.Generator) -> Any:
    count, ids = len(WORDS), ("int64", ["batch", "length"])
    names = ("input_ids", "attention_mask") if task == "translation" else ("input_ids",)
    tokens = TokenCard(names, 16, 0, filler_id=1, begin_id=9 if task != "text-classification" else None, end_ids=(10,))
    more = {"tokens": tokens}
    inputs: Shapes = {"input_ids": ids}
    table = draw.normal(size=(count, count)).astype(np.float32)
    table[0] = 0.0  # what fills a row changes no sum
    path = folder / "model.onnx"
    if task == "text-classification":
        nodes = [
            ("Gather", ["table", "input_ids"], ["rows"]),
            ("ReduceSum", ["rows", "one"], ["logits"], {"keepdims": 0}),
        ]
        outputs: Shapes = {"logits": ("float32", ["batch", 3])}
        made = graph(path, nodes, inputs, outputs, table=table[:, :3].copy(), one=np.array([1], np.int64))
        return {"model": made}, {"problem": "single-label"}, more
    gathered = [("Gather", ["table", "input_ids"], ["logits"])]
    if task == "question-answering":
        made = graph(path, gathered, inputs, {"logits": ("float32", ["batch", "length", 2])}, table=table[:, :2].copy())
        return {"model": made}, {"stride": 4, "max_answer_tokens": 5, "null_threshold": None}, more
    if task == "language-modelling":
        made = graph(path, gathered, inputs, {"logits": ("float32", ["batch", "length", count])}, table=table)
        return {"model": made}, {"max_new_tokens": 4, "positions": 16, "never": [0, 1]}, more
    inputs = {"input_ids": ids, "attention_mask": ids}
    hidden: Shapes = {"hidden": ("float32", ["batch", "length", count])}
    encoder = graph(
        folder / "encoder.onnx", [("Gather", ["table", "input_ids"], ["hidden"])], inputs, hidden, table=table
    )
    nodes = [
        ("ReduceSum", ["hidden", "one"], ["sum"], {"keepdims": 1}),
        ("Gather", ["table", "decoder_input_ids"], ["own"]),
        ("Add", ["own", "sum"], ["logits"]),
    ]
    decoder = graph(
        folder / "decoder.onnx", nodes,
        {**hidden, "attention_mask": ids, "decoder_input_ids": ("int64", ["batch", "written"])},
        {"logits": ("float32", ["batch", "written", count])}, table=table, one=np.array([1], np.int64),
    )  # fmt: skip
    reading = {"max_new_tokens": 4, "first_id": None, "last_id": None, "never": [0, 1]}
    return {"encoder": encoder, "decoder": decoder}, reading, more
