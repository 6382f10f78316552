"""Losses on maps and tokens again, in plain loops over lists of lists, from the papers' equations."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

Columns = list[list[float]]
"""For each channel its values at all positions."""


def columns(item: Tensor) -> Columns:
    """A map (channels, height, width), tokens (tokens, width) or a vector (width,) as lists."""
    values = item.tolist()
    if item.dim() == 3:
        return [[value for row in channel for value in row] for channel in values]
    if item.dim() == 2:
        return [[token[channel] for token in values] for channel in range(item.shape[1])]
    return [[value] for value in values]


def averaged(item: Tensor, height: int, width: int) -> Columns:
    """A map (channels, height, width) brought to another size: each cell is the mean of the pixels that it covers."""
    _, old_height, old_width = item.shape
    out = []
    for channel in item.tolist():
        cells = []
        for i in range(height):
            for j in range(width):
                rows = range(i * old_height // height, math.ceil((i + 1) * old_height / height))
                across = range(j * old_width // width, math.ceil((j + 1) * old_width / width))
                pixels = [channel[row][column] for row in rows for column in across]
                cells.append(sum(pixels) / len(pixels))
        out.append(cells)
    return out


def alike(student: Tensor, teacher: Tensor) -> tuple[Columns, Columns]:
    """One item's features over the same positions."""
    if student.dim() != 3 or student.shape[1:] == teacher.shape[1:]:
        return columns(student), columns(teacher)
    height, width = (min(student.shape[at], teacher.shape[at]) for at in (1, 2))
    return averaged(student, height, width), averaged(teacher, height, width)


def chosen(channels: Columns, keep: list[bool]) -> Columns:
    """The positions that count."""
    return [[value for value, kept in zip(channel, keep, strict=True) if kept] for channel in channels]


def unit(values: list[float]) -> list[float]:
    norm = math.sqrt(sum(value * value for value in values))
    return [value / max(norm, 1e-12) for value in values]


def attention(student: Columns, teacher: Columns, power: float = 2.0) -> float:
    maps = []
    for channels in (student, teacher):
        positions = range(len(channels[0]))
        maps.append(unit([sum(abs(channel[at]) ** power for channel in channels) / len(channels) for at in positions]))
    return sum((s - t) ** 2 for s, t in zip(*maps, strict=True)) / len(maps[0])


def neurons(student: Columns, teacher: Columns) -> float:
    own, taught = [unit(channel) for channel in student], [unit(channel) for channel in teacher]

    def kernel(first: Columns, second: Columns) -> float:
        products = [sum(a * b for a, b in zip(x, y, strict=True)) ** 2 for x in first for y in second]
        return sum(products) / len(products)

    return kernel(own, own) + kernel(taught, taught) - 2 * kernel(own, taught)


def channelwise(student: Columns, teacher: Columns, temperature: float) -> float:
    total = 0.0
    for own, taught in zip(student, teacher, strict=True):
        q, p = ([math.exp(value / temperature) for value in channel] for channel in (own, taught))
        total += sum(b / sum(p) * math.log((b / sum(p)) / (a / sum(q))) for a, b in zip(q, p, strict=True))
    return temperature**2 * total / len(student)


def flow(lower: Columns, upper: Columns) -> list[list[float]]:
    return [[sum(a * b for a, b in zip(x, y, strict=True)) / len(x) for y in lower] for x in upper]


def flows(student: list[tuple[Columns, Columns]], teacher: list[tuple[Columns, Columns]]) -> float:
    total = 0.0
    for (low, high), (taught_low, taught_high) in zip(student, teacher, strict=True):
        own, taught = flow(low, high), flow(taught_low, taught_high)
        squares = [(a - b) ** 2 for x, y in zip(own, taught, strict=True) for a, b in zip(x, y, strict=True)]
        total += sum(squares) / len(squares)
    return total


def linear(channels: Columns, weight: list[Any], bias: list[float] | None = None) -> Columns:
    """A layer that maps the channels of each position."""
    positions = range(len(channels[0]))
    flat = [[entry[0][0] if isinstance(entry, list) else entry for entry in row] for row in weight]
    return [
        [
            sum(w * channel[at] for w, channel in zip(row, channels, strict=True)) + (bias[out] if bias else 0.0)
            for at in positions
        ]
        for out, row in enumerate(flat)
    ]


def convolution(channels: Columns, height: int, weight: list[Any], bias: list[float]) -> Columns:
    """3×3 with a border of zeros."""
    width = len(channels[0]) // height
    out = []
    for kernel, shift in zip(weight, bias, strict=True):
        cells = []
        for i in range(height):
            for j in range(width):
                value = shift
                for channel, filters in zip(channels, kernel, strict=True):
                    for di in range(3):
                        for dj in range(3):
                            row, column = i + di - 1, j + dj - 1
                            if 0 <= row < height and 0 <= column < width:
                                value += filters[di][dj] * channel[row * width + column]
                cells.append(value)
        out.append(cells)
    return out


def relu(channels: Columns) -> Columns:
    return [[max(value, 0.0) for value in channel] for channel in channels]


def mean_square(first: Columns, second: Columns) -> float:
    squares = [(a - b) ** 2 for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(squares) / len(squares)


def variational(mean: Columns, teacher: Columns, log_scale: list[float]) -> float:
    values = []
    for predicted, taught, alpha in zip(mean, teacher, log_scale, strict=True):
        variance = math.log(1 + math.exp(alpha)) + 1e-5
        values += [0.5 * ((t - m) ** 2 / variance + math.log(variance)) for m, t in zip(predicted, taught, strict=True)]
    return sum(values) / len(values)


def pearson(student: list[Columns], teacher: list[Columns]) -> list[float]:
    """One value an item of a batch."""

    def normalised(items: list[Columns]) -> list[Columns]:
        out: list[Columns] = [[] for _ in items]
        for channel in range(len(items[0])):
            everything = [value for item in items for value in item[channel]]
            mean = sum(everything) / len(everything)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in everything) / (len(everything) - 1))
            for item, done in zip(items, out, strict=True):
                done.append([(value - mean) / (deviation + 1e-6) for value in item[channel]])
        return out

    average = sum(len(item[0]) for item in student) / len(student)
    values = []
    for own, taught in zip(normalised(student), normalised(teacher), strict=True):
        squares = [(a - b) ** 2 for x, y in zip(own, taught, strict=True) for a, b in zip(x, y, strict=True)]
        values.append(sum(squares) / (2 * len(own) * average))
    return values
