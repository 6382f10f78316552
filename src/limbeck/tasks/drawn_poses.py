"""Poses drawn into their pictures: what is true, and what each model found, side by side."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limbeck.metrics.poses import PCK
from limbeck.sources.poses import PoseSet
from limbeck.tasks.posed import Floats, Posed

PICTURES, SIDE = 8, 256
WIDTH, RADIUS = 3, 4


def compared_poses(split: PoseSet, teacher: Posed, others: Mapping[str, Posed]) -> list[dict[str, Any]]:
    """The samples on which the last of `others` is farthest from the teacher, each with a panel for the truth and each
    model."""
    student = list(others.values())[-1]
    apart = np.nan_to_num(student.apart(teacher)).mean(1)
    truth = student.truth
    known, sizes = truth.joints[: len(split), :, 2] > 0, student.sizes(truth)
    near = {
        title: each.distances(truth) <= PCK["pck10"] * sizes[:, None]
        for title, each in {"teacher": teacher, **others}.items()
    }
    shown = []
    for index in np.argsort(-apart, kind="stable")[:PICTURES].tolist():
        pixels, place = split.shown(index, SIDE)
        total = int(known[index].sum())

        everything = np.ones(len(split.skeleton), np.bool_)
        drawings = [("truth", truth.joints[index, :, :2], known[index], f"{total} joints")]
        for title, each in {"teacher": teacher, **others}.items():
            found = int(near[title][index].sum())
            drawings.append((title, each.joints[index], everything, f"{found} of {total} within a tenth"))
        panels = [
            {"title": title, "png": drawn(pixels, place.to_crop(joints[None])[0], seen, split), "text": text}
            for title, joints, seen, text in drawings
        ]
        name = Path(split.picture(index)).name
        caption = f"{name}: student and teacher are {100 * apart[index]:.0f} % of the size apart"
        shown.append({"caption": caption, "panels": panels})
    return shown


def drawn(pixels: NDArray[np.uint8], joints: Floats, seen: NDArray[np.bool_], split: PoseSet) -> str:
    """A picture (height, width, 3) with the bones and joints (joints, 2) that are `seen`, as base64 PNG."""
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    points = [tuple(point) for point in (joints + 0.5).tolist()]
    for a, b in split.skeleton.edges:
        if seen[a] and seen[b]:
            pen.line([points[a], points[b]], fill=_colour(b, len(points)), width=WIDTH)
    for at, (x, y) in enumerate(points):
        if seen[at]:
            pen.ellipse(
                [x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS], fill=_colour(at, len(points)), outline="white"
            )
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _colour(at: int, count: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(at / count, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
