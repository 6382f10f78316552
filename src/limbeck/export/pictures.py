"""Plans of models that see pictures: classes, embeddings, joints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from limbeck.artifact import PictureCard
from limbeck.artifact.card import Resized
from limbeck.artifact.faces import cosine
from limbeck.artifact.joints import decoded
from limbeck.errors import LimbeckError
from limbeck.export.plans import Arrays, Plan, given_signals, of_signals, same_rows
from limbeck.models.embeddings import EMBEDDING
from limbeck.models.poses import HEATMAPS, SIMCC
from limbeck.sources.poses import PoseSet
from limbeck.types import Batch, Preprocessing

BATCH_ONLY = {"inputs": {0: "batch"}}
NEAR = 0.5
"""Pixels of the input within which two joints are the same."""


def picture_card(pixels: Preprocessing, resized: Resized, padding: float = 1.0) -> PictureCard:
    """How pictures are prepared."""
    return PictureCard(pixels.size, pixels.channels, pixels.mean, pixels.std, resized, padding)


def taking(split: Any) -> Any:
    """From places of a split to the inputs of its samples."""

    def take(places: Sequence[int]) -> Batch:
        return {"inputs": split.__getitems__(list(places))["inputs"]}

    return take


def square(pixels: Preprocessing) -> None:
    """Raises LimbeckError where pictures are no squares, of which the middle could be cut out."""
    if pixels.size[0] != pixels.size[1]:
        raise LimbeckError(f"pictures of {pixels.size[0]}×{pixels.size[1]}: export takes square ones for this task")


def classified(model: nn.Module, split: Any, classes: tuple[str, ...], pixels: Preprocessing) -> Plan:
    """Image classification."""

    def judge(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        return same_rows(expected["logits"].argmax(-1), found["logits"].argmax(-1))

    square(pixels)
    return Plan(
        parts=(of_signals(model, BATCH_ONLY, ["logits"]),),
        take=taking(split),
        count=len(split),
        data=split.name,
        judge=judge,
        predictions="classes",
        classes=classes,
        pixels=picture_card(pixels, "middle"),
        reading={"problem": "single-label"},
    )


def recognised(model: nn.Module, split: Any, pixels: Preprocessing) -> Plan:
    """Face recognition."""

    def judge(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        pairs = zip(expected[EMBEDDING], found[EMBEDDING], strict=True)
        alike = [cosine(one, other) > 1 - 1e-6 for one, other in pairs]
        return sum(alike), len(alike)

    square(pixels)
    return Plan(
        parts=(of_signals(model, BATCH_ONLY, [EMBEDDING]),),
        take=taking(split),
        count=len(split),
        data=split.name,
        judge=judge,
        predictions="directions of embeddings",
        pixels=picture_card(pixels, "middle"),
    )


def posed(model: nn.Module, split: PoseSet, settings: Any, pixels: Preprocessing) -> Plan:
    """Pose estimation."""
    reading = {
        "decoding": settings.decoding,
        "sigma": settings.sigma,
        "flip_test": settings.flip_test,
        "mirrored": list(split.skeleton.mirrored),
        "edges": [list(each) for each in split.skeleton.edges],
    }

    def judge(expected: Arrays, found: Arrays, feeds: Arrays) -> tuple[int, int]:
        one, other = (decoded(each, pixels.size, reading)[0] for each in (expected, found))
        near = np.abs(one - other).max(-1) <= NEAR
        return int(near.sum()), near.size

    take = taking(split)
    given = given_signals(model, {"inputs": torch.zeros(1, pixels.channels, *pixels.size)})
    outputs = [HEATMAPS] if HEATMAPS in given else list(SIMCC)
    return Plan(
        parts=(of_signals(model, BATCH_ONLY, outputs),),
        take=take,
        count=len(split),
        data=split.name,
        judge=judge,
        predictions=f"joints, the same within {NEAR:g} pixels",
        classes=split.classes,
        pixels=picture_card(pixels, "box", split.padding),
        reading=reading,
    )
