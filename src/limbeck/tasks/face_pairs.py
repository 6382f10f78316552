"""Verification pairs as pictures for the report: those that two models decide otherwise."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from limbeck.sources.faces import FaceSet
from limbeck.tasks.recognised import Recognised

SHOWN = 8
SIDE = 112
"""Pixels of a picture's side in the report."""
GAP = 4
RIGHT, WRONG, NEUTRAL = "#2a7f5f", "#c2571a", "#8a8f98"


def flipped(split: FaceSet, distilled: Recognised, teacher: Recognised, alone: Recognised | None) -> dict[str, Any]:
    """Up to eight pairs that the distilled student decides otherwise than the student alone, or than the teacher where
    there is none alone; first those with scores furthest from each other's side of the threshold."""
    models = {"teacher": teacher, "alone": alone, "distilled": distilled}
    known = {name: each for name, each in models.items() if each is not None}
    other = alone if alone is not None else teacher
    # A score's place beside its own threshold: cosines of two models are not of one scale.
    beside = {name: each.verified.scores - each.verified.thresholds for name, each in known.items()}
    apart = distilled.verified.accepted != other.verified.accepted
    gap = np.abs(beside["distilled"] - (other.verified.scores - other.verified.thresholds))
    gained = distilled.verified.accepted == distilled.verified.same
    found: list[int] = []
    for mask in (apart & gained, apart & ~gained):
        at = np.flatnonzero(mask)
        found += at[np.argsort(-gap[at], kind="stable")][: SHOWN // 2].tolist()
    heading = (
        f"Test pairs that the distilled student decides otherwise than the {'student alone' if alone else 'teacher'}, "
        "with the truth and how each model decides; gained and lost, each with scores that lie far apart beside their "
        "thresholds."
    )
    return {"heading": heading, "compared": [_compared(split, known, pair, bool(gained[pair])) for pair in found]}


def _compared(split: FaceSet, models: dict[str, Recognised], pair: int, gained: bool) -> dict[str, Any]:
    assert split.pairs is not None
    ends = torch.stack([split.pairs.first[pair], split.pairs.second[pair]])
    pictures = [Image.fromarray(_rgb(pixels)) for pixels in split.pixels(ends).permute(0, 2, 3, 1).numpy()]
    same = bool(split.pairs.same[pair])
    panels = [{"title": "truth", "png": _drawn(pictures, NEUTRAL), "text": _said(same)}]
    for name, model in models.items():
        accepted = bool(model.verified.accepted[pair])
        score, threshold = float(model.verified.scores[pair]), float(model.verified.thresholds[pair])
        text = f"{_said(accepted)}: {score:.2f}, from {threshold:.2f} on one person"
        colour = RIGHT if accepted == same else WRONG
        panels.append({"title": name, "png": _drawn(pictures, colour), "text": text})
    names = [split.classes[int(split.labels[at])].replace("_", " ") for at in ends]
    shown = names[0] if same else f"{names[0]} and {names[1]}"
    return {"caption": f"{'Gained' if gained else 'Lost'}: {shown}", "panels": panels}


def _said(same: bool) -> str:
    return "one person" if same else "two persons"


def _rgb(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _drawn(pictures: list[Image.Image], colour: str) -> str:
    """Pictures side by side in a frame, as base64 PNG."""
    width = len(pictures) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, SIDE + 2 * GAP), colour)
    for at, picture in enumerate(pictures):
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), (GAP + at * (SIDE + GAP), GAP))
    ImageDraw.Draw(sheet).rectangle((0, 0, width - 1, SIDE + 2 * GAP - 1), outline=colour, width=GAP)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
