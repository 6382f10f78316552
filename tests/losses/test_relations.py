"""Distances and angles between samples, against loops over pairs and triples."""

from __future__ import annotations

import math

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import RKD, Loss, RKDAngle, RKDDistance, rkd, rkd_angle, rkd_distance

Rows = list[list[float]]


def huber(difference: float) -> float:
    size = abs(difference)
    return size * size / 2 if size < 1 else size - 0.5


def apart(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def relative(rows: Rows) -> Rows:
    count = len(rows)
    all_pairs = [[apart(a, b) for b in rows] for a in rows]
    mean = sum(map(sum, all_pairs)) / (count * (count - 1))
    return [[each / mean for each in row] for row in all_pairs]


def cosine(vertex: list[float], a: list[float], b: list[float]) -> float:
    left, right = ([x - v for x, v in zip(end, vertex, strict=True)] for end in (a, b))
    lengths = math.hypot(*left) * math.hypot(*right)
    return sum(x * y for x, y in zip(left, right, strict=True)) / lengths if lengths else 0.0


def naive_distance(student: Tensor, teacher: Tensor, _labels: Tensor, _loss: Loss) -> list[float]:
    mine, theirs = relative(student.tolist()), relative(teacher.tolist())
    return [sum(huber(a - b) for a, b in zip(s, t, strict=True)) / len(mine) for s, t in zip(mine, theirs, strict=True)]


def naive_angle(student: Tensor, teacher: Tensor, _labels: Tensor, _loss: Loss) -> list[float]:
    s, t = student.tolist(), teacher.tolist()
    count = range(len(s))
    return [
        sum(huber(cosine(s[i], s[j], s[k]) - cosine(t[i], t[j], t[k])) for j in count for k in count) / len(s) ** 2
        for i in count
    ]


def naive_both(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, RKD)
    distances = naive_distance(student, teacher, labels, loss)
    angles = naive_angle(student, teacher, labels, loss)
    return [
        loss.distance_weight * a + loss.angle_weight * b for a, b in zip(distances, angles, strict=True)
    ]  # fmt: skip


def pooled(student: Tensor, teacher: Tensor, labels: Tensor, loss: Loss) -> list[float]:
    return naive_angle(student.mean((2, 3)), teacher.mean(1), labels, loss)


CASES = [
    Case("distance", RKDDistance, (6, 5), (6, 5), naive_distance, couples=True, mismatch=(5, 5)),
    Case("distance-other-width", RKDDistance, (6, 3), (6, 9), naive_distance, couples=True, mismatch=(6,)),
    Case("angle", RKDAngle, (6, 5), (6, 5), naive_angle, couples=True, mismatch=(5, 5)),
    Case("angle-maps-and-tokens", RKDAngle, (5, 3, 2, 2), (5, 4, 7), pooled, couples=True),
    Case("rkd", RKD, (6, 5), (6, 5), naive_both, couples=True, mismatch=(7, 5)),
    Case("rkd-weights", lambda: RKD(1.0, 0.5), (7, 5), (7, 8), naive_both, couples=True),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_means_are_the_authors_losses() -> None:
    """A sum where papers and weights mean an average over pairs and triples; torch's own functions say the number."""
    student, teacher = random(8, 5), random(8, 7, seed=1)
    mine, theirs = torch.cdist(student, student), torch.cdist(teacher, teacher)
    mine, theirs = mine / mine[mine > 0].mean(), theirs / theirs[theirs > 0].mean()
    torch.testing.assert_close(rkd_distance(student, teacher).mean(), F.smooth_l1_loss(mine, theirs))
    lines = [F.normalize(side.unsqueeze(0) - side.unsqueeze(1), dim=2) for side in (student, teacher)]
    cosines = [line @ line.transpose(1, 2) for line in lines]
    torch.testing.assert_close(rkd_angle(student, teacher).mean(), F.smooth_l1_loss(*cosines))


def test_scale_shift_and_rotation_do_not_matter() -> None:
    """A relation that depends on where the origin is, or on the scale of an embedding."""
    teacher = random(8, 5)
    turn = torch.linalg.qr(random(5, 5, seed=2)).Q
    student = 3.0 * teacher @ turn + 100.0
    torch.testing.assert_close(rkd(student, teacher), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-9)


def test_single_precision_far_from_the_origin() -> None:
    """Distances as differences of large numbers: embeddings of ReLU are positive, so all lie to one side."""
    student, teacher = random(16, 64) + 30.0, random(16, 64, seed=1) + 30.0
    exact = rkd(student, teacher)
    torch.testing.assert_close(rkd(student.float(), teacher.float()).double(), exact, rtol=1e-4, atol=1e-5)


def test_items_that_coincide_have_a_finite_gradient() -> None:
    """The root of a distance of 0, or of what rounding leaves of it, whose slope is infinite."""
    for dtype in (torch.float32, torch.float64):
        rows = random(5, 16, dtype=dtype)
        student = torch.cat([rows, rows[:3]]).requires_grad_()
        teacher = random(8, 16, seed=1, dtype=dtype)
        rkd(student, teacher).sum().backward()
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())
        assert float(student.grad.abs().max()) < 1e3


@pytest.mark.parametrize("function", [rkd, rkd_angle, rkd_distance])
def test_an_item_alone_is_zero_with_a_graph(function: object) -> None:
    """NaN from the mean distance of no pairs, in a last batch of one or where all others are masked."""
    assert callable(function)
    student = random(4, 3).requires_grad_()
    for kept in (slice(0, 1), slice(0, 4)):
        only = torch.tensor([True, False, False, False])[kept]
        for where in (only, torch.zeros_like(only)):
            values = function(student[kept], random(4, 3, seed=1)[kept], where)
            (gradient,) = torch.autograd.grad(values.sum(), student)
            assert bool((values == 0).all())
            assert bool((gradient == 0).all())


def test_mixed_precision_does_not_round_distances() -> None:
    """Inner products that autocast makes bfloat16, so that distances of near samples are noise."""
    student, teacher = random(8, 32).float(), random(8, 32, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = rkd(student, teacher)
    torch.testing.assert_close(inside, rkd(student, teacher), rtol=0, atol=0)


def test_mistakes_are_named() -> None:
    """A mask that broadcasts, or a negative weight."""
    with pytest.raises(LimbeckError, match=r"mask of shape \(8,\)"):
        rkd(random(8, 3), random(8, 3), torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(LimbeckError, match="RKD angle_weight"):
        RKD(angle_weight=-1.0)
