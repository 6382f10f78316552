"""Pictures with boxes drawn into them: what is true, and what each model found, side by side."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor

from limbeck.metrics.detection import SURE, Objects, matches
from limbeck.models.detection import Detections
from limbeck.sources.boxes import DetectionSet, Regions

PICTURES, WIDEST = 8, 320

COLOURS = ("#e6550d", "#3182bd", "#31a354", "#a63ad6", "#d6a400", "#00a6a6", "#d6306e", "#6b6b6b")
"""Of classes, in turn."""
CROWD = "#999999"
SHADES = 64
"""Colours of a picture in a report."""


def compared_pictures(
    split: DetectionSet, teacher: Sequence[Detections], others: Mapping[str, Sequence[Detections]]
) -> list[dict[str, Any]]:
    """The pictures on which the last of `others` differs most from the teacher, each with a panel for the truth and
    each model; boxes are in pixels of the pictures on disk."""
    student = list(others.values())[-1]
    apart = [differences(mine, theirs) for mine, theirs in zip(student, teacher, strict=True)]
    chosen = sorted(range(len(apart)), key=lambda index: -apart[index])[:PICTURES]
    shown = []
    for index in chosen:
        picture, scale = _picture(split, index)
        truth = split.truth(index)
        panels = [_panel("truth", picture, truth.boxes * scale, truth.classes, truth.crowds, split.classes)]
        for title, found in {"teacher": teacher, **others}.items():
            own = sure(found[index])
            none = torch.zeros(len(own.boxes), dtype=torch.bool)
            panels.append(_panel(title, picture, own.boxes * scale, own.classes, none, split.classes))
        caption = f"Picture {index + 1}: {apart[index]} boxes of student and teacher have no counterpart"
        shown.append({"caption": caption, "panels": panels})
    return shown


def sure(found: Detections) -> Detections:
    """What a model is sure of."""
    kept = found.scores >= SURE
    return Detections(found.boxes[kept], found.scores[kept], found.classes[kept])


def differences(student: Detections, teacher: Detections) -> int:
    """How many boxes, of those that either is sure of, have no counterpart in the other's."""
    mine, theirs = sure(student), sure(teacher)
    pairs = int((matches(mine, _as_truth(theirs)).truth >= 0).sum())
    return len(mine.scores) + len(theirs.scores) - 2 * pairs


def _as_truth(found: Objects) -> Regions:
    count = len(found.scores)
    areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
    none = torch.zeros(count, dtype=torch.bool)
    return Regions(torch.tensor([0, count]), found.boxes, found.classes, none, areas, found.scores)


def _picture(split: DetectionSet, index: int) -> tuple[Image.Image, float]:
    """A picture as the models saw it, without what fills the canvas up, and its pixels for one on disk."""
    pixels = split.pixels(torch.tensor([index]))[0]
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    height, width = split.size(index)
    most = min(WIDEST / width, WIDEST / height)
    corner = torch.tensor([[0.0, 0.0, float(width), float(height)]])
    # From the input back to the whole picture, whatever its shape was made to be.
    across, down = (split.placed_box(index, corner)[0, 2:]).tolist()
    image = image.crop((0, 0, max(1, round(across)), max(1, round(down))))
    size = (max(1, round(width * most)), max(1, round(height * most)))
    return _few_colours(image.resize(size, Image.Resampling.BILINEAR)), most


def _few_colours(image: Image.Image) -> Image.Image:
    """A picture in SHADES of its own, which takes a fifth of the room in a report, and those of boxes behind them."""
    few = image.quantize(SHADES, dither=Image.Dither.NONE)
    palette = few.getpalette() or []
    drawn = [component for colour in (CROWD, *COLOURS) for component in ImageColor.getrgb(colour)]
    few.putpalette(palette[: 3 * SHADES] + [0] * (3 * SHADES - len(palette)) + drawn)
    return few


def _panel(
    title: str, picture: Image.Image, boxes: Tensor, classes: Tensor, crowds: Tensor, names: Sequence[str]
) -> dict[str, Any]:
    image = picture.copy()
    draw = ImageDraw.Draw(image)
    for box, kind, crowd in zip(boxes.tolist(), classes.tolist(), crowds.tolist(), strict=True):
        draw.rectangle(box, outline=SHADES if crowd else SHADES + 1 + kind % len(COLOURS), width=2)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    counts = Counter(names[kind] for kind, crowd in zip(classes.tolist(), crowds.tolist(), strict=True) if not crowd)
    text = ", ".join(f"{count} {name}" for name, count in counts.most_common(3)) or "nothing"
    return {"title": title, "png": base64.b64encode(buffer.getvalue()).decode("ascii"), "text": text}
