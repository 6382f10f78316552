"""Total variation and adaptive KL: what every loss promises, hand numbers, and the chunked path."""

from __future__ import annotations

import math

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise, features, gradient_is_the_value_s
from tests.losses.reference import Row, Rows, kl, softened
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import AKL, TVD, akl, kd, reverse_kl, tvd
from limbeck.losses.base import Loss
from limbeck.losses.fused import FusedTerm, fused_losses, serves_fused
from limbeck.types import LinearHead, TopK, dense_logits

BATCH, CLASSES = 7, 6


def half_difference(student: Rows, teacher: Rows, temperature: float) -> list[float]:
    values = []
    for s, t in zip(student, teacher, strict=True):
        q, p = softened(s, temperature), softened(t, temperature)
        values.append(temperature**2 * sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2)
    return values


def head_weight(p: Row, q: Row, head: float) -> float:
    """The share of the gap in the teacher's most probable class and those after it, up to `head` of its mass."""
    inside, outside, mass = 0.0, 0.0, 0.0
    for place, index in enumerate(sorted(range(len(p)), key=lambda i: -p[i])):
        mass += p[index]
        gap = abs(p[index] - q[index])
        if place == 0 or mass <= head:
            inside += gap
        else:
            outside += gap
    return inside / (inside + outside)


def adaptive(student: Rows, teacher: Rows, temperature: float, head: float) -> list[float]:
    values = []
    for s, t in zip(student, teacher, strict=True):
        q, p = softened(s, temperature), softened(t, temperature)
        w = head_weight(p, q, head)
        values.append(temperature**2 * (w * kl(p, q) + (1 - w) * kl(q, p)))
    return values


SHAPE, WRONG = (BATCH, CLASSES), (BATCH, CLASSES - 1)
CASES = [
    Case("tvd", TVD, SHAPE, SHAPE, lambda s, t, _l, _m: half_difference(s.tolist(), t.tolist(), 1.0), mismatch=WRONG),
    Case("tvd-T3", lambda: TVD(3.0), SHAPE, SHAPE, lambda s, t, _l, _m: half_difference(s.tolist(), t.tolist(), 3.0)),
    Case("akl", AKL, SHAPE, SHAPE, lambda s, t, _l, _m: adaptive(s.tolist(), t.tolist(), 1.0, 0.5), mismatch=WRONG),
    Case(
        "akl-T2", lambda: AKL(2.0, 0.8), SHAPE, SHAPE, lambda s, t, _l, _m: adaptive(s.tolist(), t.tolist(), 2.0, 0.8)
    ),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    """What every loss promises, broken."""
    if promise is gradient_is_the_value_s and case.name.startswith("akl"):
        return  # its weight is a constant to the gradient: see below
    promise(case)


def rows(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def test_total_variation_by_hand() -> None:
    """Half forgotten: distributions that share nothing are 1 apart, and T² for T · logits."""
    student, teacher = rows(0.5, 0.3, 0.2), rows(0.2, 0.3, 0.5)
    assert tvd(student, teacher).item() == pytest.approx(0.3)
    assert tvd(2 * student, 2 * teacher, temperature=2.0).item() == pytest.approx(1.2)
    apart = torch.tensor([[1e4, -1e4]], dtype=torch.float64)
    assert tvd(apart, -apart).item() == pytest.approx(1.0)


def test_adaptive_weights_by_hand() -> None:
    """Head and tail swapped, or the class that passes μ counted among the head: 0.4 is, 0.4 + 0.3 is beyond 0.5."""
    teacher, student = rows(0.4, 0.3, 0.2, 0.1), rows(0.1, 0.3, 0.2, 0.4)
    forward, backward = (loss(student, teacher, temperature=1.0) for loss in (kd, reverse_kl))
    torch.testing.assert_close(akl(student, teacher), 0.5 * forward + 0.5 * backward)
    head_only = rows(0.3, 0.35, 0.23, 0.12)
    w = 0.1 / (0.1 + 0.05 + 0.03 + 0.02)
    forward, backward = (loss(head_only, teacher, temperature=1.0) for loss in (kd, reverse_kl))
    torch.testing.assert_close(akl(head_only, teacher), w * forward + (1 - w) * backward)
    torch.testing.assert_close(akl(head_only, teacher, head=1.0), forward)
    # A teacher that is sure of one class has that one as its head.
    sure = rows(0.9, 0.05, 0.03, 0.02)
    w = (0.9 - 0.3) / (0.6 + 0.3 + 0.2 + 0.1)
    forward, backward = (loss(head_only, sure, temperature=1.0) for loss in (kd, reverse_kl))
    torch.testing.assert_close(akl(head_only, sure), w * forward + (1 - w) * backward)


def test_the_weight_is_a_constant_to_the_gradient() -> None:
    """A gradient through the weight, which the authors detach."""
    student, teacher = features(SHAPE, 1), features(SHAPE, 2)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    upstream = torch.linspace(-1.0, 2.0, BATCH, dtype=torch.float64)
    ours = student.clone().requires_grad_()
    (akl(ours, teacher, temperature=2.0) * upstream).sum().backward()
    theirs = student.clone().requires_grad_()
    log_q, log_p = F.log_softmax(theirs / 2.0, -1), F.log_softmax(teacher / 2.0, -1)
    weights = torch.tensor(
        [head_weight(p, q, 0.5) for p, q in zip(log_p.exp().tolist(), log_q.exp().tolist(), strict=True)],
        dtype=torch.float64,
    )
    forward = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    backward = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    (4.0 * (weights * forward + (1 - weights) * backward) * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("loss", [TVD(), TVD(2.0), AKL(), AKL(3.0, 0.7)], ids=lambda loss: f"{loss.name}")
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "head"])
def test_chunks_equal_the_whole(loss: Loss, dense: bool) -> None:
    """Another value or gradient in the chunks that a language model's terms are computed in."""
    assert serves_fused(loss)
    generator = torch.Generator().manual_seed(0)

    def head(width: int) -> LinearHead:
        shapes = ((BATCH, width), (CLASSES, width), (CLASSES,))
        return LinearHead(*(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes))

    mine, theirs = head(5), head(4)
    weights = torch.rand(BATCH, generator=generator, dtype=torch.float64)
    leaves = [each.clone().requires_grad_() for each in (mine.hidden, mine.weight, mine.bias) if each is not None]
    target = dense_logits(theirs) if dense else theirs
    total, (values,) = fused_losses(LinearHead(*leaves), [FusedTerm(loss, weights, target)], chunk=3)
    found = torch.autograd.grad(total, leaves)
    expected = loss(dense_logits(LinearHead(*leaves)), dense_logits(theirs))
    torch.testing.assert_close(values, expected.detach())
    for one, other in zip(found, torch.autograd.grad((expected * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_a_vocabulary_padded_by_exclusion() -> None:
    """NaN from 0 / 0 or 0 · ∞ where both sides exclude a class by −inf."""
    student, teacher = features(SHAPE, 3), features(SHAPE, 4)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)

    def padded(logits: Tensor) -> Tensor:
        return torch.cat([logits, logits.new_full((BATCH, 2), -math.inf)], -1)

    for loss in (tvd, akl):
        leaf = padded(student).requires_grad_()
        values = loss(leaf, padded(teacher))
        torch.testing.assert_close(values.detach(), loss(student, teacher))
        values.sum().backward()
        assert leaf.grad is not None
        assert bool((leaf.grad[:, CLASSES:] == 0).all())
        assert bool(leaf.grad.isfinite().all())


def test_top_k_serves_total_variation_only() -> None:
    """A rest of the mass, as one outcome, that passes for the teacher's head."""
    assert TopK in TVD.targets
    assert TopK not in AKL.targets
    log_p = torch.tensor([[0.5, 0.2, 0.2, 0.1]], dtype=torch.float64).log()
    target = TopK(torch.tensor([[0, 1]]), log_p[:, :2], torch.tensor([0.3], dtype=torch.float64).log())
    # With the rest as one outcome: ½ (|0.5 − 0.25| + |0.2 − 0.25| + |0.3 − 0.5|).
    assert TVD()(torch.zeros(1, 4, dtype=torch.float64), target).item() == pytest.approx(0.25)


def test_a_head_out_of_range_is_named() -> None:
    """A μ in per cent."""
    with pytest.raises(LimbeckError, match="AKL head: expected a number from 0 to 1, got 50"):
        AKL(head=50)
    with pytest.raises(LimbeckError, match="akl head"):
        akl(torch.zeros(1, 3), torch.zeros(1, 3), head=-0.1)
