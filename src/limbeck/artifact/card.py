"""The card of an artifact, `artifact.json`: what its files are, how inputs are prepared, and how answers are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from limbeck.errors import LimbeckError
from limbeck.files import read_json, write_json

ARTIFACT, FORMAT = "artifact.json", "limbeck-artifact/1"
TOKENIZER = "tokenizer.json"

Resized = Literal["middle", "letterbox", "stretch", "box"]


@dataclass(frozen=True, slots=True)
class TensorCard:
    """A tensor that goes in or comes out: its `shape` has a name where a dimension may be of any size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class GraphCard:
    """A file that ONNX Runtime runs."""

    file: str
    inputs: tuple[TensorCard, ...]
    outputs: tuple[TensorCard, ...]


@dataclass(frozen=True, slots=True)
class PictureCard:
    """How a picture becomes pixels: `x = (pixels / 255 - mean) / std` in `size` (height, width).

    `resized` says how it is brought to that size: `middle`, the shorter side, and the middle is cut out; `letterbox`,
    whole, the rest filled with the mean colour; `stretch`; or `box`, the crop around a box, `padding` times as large.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resized: Resized = "middle"
    padding: float = 1.0


@dataclass(frozen=True, slots=True)
class TokenCard:
    """How a text becomes tokens, beside what `tokenizer.json` says.

    `names` are what the model reads of them; rows have at most `max_length`, special ones included, and are filled with
    `pad_id` and `pad_type_id` on the `side`; `filler_id` stands for a text that gives no token. `begin_id` and
    `end_ids` are the tokens that begin and end what a model writes, and `clean_up` whether spaces before punctuation
    are taken out of that.
    """

    names: tuple[str, ...]
    max_length: int
    pad_id: int
    pad_type_id: int = 0
    filler_id: int = 0
    side: Literal["left", "right"] = "right"
    begin_id: int | None = None
    end_ids: tuple[int, ...] = ()
    clean_up: bool = False


@dataclass(frozen=True, slots=True)
class Parity:
    """How near an artifact is to the PyTorch model that it was made of, on real inputs.

    Attributes:
        data: the inputs' name.
        samples: how many.
        batches: the batch sizes in which they were run.
        absolute: the largest difference of a value.
        relative: the largest difference of a value by the root mean square of its output.
        agreement: the share of equal predictions.
        predictions: how many predictions were compared, and of what kind.
    """

    data: str
    samples: int
    batches: tuple[int, ...]
    absolute: float
    relative: float
    agreement: float
    predictions: str


@dataclass(frozen=True, slots=True)
class ArtifactCard:
    """What `artifact.json` says.

    Attributes:
        task: as a recipe names it.
        classes: the names of classes, or joints; empty where a task has none.
        graphs: the files that are run: `model`, or `encoder` and `decoder`.
        pixels, tokens: how pictures and texts are prepared.
        reading: the settings with which answers are read off; which there are depends on the task.
        batch: samples of a run, where the files take no other number.
        precision: `fp32` or `int8`.
        sha256: of every file that is run or read.
        about: where the model comes from.
        others: files of the same graphs for other runtimes, checked like the first.
    """

    task: str
    classes: tuple[str, ...]
    graphs: Mapping[str, GraphCard]
    pixels: PictureCard | None
    tokens: TokenCard | None
    reading: Mapping[str, Any]
    batch: int | None = None
    precision: str = "fp32"
    runtime: str = "onnxruntime"
    parity: Parity | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()


def is_artifact(folder: Path) -> bool:
    """Whether `folder` holds an artifact."""
    return (folder / ARTIFACT).is_file()


def write_artifact_card(folder: Path, card: ArtifactCard) -> None:
    """Writes `artifact.json`, whole or not at all."""
    write_json(folder / ARTIFACT, {"format": FORMAT, **asdict(card)})


def read_artifact_card(folder: Path) -> ArtifactCard:
    """What the folder's `artifact.json` says.

    Raises:
        LimbeckError: there is none, or it is not one that this version reads.
    """
    path = folder / ARTIFACT
    if not folder.is_dir():
        raise LimbeckError(f"{folder}: no such folder; give one that `limbeck export` wrote")
    if not path.is_file():
        saved = "; it holds a saved model, which `limbeck export` makes an artifact of"
        hint = saved if (folder / "limbeck.json").is_file() else "; give a folder that `limbeck export` wrote"
        raise LimbeckError(f"{folder}: no {ARTIFACT} in it{hint}")
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise LimbeckError(f"{path}: expected format {FORMAT!r}, got {got!r}; export the model with this version")
    try:
        said = {name: value for name, value in _tupled(data).items() if name != "format"}
        said["graphs"] = _graphs(data["graphs"])
        for name, kind in (("pixels", PictureCard), ("tokens", TokenCard), ("parity", Parity)):
            said[name] = None if data[name] is None else kind(**_tupled(data[name]))
        card = ArtifactCard(**said)
        if card.pixels is not None:
            _check_pixels(card.pixels)
        return card
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LimbeckError(f"{path}: not a whole artifact card ({error}); export the model again") from None


def checksum(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_files(folder: Path, card: ArtifactCard) -> None:
    """Raises LimbeckError where a file of the artifact is missing, or is not the one that was exported."""
    for name, expected in card.sha256.items():
        path = folder / name
        if path.parent != folder:
            raise LimbeckError(f"{folder / ARTIFACT}: names a file outside of the artifact, {name!r}; do not use it")
        if not path.is_file():
            raise LimbeckError(f"{path}: missing; copy the whole folder, or export the model again")
        if checksum(path) != expected:
            raise LimbeckError(f"{path}: is not the file that was exported; copy it again, or export the model again")


def _graphs(data: Mapping[str, Any]) -> dict[str, GraphCard]:
    if not data:
        raise ValueError("no graphs")
    return {name: _graph(each) for name, each in data.items()}


def _graph(data: Mapping[str, Any]) -> GraphCard:
    def tensors(key: str) -> tuple[TensorCard, ...]:
        return tuple(TensorCard(each["name"], each["dtype"], tuple(each["shape"])) for each in data[key])

    return GraphCard(str(data["file"]), tensors("inputs"), tensors("outputs"))


def _check_pixels(pixels: PictureCard) -> None:
    if pixels.resized not in get_args(Resized) or not len(pixels.mean) == len(pixels.std) == pixels.channels:
        raise ValueError("pixels")


def _tupled(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
