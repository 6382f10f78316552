"""Joints in the crop around a box: read off heatmaps or classified coordinates, in pixels of the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.artifact.given import picture_of
from limbeck.artifact.opened import Opened
from limbeck.artifact.running import softmax
from limbeck.errors import LimbeckError
from limbeck.pictures import around, cut_out, normalised, opened_picture, placement, shrunk, upright

Array = NDArray[Any]
SMALLEST, REACH = 1e-10, 2


def predict(artifact: Opened, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    """The joints of the pose in each picture's `box` (left, top, right, bottom), or in the whole picture."""
    card = artifact.pixels
    crops, boxes = [], []
    for number, given in enumerate(inputs):
        source, name = picture_of(given, number)
        with opened_picture(source, name) as image:
            pixels = upright(image, card.channels, name)
        box = _box(given, number, pixels.shape[1], pixels.shape[0])
        place = placement(card.size, *around(np.array([box]), card.size, card.padding))
        factor = int(place.factors[0])
        crops.append(cut_out(shrunk(pixels, factor), place.matrices[0], card.size, factor))
        boxes.append(box)
    feeds = normalised(np.stack(crops), card.mean, card.std)
    outputs = artifact.model({"inputs": feeds})
    reading = artifact.card.reading
    if reading.get("flip_test"):
        other = artifact.model({"inputs": np.ascontiguousarray(feeds[..., ::-1])})
        outputs = with_mirrored(outputs, other, artifact.setting("mirrored"))
    found, sure = decoded(outputs, card.size, reading)
    places = placement(card.size, *around(np.array(boxes), card.size, card.padding)).to_picture(found.astype(float))
    return [
        {
            "box": list(box),
            "joints": {
                name: {"x": float(x), "y": float(y), "score": float(score)}
                for name, (x, y), score in zip(artifact.card.classes, joints, scores, strict=True)
            },
        }
        for box, joints, scores in zip(boxes, places, sure, strict=True)
    ]


def _box(given: Any, number: int, width: int, height: int) -> tuple[float, float, float, float]:
    box = given.get("box") if isinstance(given, Mapping) else None
    if box is None:
        return 0.0, 0.0, float(width), float(height)
    try:
        left, top, right, bottom = (float(each) for each in box)
    except (TypeError, ValueError):
        raise LimbeckError(f"input {number}: box: expected left, top, right and bottom, got {box!r:.60}") from None
    if not (left < right and top < bottom):
        raise LimbeckError(f"input {number}: box: has no area, {box!r:.60}; give left, top, right and bottom")
    return left, top, right, bottom


def with_mirrored(
    outputs: Mapping[str, Array], mirrored: Mapping[str, Array], order: Sequence[int]
) -> dict[str, Array]:
    """The mean of what a model gives for inputs and for the mirrored inputs, turned back."""
    found = {}
    for name, each in outputs.items():
        back = mirrored[name][:, list(order)]
        found[name] = (each + (back if name == "simcc_y" else back[..., ::-1])) / np.float32(2)
    return found


def decoded(outputs: Mapping[str, Array], size: tuple[int, int], reading: Mapping[str, Any]) -> tuple[Array, Array]:
    """(batch, joints, 2) x and y in pixels of the input, and how sure that is, (batch, joints).

    By `decoding`, as in training: `dark`, the maximum of the Taylor series of a smoothed heatmap's logarithm (Zhang et
    al. 2020, arXiv:1910.06278), `quarter` of a cell towards the larger neighbour, or `cell`. Of classified coordinates
    the likeliest bins.
    """
    if "heatmaps" not in outputs:
        parts = []
        for name, length in (("simcc_x", size[1]), ("simcc_y", size[0])):
            shares = softmax(outputs[name])
            parts.append(((shares.argmax(-1) + 0.5) * (length / shares.shape[-1]) - 0.5, shares.max(-1)))
        return np.stack([parts[0][0], parts[1][0]], -1), np.minimum(parts[0][1], parts[1][1])
    maps = outputs["heatmaps"].astype(np.float64)
    rows, columns = maps.shape[2:]
    flat = maps.reshape(*maps.shape[:2], -1)
    place, largest = flat.argmax(-1), flat.max(-1)
    x, y = place % columns, place // columns
    cells = np.stack([x, y], -1).astype(np.float64)
    if reading["decoding"] == "quarter":
        cells += 0.25 * _larger_side(maps, x, y)
    elif reading["decoding"] == "dark":
        cells += _taylor_offset(np.log(np.maximum(_smoothed(maps, reading["sigma"]), SMALLEST)), x, y)
    return (cells + 0.5) * np.array([size[1] / columns, size[0] / rows]) - 0.5, largest


def _smoothed(heatmaps: Array, sigma: float) -> Array:
    maps: Array = heatmaps
    reach = max(1, round(2.5 * sigma))
    kernel = np.exp(np.arange(-reach, reach + 1) ** 2 * (-0.5 / sigma**2))
    kernel /= kernel.sum()
    for axis in (2, 3):
        padding = [(0, 0)] * 4
        padding[axis] = (reach, reach)
        wide, length = np.pad(maps, padding), maps.shape[axis]
        parts = [weight * np.take(wide, range(at, at + length), axis) for at, weight in enumerate(kernel)]
        maps = np.sum(np.stack(parts), 0)
    return maps


def _neighbour(maps: Array, x: Array, y: Array, right: int, down: int) -> Array:
    rows, columns = maps.shape[2:]
    at = np.clip(y + down, 0, rows - 1) * columns + np.clip(x + right, 0, columns - 1)
    found: Array = np.take_along_axis(maps.reshape(*maps.shape[:2], -1), at[..., None], 2)[..., 0]
    return found


def _larger_side(maps: Array, x: Array, y: Array) -> Array:
    rows, columns = maps.shape[2:]
    across = np.sign(_neighbour(maps, x, y, 1, 0) - _neighbour(maps, x, y, -1, 0))
    down = np.sign(_neighbour(maps, x, y, 0, 1) - _neighbour(maps, x, y, 0, -1))
    inside = (x > 0) & (x < columns - 1) & (y > 0) & (y < rows - 1)
    found: Array = np.stack([across, down], -1) * inside[..., None]
    return found


def _taylor_offset(logs: Array, x: Array, y: Array) -> Array:
    def value(right: int, down: int) -> Array:
        return _neighbour(logs, x, y, right, down)

    dx, dy = (value(1, 0) - value(-1, 0)) / 2, (value(0, 1) - value(0, -1)) / 2
    dxx = (value(2, 0) - 2 * value(0, 0) + value(-2, 0)) / 4
    dyy = (value(0, 2) - 2 * value(0, 0) + value(0, -2)) / 4
    dxy = (value(1, 1) - value(-1, 1) - value(1, -1) + value(-1, -1)) / 4
    determinant = dxx * dyy - dxy * dxy
    rows, columns = logs.shape[2:]
    inside = (x >= REACH) & (x < columns - REACH) & (y >= REACH) & (y < rows - REACH)
    peak = inside & (dxx < 0) & (determinant > 0)
    safe = np.where(peak, determinant, 1.0)
    offset = np.stack([(dxy * dy - dyy * dx) / safe, (dxy * dx - dxx * dy) / safe], -1)
    near = peak & (np.abs(offset).max(-1) <= REACH)
    found: Array = np.where(near[..., None], offset, 0.0)
    return found
