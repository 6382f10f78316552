"""What an artifact reads off outputs is what PyTorch, torchvision and transformers read off them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.artifact.answers import span
from limbeck.artifact.boxes import chosen
from limbeck.artifact.joints import decoded, with_mirrored
from limbeck.artifact.running import sigmoid, softmax
from limbeck.artifact.texts import Texts
from limbeck.export.texts import token_card
from limbeck.metrics.decoding import DECODINGS, decode_keypoints
from limbeck.metrics.decoding import with_mirrored as torch_mirrored
from limbeck.metrics.question_answering import decode_spans
from limbeck.models.detection.selecting import Selection
from limbeck.models.detection.sets import SetDetector
from limbeck.sources.texts import Tokenizing
from limbeck.sources.texts.tokenizing import train_tokenizer

SIZE = (64, 96)
TEXTS = ["The still drips slowly.", "", "Copper, keeps; the heat! " * 9, "çöpper spirit", "x"]
PAIRS = ["It does not?", "water stays behind " * 12, "", "spirit rises first", "y z"]


def boxes(draw: torch.Generator, count: int) -> Tensor:
    corners = torch.rand(2, count, 2, generator=draw) * torch.tensor([96.0, 64.0])
    middle, side = corners[0], corners[1] / 3
    return torch.cat([middle - side, middle + side], 1)


@pytest.mark.parametrize("way", ["level", "class"])
@pytest.mark.parametrize("few", [False, True])
def test_overlapping_boxes_are_left_out_as_torchvision_does(way: str, few: bool) -> None:
    """Suppression across classes, levels that are mixed, boxes that are not cut at the picture's edge."""
    draw = torch.Generator().manual_seed(0)
    levels, classes = [200, 60, 20], 3
    logits = torch.randn(2, sum(levels), classes, generator=draw) * 2
    places = torch.stack([boxes(draw, sum(levels)) for _ in range(2)])
    selection = Selection(0.3, 0.5, 9 if few else 100, 11 if few else 1000)
    scores = logits.sigmoid()
    expected = (
        selection.by_level(scores, places, levels, SIZE) if way == "level" else selection.by_class(scores, places, SIZE)
    )
    reading = {"chosen": way, "levels": levels, "score": 0.3, "overlap": 0.5, "detections": selection.detections,
               "candidates": selection.candidates}  # fmt: skip
    for mine, theirs in zip(
        chosen({"logits": logits.numpy(), "boxes": places.numpy()}, reading, SIZE), expected, strict=True
    ):
        assert len(theirs) > 5
        assert mine.classes.tolist() == theirs.classes.tolist()
        assert mine.scores == pytest.approx(theirs.scores.numpy(), abs=1e-6)
        assert mine.boxes == pytest.approx(theirs.boxes.numpy(), abs=1e-4)


@pytest.mark.parametrize("softmaxed", [False, True])
def test_queries_are_chosen_as_the_detector_does(softmaxed: bool) -> None:
    """A query that is given once where it may have several classes, or the reverse."""
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 30, 4, generator=draw)
    places = torch.stack([boxes(draw, 30) for _ in range(2)])
    way: Any = SimpleNamespace(knows_softmax=lambda _classes: softmaxed)
    expected = SetDetector.detections(way, {"logits": logits, "boxes": places})
    reading = {"chosen": "queries" if softmaxed else "pairs", "detections": 100}
    for mine, theirs in zip(
        chosen({"logits": logits.numpy(), "boxes": places.numpy()}, reading, SIZE), expected, strict=True
    ):
        assert mine.classes.tolist() == theirs.classes.tolist()
        assert mine.boxes == pytest.approx(theirs.boxes.numpy(), abs=1e-5)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_joints_are_read_off_heatmaps_as_in_training(decoding: str) -> None:
    """A maximum at the map's edge, a smoothing of another width, x and y exchanged."""
    draw = torch.Generator().manual_seed(2)
    places = torch.rand(3, 5, 2, generator=draw) * torch.tensor([17.0, 11.0])
    grid = torch.stack(torch.meshgrid(torch.arange(18.0), torch.arange(12.0), indexing="xy"), -1)
    maps = torch.exp(-((grid - places[:, :, None, None]) ** 2).sum(-1) / (2 * 1.5**2))
    maps = maps + 0.02 * torch.rand(maps.shape, generator=draw)
    signal = {"heatmaps": maps}
    mirrored = {"heatmaps": maps.flip(0)}
    order = [0, 2, 1, 3, 4]
    reading = {"decoding": decoding, "sigma": 1.5}
    plain, other = ({name: each.numpy() for name, each in given.items()} for given in (signal, mirrored))
    for outputs, theirs in (
        (plain, signal),
        (with_mirrored(plain, other, order), torch_mirrored(signal, mirrored, order)),
    ):
        mine = decoded(outputs, (48, 72), reading)
        expected = decode_keypoints(theirs, (48, 72), decoding=decoding, sigma=1.5)  # type: ignore[arg-type]
        assert mine[0] == pytest.approx(expected[0].numpy(), abs=2e-3)
        assert mine[1] == pytest.approx(expected[1].numpy(), abs=1e-6)


def test_joints_are_read_off_classified_coordinates() -> None:
    """Bins of x that are read as bins of y."""
    draw = torch.Generator().manual_seed(3)
    signal = {"simcc_x": torch.randn(2, 4, 36, generator=draw), "simcc_y": torch.randn(2, 4, 24, generator=draw)}
    mine = decoded({name: each.numpy() for name, each in signal.items()}, (48, 72), {})
    expected = decode_keypoints(signal, (48, 72))
    assert mine[0] == pytest.approx(expected[0].numpy(), abs=1e-5)
    assert mine[1] == pytest.approx(expected[1].numpy(), abs=1e-6)


@dataclass(frozen=True)
class Asked:
    id: str
    context: str


@dataclass(frozen=True)
class OneWindow:
    """Windows of one question each, every token a character of its context."""

    questions: list[Asked]
    owners: Tensor
    places: Tensor

    def offsets(self, indices: Any) -> Tensor:
        return self.places[indices]


def test_spans_are_found_as_in_training() -> None:
    """An end before its start, an answer of too many tokens, a span in the question."""
    draw = torch.Generator().manual_seed(4)
    starts, ends = torch.randn(40, 30, generator=draw) * 3, torch.randn(40, 30, generator=draw) * 3
    places = torch.stack([torch.arange(30), torch.arange(30) + 1], -1).repeat(40, 1, 1)
    places[:, :7] = -1
    context = "abcdefghijklmnopqrstuvwxyzABCD"
    windows = OneWindow([Asked(str(row), context) for row in range(40)], torch.arange(40), places)
    expected = decode_spans(starts, ends, windows, max_answer_tokens=5, null_threshold=float("inf"))
    for row in range(40):
        _, first, last = span(starts[row].numpy(), ends[row].numpy(), places[row].numpy(), 5)
        assert context[first : last + 1] == expected[str(row)]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "bytes", "characters"])
def test_texts_become_the_same_tokens(tmp_path: Path, kind: Any) -> None:
    """Special tokens twice, pairs that are cut on one side alone, an empty text without a token."""
    tokenizing = Tokenizing(train_tokenizer(TEXTS + PAIRS, kind=kind, vocabulary=300), 24)
    tokenizing.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    names = tokenizing.tokenizer.model_input_names
    texts = Texts(tmp_path / "tokenizer.json", token_card(tokenizing, names))
    both = [(text, pair) for text, pair in zip(TEXTS, PAIRS, strict=True)]
    for given, rows in ((TEXTS, tokenizing.encode(TEXTS)), (both, tokenizing.encode(TEXTS, PAIRS))):
        expected = tokenizing.pad(rows)
        found = texts.padded(texts.rows(given))  # type: ignore[arg-type]
        assert found.keys() == expected.keys()
        for name, each in expected.items():
            assert np.array_equal(found[name], each.numpy()), name
    tokens = tokenizing.encode(TEXTS)["input_ids"][2]
    assert texts.written(tokens) == tokenizing.tokenizer.decode(tokens, skip_special_tokens=True)


def test_shares_are_torchs() -> None:
    """Overflow of large logits."""
    logits = torch.tensor([[1000.0, 999.0, -1000.0], [0.0, 1.0, 2.0]], dtype=torch.float64)
    assert softmax(logits.numpy()) == pytest.approx(logits.softmax(-1).numpy(), abs=1e-12)
    assert sigmoid(logits.numpy()) == pytest.approx(logits.sigmoid().numpy(), abs=1e-12)
