"""Every loss again, item by item on plain Python numbers: slow, and written from the papers' equations alone.

A function takes logits as lists of rows and gives one number a row, in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]
Rows = Sequence[Row]
Labels = Sequence[int]


def softmax(row: Row) -> list[float]:
    top = max(row)
    exponentials = [math.exp(z - top) for z in row]
    return [e / sum(exponentials) for e in exponentials]


def kl(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def softened(row: Row, temperature: float) -> list[float]:
    return softmax([z / temperature for z in row])


def jsd(student: Rows, teacher: Rows, temperature: float, beta: float) -> list[float]:
    values = []
    for s, t in zip(student, teacher, strict=True):
        q, p = softened(s, temperature), softened(t, temperature)
        if beta == 0:
            divergence = kl(p, q)
        elif beta == 1:
            divergence = kl(q, p)
        else:
            m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
            divergence = beta * kl(p, m) + (1 - beta) * kl(q, m)
        values.append(temperature**2 * divergence)
    return values


def skewed(student: Rows, teacher: Rows, temperature: float, alpha: float, reverse: bool) -> list[float]:
    values = []
    for s, t in zip(student, teacher, strict=True):
        q, p = softened(s, temperature), softened(t, temperature)
        first, other = (q, p) if reverse else (p, q)
        mixture = [alpha * a + (1 - alpha) * b for a, b in zip(first, other, strict=True)]
        values.append(temperature**2 * kl(first, mixture))
    return values


def mean_square(student: Rows, teacher: Rows) -> list[float]:
    return [
        sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s) for s, t in zip(student, teacher, strict=True)
    ]


def one_minus_cosine(student: Rows, teacher: Rows) -> list[float]:
    def length(row: Row) -> float:
        return math.sqrt(sum(a * a for a in row))

    return [
        1 - sum(a * b for a, b in zip(s, t, strict=True)) / (length(s) * length(t))
        for s, t in zip(student, teacher, strict=True)
    ]


def target_of(label: int, teacher_row: Row) -> int:
    return label if label >= 0 else max(range(len(teacher_row)), key=lambda i: teacher_row[i])


def others(probabilities: Row, target: int) -> list[float]:
    """The probabilities of the other classes, renormalised: p_i / (1 − p_y)."""
    rest = [p for i, p in enumerate(probabilities) if i != target]
    return [p / sum(rest) for p in rest]


def dkd(student: Rows, teacher: Rows, labels: Labels, alpha: float, beta: float, temperature: float) -> list[float]:
    values = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        y = target_of(label, t)
        q, p = softened(s, temperature), softened(t, temperature)
        target_part = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        others_part = kl(others(p, y), others(q, y))
        values.append(temperature**2 * (alpha * target_part + beta * others_part))
    return values


def nkd(student: Rows, teacher: Rows, labels: Labels, gamma: float, temperature: float) -> list[float]:
    values = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        y = target_of(label, t)
        target_part = -softmax(t)[y] * math.log(softmax(s)[y])
        q, p = others(softened(s, temperature), y), others(softened(t, temperature), y)
        others_part = -sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        values.append(target_part + gamma * temperature**2 * others_part)
    return values


def pearson(a: Row, b: Row) -> float:
    """Pearson's correlation, with the authors' 1e-8 that damps it where hardly anything varies."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    norms = math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))
    return covariance / (norms + 1e-8)


def dist(student: Rows, teacher: Rows, beta: float, gamma: float, temperature: float) -> list[float]:
    q = [softened(row, temperature) for row in student]
    p = [softened(row, temperature) for row in teacher]
    within = [1 - pearson(a, b) for a, b in zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)]
    batch = gamma * sum(within) / len(within)
    return [temperature**2 * (beta * (1 - pearson(a, b)) + batch) for a, b in zip(q, p, strict=True)]


def standardized(rows: Rows) -> list[list[float]]:
    scaled = []
    for row in rows:
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((z - mean) ** 2 for z in row) / (len(row) - 1))
        scaled.append([(z - mean) / (deviation + 1e-7) for z in row])
    return scaled


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def sigmoid_kd(student: Rows, teacher: Rows, temperature: float) -> list[float]:
    values = []
    for s, t in zip(student, teacher, strict=True):
        parts = []
        for a, b in zip(s, t, strict=True):
            q, p = sigmoid(a / temperature), sigmoid(b / temperature)
            parts.append(kl([p, 1 - p], [q, 1 - q]))
        values.append(temperature**2 * sum(parts) / len(parts))
    return values


def cross_entropy(logits: Rows, labels: Labels, smoothing: float, weights: Row) -> list[float]:
    values = []
    for row, label in zip(logits, labels, strict=True):
        if label < 0:
            values.append(0.0)
            continue
        q = softmax(row)
        target = [smoothing / len(row) + (1 - smoothing) * (i == label) for i in range(len(row))]
        values.append(-sum(w * y * math.log(b) for w, y, b in zip(weights, target, q, strict=True)))
    return values


def binary_cross_entropy(logits: Rows, targets: Rows, positive: Row) -> list[float]:
    values = []
    for row, target in zip(logits, targets, strict=True):
        parts = [
            -(w * y * math.log(sigmoid(z)) + (1 - y) * math.log(1 - sigmoid(z)))
            for z, y, w in zip(row, target, positive, strict=True)
            if y >= 0  # neither −1 nor NaN
        ]
        values.append(sum(parts) / len(parts) if parts else 0.0)
    return values


def gradient(function: Callable[[Rows], list[float]], rows: Rows, weights: Row) -> list[list[float]]:
    """Central differences of the weighted sum of values, where a closed form might share a mistake."""
    step = 1e-5

    def total(at: Rows) -> float:
        return sum(w * v for w, v in zip(weights, function(at), strict=True))

    result = []
    for i, row in enumerate(rows):
        slopes = []
        for j in range(len(row)):
            up = [list(r) for r in rows]
            down = [list(r) for r in rows]
            up[i][j] += step
            down[i][j] -= step
            slopes.append((total(up) - total(down)) / (2 * step))
        result.append(slopes)
    return result
