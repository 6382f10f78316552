"""More losses between answers again, item by item on plain Python numbers, from the papers' equations alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.losses.reference import Labels, Row, Rows, kl, softened, softmax, target_of

Values = Callable[[Rows, Rows], list[float]]


def kd(student: Rows, teacher: Rows, temperature: float) -> list[float]:
    return [
        temperature**2 * kl(softened(t, temperature), softened(s, temperature))
        for s, t in zip(student, teacher, strict=True)
    ]


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def quantile(values: Row, share: float) -> float:
    """Linear between order statistics, as numpy's percentile."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def mlkd(
    student: Rows,
    teacher: Rows,
    temperatures: Sequence[float],
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    least_sure: float = 1.0,
) -> list[float]:
    count = len(student)
    if not count:
        return []
    sure = [max(softmax(t)) for t in teacher]
    mass = [sum(column) for column in zip(*map(softmax, teacher), strict=True)]
    item_counts = [value <= quantile(sure, least_sure) for value in sure]
    class_counts = [value <= quantile(mass, least_sure) for value in mass]
    values = [0.0] * count
    for temperature in temperatures:
        q = [softened(row, temperature) for row in student]
        p = [softened(row, temperature) for row in teacher]
        alone = kd(student, teacher, temperature)
        q_classes, p_classes = list(zip(*q, strict=True)), list(zip(*p, strict=True))
        classes = len(q_classes)
        across = sum(
            (dot(p_classes[c], p_classes[d]) - dot(q_classes[c], q_classes[d])) ** 2
            for c in range(classes)
            for d in range(classes)
            if class_counts[c]
        )
        for i in range(count):
            between = sum((dot(p[i], p[j]) - dot(q[i], q[j])) ** 2 for j in range(count))
            if item_counts[i]:
                values[i] += weights[0] * alone[i] + weights[1] * between
            values[i] += weights[2] * across / classes
    return values


def tf_kd(
    logits: Rows, labels: Labels, correct: float, temperature: float, student_temperature: float = 1.0
) -> list[float]:
    values = []
    for row, label in zip(logits, labels, strict=True):
        virtual = [correct if i == label else (1 - correct) / (len(row) - 1) for i in range(len(row))]
        divergence = kl(softened(virtual, temperature), softened(row, student_temperature))
        values.append(student_temperature**2 * divergence if label >= 0 else 0.0)
    return values


def ttm(student: Rows, teacher: Rows, temperature: float, weighted: bool) -> list[float]:
    values = []
    for s, t in zip(student, teacher, strict=True):
        powers = [p ** (1 / temperature) for p in softmax(t)]
        divergence = kl([power / sum(powers) for power in powers], softmax(s))
        values.append(divergence * sum(powers) if weighted else divergence)
    return values


def wsld_weights(student: Rows, teacher: Rows, labels: Labels) -> list[float]:
    weights = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        y = target_of(label, t)
        mine, theirs = -math.log(softmax(s)[y]), -math.log(softmax(t)[y])
        weights.append(1 - math.exp(-mine / (theirs + 1e-7)))
    return weights


def wsld(student: Rows, teacher: Rows, labels: Labels, temperature: float) -> list[float]:
    return times(wsld_weights(student, teacher, labels), kd(student, teacher, temperature))


def times(weights: Row, values: Row) -> list[float]:
    return [w * v for w, v in zip(weights, values, strict=True)]


def right(teacher: Rows, labels: Labels) -> list[float]:
    return [
        float(label < 0 or label == max(range(len(t)), key=lambda i: t[i]))
        for t, label in zip(teacher, labels, strict=True)
    ]


def certainty(teacher: Rows) -> list[float]:
    """1 − entropy / log(classes)."""
    return [1 + sum(p * math.log(p) for p in softmax(t)) / math.log(len(t)) for t in teacher]


def confidence(teacher: Rows) -> list[float]:
    return [max(softmax(t)) for t in teacher]


def ofa(student: Rows, teacher: Rows, labels: Labels, gamma: float, temperature: float) -> list[float]:
    values = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        y = target_of(label, t)
        q, p = softened(s, temperature), softened(t, temperature)
        total = 0.0
        for i in range(len(s)):
            one_hot = 1.0 if i == y else 0.0
            total -= ((p[i] + one_hot) ** gamma - one_hot) * math.log(q[i])
        values.append(temperature**2 * total)
    return values


def byot(student: Rows, deepest: Rows, labels: Labels, alpha: float, temperature: float) -> list[float]:
    soft = kd(student, deepest, temperature)
    hard = [-math.log(softmax(s)[label]) if label >= 0 else 0.0 for s, label in zip(student, labels, strict=True)]
    return [alpha * a + (1 - alpha) * b for a, b in zip(soft, hard, strict=True)]
