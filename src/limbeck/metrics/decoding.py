"""From heatmaps and classified coordinates to keypoints, finer than a cell; and what a mirrored picture adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError

Decoding = Literal["dark", "quarter", "cell"]
"""How a joint is found between the cells of a heatmap: by the Taylor series of its logarithm, a quarter of a cell
towards the larger neighbour, or not at all."""

DECODINGS: tuple[Decoding, ...] = ("dark", "quarter", "cell")
SMALLEST = 1e-10
REACH = 2
"""Cells from a maximum to the farthest neighbour that its curvature is taken from."""


def decode_heatmaps(
    heatmaps: Tensor, input_size: tuple[int, int], *, decoding: Decoding = "dark", sigma: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Where each joint is, and how sure that is.

    `dark` smooths the map with a Gaussian of the σ that it was trained with, and goes from its largest cell to the
    maximum of the second-order Taylor series of the logarithm. It stays at the cell where the series has no maximum
    within two cells, and at the map's edge.

    Args:
        heatmaps: (batch, joints, rows, columns), whose cells cover the input evenly.
        input_size: rows and columns of the input.
        sigma: in cells.

    Returns:
        (batch, joints, 2) x and y in pixels of the input, and (batch, joints) the map's largest value; float32.

    Raises:
        LimbeckError: no such decoding, or a shape that does not fit.

    Zhang et al. 2020, "Distribution-Aware Coordinate Representation for Human Pose Estimation", arXiv:1910.06278; the
    quarter of a cell is that of Newell, Yang and Deng 2016, arXiv:1603.06937.
    """
    if decoding not in DECODINGS:
        raise LimbeckError(f"decoding: expected one of {', '.join(DECODINGS)}, got {decoding!r}")
    if heatmaps.dim() != 4:
        raise LimbeckError(f"heatmaps: expected (batch, joints, rows, columns), got {tuple(heatmaps.shape)}")
    maps = heatmaps.detach().float()
    rows, columns = maps.shape[2:]
    largest, place = maps.flatten(2).max(-1)
    x, y = place % columns, place // columns
    cells = torch.stack([x, y], -1).float()
    if decoding == "quarter":
        cells += 0.25 * _larger_side(maps, x, y)
    elif decoding == "dark":
        cells += _taylor_offset(_smoothed(maps, sigma).clamp(min=SMALLEST).log(), x, y)
    height, width = input_size
    scale = cells.new_tensor([width / columns, height / rows])
    return (cells + 0.5) * scale - 0.5, largest


def decode_simcc(logits_x: Tensor, logits_y: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where each joint is by its likeliest bins, and how sure that is.

    Args:
        logits_x, logits_y: (batch, joints, bins), whose bins cover the input evenly.
        input_size: rows and columns of the input.

    Returns:
        (batch, joints, 2) x and y in pixels of the input, and (batch, joints) the smaller of the two bins'
        probabilities; float32.

    Li et al. 2022, "SimCC", arXiv:2107.03332.
    """
    found, sure = [], []
    for logits, length in zip((logits_x, logits_y), reversed(input_size), strict=True):
        probability, place = logits.detach().float().softmax(-1).max(-1)
        found.append((place + 0.5) * (length / logits.shape[-1]) - 0.5)
        sure.append(probability)
    return torch.stack(found, -1), torch.minimum(*sure)


def decode_keypoints(
    signal: Mapping[str, Tensor], input_size: tuple[int, int], *, decoding: Decoding = "dark", sigma: float = 2.0
) -> tuple[Tensor, Tensor]:
    """As `decode_heatmaps` or `decode_simcc`, by what a model gives: `heatmaps`, or `simcc_x` and `simcc_y`.

    Raises:
        LimbeckError: it gives neither.
    """
    if "heatmaps" in signal:
        return decode_heatmaps(signal["heatmaps"], input_size, decoding=decoding, sigma=sigma)
    if {"simcc_x", "simcc_y"} <= set(signal):
        return decode_simcc(signal["simcc_x"], signal["simcc_y"], input_size)
    raise LimbeckError(
        f"keypoints: the model gives {', '.join(signal) or 'nothing'}; expected heatmaps, or simcc_x and simcc_y"
    )


def with_mirrored(
    signal: Mapping[str, Tensor], mirrored: Mapping[str, Tensor], order: Sequence[int]
) -> dict[str, Tensor]:
    """The mean of what a model gives for inputs and for the mirrored inputs, turned back (the flip test).

    `order` is for each joint the place of the one that a mirrored picture shows in its stead.
    """
    places = list(order)
    found = {}
    for name in ("heatmaps", "simcc_x", "simcc_y"):
        if name in signal:
            back = mirrored[name][:, places]
            back = back if name == "simcc_y" else back.flip(-1)
            found[name] = (signal[name] + back) / 2
    return found


def _smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Convolved with a Gaussian, 0 beyond the edges, as of OpenCV's kernel of that σ."""
    reach = max(1, round(2.5 * sigma))
    places = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = (places.square() * (-0.5 / sigma**2)).softmax(0)
    flat = maps.flatten(0, 1).unsqueeze(1)
    flat = F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, reach)).view_as(maps)


def _neighbour(maps: Tensor, x: Tensor, y: Tensor, right: int, down: int) -> Tensor:
    """The value (batch, joints) so many cells from a place; of the nearest cell beyond the edge."""
    rows, columns = maps.shape[2:]
    at = (y + down).clamp(0, rows - 1) * columns + (x + right).clamp(0, columns - 1)
    return maps.flatten(2).gather(2, at.unsqueeze(-1)).squeeze(-1)


def _larger_side(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The direction of the larger neighbour, (batch, joints, 2) of −1, 0 or 1; 0 at the map's edge."""
    rows, columns = maps.shape[2:]
    across = (_neighbour(maps, x, y, 1, 0) - _neighbour(maps, x, y, -1, 0)).sign()
    down = (_neighbour(maps, x, y, 0, 1) - _neighbour(maps, x, y, 0, -1)).sign()
    inside = (x > 0) & (x < columns - 1) & (y > 0) & (y < rows - 1)
    return torch.stack([across, down], -1) * inside.unsqueeze(-1)


def _taylor_offset(logs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """−H⁻¹ · g of the logarithms at a place, (batch, joints, 2); 0 where that is no maximum nearby."""

    def value(right: int, down: int) -> Tensor:
        return _neighbour(logs, x, y, right, down)

    middle = value(0, 0)
    dx, dy = (value(1, 0) - value(-1, 0)) / 2, (value(0, 1) - value(0, -1)) / 2
    dxx = (value(2, 0) - 2 * middle + value(-2, 0)) / 4
    dyy = (value(0, 2) - 2 * middle + value(0, -2)) / 4
    dxy = (value(1, 1) - value(-1, 1) - value(1, -1) + value(-1, -1)) / 4
    determinant = dxx * dyy - dxy * dxy
    rows, columns = logs.shape[2:]
    inside = (x >= REACH) & (x < columns - REACH) & (y >= REACH) & (y < rows - REACH)
    peak = inside & (dxx < 0) & (determinant > 0)
    safe = torch.where(peak, determinant, 1.0)
    offset = torch.stack([(dxy * dy - dyy * dx) / safe, (dxy * dx - dxx * dy) / safe], -1)
    near = peak & (offset.abs().amax(-1) <= REACH)
    return torch.where(near.unsqueeze(-1), offset, 0.0)
