"""The losses of detectors once more, in plain Python from their papers' equations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

Box = Sequence[float]
Numbers = Any  # nested lists


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > 0 else math.exp(value) / (1 + math.exp(value))


def softmax(values: Sequence[float], temperature: float = 1.0) -> list[float]:
    top = max(values)
    powers = [math.exp((value - top) / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def iou(a: Box, b: Box) -> tuple[float, float]:
    """Intersection over union and its generalized form."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union, width * height / union - (around - union) / around


def focal(logit: float, target: float, beta: float) -> float:
    score = sigmoid(logit)
    entropy = -target * math.log(score) - (1 - target) * math.log(sigmoid(-logit))
    return float(abs(score - target) ** beta * entropy) if beta else entropy


def confidence(logits: Numbers) -> list[list[float]]:
    return [[max(map(sigmoid, location)) for location in picture] for picture in logits]


def shared(values: list[float], weights: list[list[float]]) -> list[float]:
    """Values of pictures, divided by the weights of all of them."""
    divisor = max(1.0, sum(map(sum, weights)))
    return [value * len(values) / divisor for value in values]


def quality_focal(student: Numbers, teacher: Numbers, beta: float) -> list[float]:
    values = [
        sum(
            focal(z, sigmoid(t), beta) for own, their in zip(a, b, strict=True) for z, t in zip(own, their, strict=True)
        )
        for a, b in zip(student, teacher, strict=True)
    ]
    return shared(values, confidence(teacher))


def boxes(student: Numbers, teacher: Numbers, logits: Numbers, form: int) -> list[float]:
    weights = confidence(logits)
    values = [
        sum(w * (1 - iou(a, b)[form]) for w, a, b in zip(*rows, strict=True))
        for rows in zip(weights, student, teacher, strict=True)
    ]
    return shared(values, weights)


def edge_divergence(student: Numbers, targets: Numbers, temperature: float) -> float:
    """T² · the mean over four edges of KL(target ‖ student), from logits and probabilities."""
    summed = 0.0
    for own, target in zip(student, targets, strict=True):
        q = softmax(own, temperature)
        summed += sum(p * (math.log(p) - math.log(each)) for p, each in zip(target, q, strict=True) if p > 0)
    return temperature**2 * summed / len(student)


def localization(student: Numbers, teacher: Numbers, logits: Numbers, temperature: float) -> list[float]:
    weights = confidence(logits)
    values = [
        sum(
            w * edge_divergence(own, [softmax(edge, temperature) for edge in their], temperature)
            for w, own, their in zip(*rows, strict=True)
        )
        for rows in zip(weights, student, teacher, strict=True)
    ]
    return shared(values, weights)


def projected(probabilities: Sequence[float], positions: Sequence[float], onto: Sequence[float]) -> list[float]:
    """A distribution over positions, shared by the nearest two of `onto`."""
    target = [0.0] * len(onto)
    order = sorted(range(len(onto)), key=lambda index: onto[index])
    for p, place in zip(probabilities, positions, strict=True):
        below = [index for index in order if onto[index] <= place]
        above = [index for index in order if onto[index] > place]
        if not below or not above:
            target[(below or above)[-1 if below else 0]] += p
            continue
        low, high = below[-1], above[0]
        share = (place - onto[low]) / (onto[high] - onto[low])
        target[low] += p * (1 - share)
        target[high] += p * share
    return target


def query_matching(
    student: Sequence[Numbers], teacher: Sequence[Numbers], size: tuple[int, int], *, classes: float, boxes: float,
    edges: float, beta: float, temperature: float,
) -> list[float]:  # fmt: skip
    """With the matching found by trying all of them."""
    scale = [size[1], size[0], size[1], size[0]]
    values, weights = [], []
    for row, (own, places) in enumerate(zip(student[0], student[1], strict=True)):
        sure = [max(map(sigmoid, each)) for each in teacher[0][row]]
        chosen = sorted(range(len(sure)), key=lambda index: -sure[index])[: len(own)]

        def apart(ours: int, theirs: int, places: Numbers = places, row: int = row) -> tuple[float, float]:
            a, b = places[ours], teacher[1][row][theirs]
            distance = sum(abs(x - y) / s for x, y, s in zip(a, b, scale, strict=True))
            return distance, iou(a, b)[1]

        def cost(ours: int, theirs: int, own: Numbers = own, row: int = row) -> float:
            logits = teacher[0][row][theirs]
            distance, giou = apart(ours, theirs)
            return -sigmoid(own[ours][logits.index(max(logits))]) + 5 * distance - 2 * giou

        tried = itertools.permutations(range(len(own)), len(chosen))
        best = min(tried, key=lambda order: sum(cost(a, b) for a, b in zip(order, chosen, strict=True)))
        targets = {a: [sigmoid(each) for each in teacher[0][row][b]] for a, b in zip(best, chosen, strict=True)}
        value = classes * sum(
            focal(logit, target, beta)
            for index, logits in enumerate(own)
            for logit, target in zip(logits, targets.get(index, [0.0] * len(logits)), strict=True)
        )
        for a, b in zip(best, chosen, strict=True):
            distance, giou = apart(a, b)
            value += boxes * sure[b] * (5 * distance + 2 * (1 - giou))
            if len(student) == 4:
                bins = [
                    projected(softmax(edge, temperature), there, here)
                    for edge, there, here in zip(
                        teacher[2][row][b], teacher[3][row][b], student[3][row][a], strict=True
                    )
                ]
                value += edges * sure[b] * edge_divergence(student[2][row][a], bins, temperature)
        values.append(value)
        weights.append([sure[each] for each in chosen])
    return shared(values, weights)


def soft_boxes(
    student: Sequence[Numbers], found: Sequence[Numbers], places: Numbers, *, classes: float, boxes: float, beta: float
) -> list[float]:
    values, weights = [], []
    for row, chosen in enumerate(places):
        value, sure = 0.0, []
        for location, place in enumerate(chosen):
            logits = student[0][row][location]
            targets = [sigmoid(each) for each in found[0][row][place]] if place >= 0 else [0.0] * len(logits)
            if place != -2:
                value += classes * sum(focal(z, p, beta) for z, p in zip(logits, targets, strict=True))
            if place >= 0:
                value += boxes * max(targets) * (1 - iou(student[1][row][location], found[1][row][place])[1])
                sure.append(max(targets))
        values.append(value)
        weights.append(sure)
    return shared(values, weights)


def attentions(maps: Numbers, temperature: float) -> tuple[list[list[float]], list[float]]:
    """How much is at each position and in each channel of (channels, rows, columns)."""
    rows, columns = len(maps[0]), len(maps[0][0])
    means = [sum(abs(each[i][j]) for each in maps) / len(maps) for i in range(rows) for j in range(columns)]
    flat = [each * rows * columns for each in softmax(means, temperature)]
    kinds = [sum(abs(each) for row in channel for each in row) / rows / columns for channel in maps]
    spatial = [flat[row * columns : (row + 1) * columns] for row in range(rows)]
    return spatial, [each * len(maps) for each in softmax(kinds, temperature)]


def fgd(
    student: Numbers, teacher: Numbers, boxes: list[Box], size: tuple[int, int], known: bool, *, temperature: float,
    alpha: float, beta: float, gamma: float,
) -> float:  # fmt: skip
    """Of one picture, without the global part."""
    rows, columns = len(student[0]), len(student[0][0])
    inside = [[0.0] * columns for _ in range(rows)]
    for box in boxes:
        left, right = math.floor(box[0] / size[1] * columns), math.ceil(box[2] / size[1] * columns)
        top, bottom = math.floor(box[1] / size[0] * rows), math.ceil(box[3] / size[0] * rows)
        for i in range(rows):
            for j in range(columns):
                if top <= i <= bottom and left <= j <= right:
                    inside[i][j] = max(inside[i][j], 1 / (right - left + 1) / (bottom - top + 1))
    free = sum(each == 0 for row in inside for each in row)
    spatial, channel = attentions(teacher, temperature)
    own_spatial, own_channel = attentions(student, temperature)
    value = 0.0
    for c, (own, their) in enumerate(zip(student, teacher, strict=True)):
        for i, j in itertools.product(range(rows), range(columns)):
            weight = alpha * inside[i][j] if inside[i][j] else beta / free
            value += weight * known * spatial[i][j] * channel[c] * (own[i][j] - their[i][j]) ** 2
    value += gamma * sum(abs(a - b) for a, b in zip(own_channel, channel, strict=True))
    pairs = itertools.product(range(rows), range(columns))
    return value + gamma * sum(abs(own_spatial[i][j] - spatial[i][j]) for i, j in pairs)
