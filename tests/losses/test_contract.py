"""What every loss promises, tried on every loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.losses import reference as naive
from tests.losses.cases import BATCH, CASES, CLASSES, NO_TEACHER, TAUGHT, Case, data, value
from torch import Tensor

from limbeck.errors import LimbeckError

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
taught = pytest.mark.parametrize("case", TAUGHT, ids=lambda case: case.name)
weights = torch.linspace(-1.0, 2.0, BATCH, dtype=torch.float64)


def slope(case: Case, student: Tensor, batch: object = None, upstream: Tensor = weights) -> Tensor:
    """The gradient in the student of the weighted sum of values, as one autograd pass gives it."""
    student = student.clone().requires_grad_()
    value(case.loss, student, batch or data()).mul(upstream).sum().backward()  # type: ignore[arg-type]
    assert student.grad is not None
    return student.grad


@every
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_naive_loop(case: Case, seed: int) -> None:
    """A wrong sign, a swapped argument, a missing T² or logarithm, in the value or in the gradient."""
    batch = data(seed)
    teacher, labels, targets = batch.teacher.tolist(), batch.labels.tolist(), batch.targets.tolist()

    def loop(student: naive.Rows) -> list[float]:
        return case.naive(student, teacher, labels, targets)

    expected = torch.tensor(loop(batch.student.tolist()), dtype=torch.float64)
    torch.testing.assert_close(value(case.loss, batch.student, batch), expected, rtol=1e-6, atol=1e-6)
    if not case.whole:
        return
    expected = torch.tensor(naive.gradient(loop, batch.student.tolist(), weights.tolist()), dtype=torch.float64)
    torch.testing.assert_close(slope(case, batch.student, batch), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c.whole], ids=lambda case: case.name)
def test_gradcheck(case: Case) -> None:
    """A gradient written by hand that does not belong to its value."""
    batch = data(2)
    student = batch.student.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: value(case.loss, s, batch), student)


@pytest.mark.parametrize("case", [c for c in TAUGHT if c.at_equality == "zero"], ids=lambda case: case.name)
def test_smallest_where_student_equals_teacher(case: Case) -> None:
    """A "KL" that is a cross-entropy, or a loss that pulls the student away from the teacher."""
    batch = data()
    at_equality = value(case.loss, batch.teacher.clone(), batch)
    torch.testing.assert_close(at_equality, torch.zeros_like(at_equality), rtol=0, atol=case.slack)
    at_rest = slope(case, batch.teacher)
    torch.testing.assert_close(at_rest, torch.zeros_like(at_rest), rtol=0, atol=case.slack)
    generator = torch.Generator().manual_seed(3)
    for size in (0.1, 1.0, 5.0):
        step = size * torch.randn(BATCH, CLASSES, generator=generator, dtype=torch.float64)
        assert bool((value(case.loss, batch.teacher + step, batch) > at_equality).all())


@taught
def test_no_gradient_reaches_the_teacher(case: Case) -> None:
    """A teacher that is trained by the loss, when a caller forgets no_grad."""
    batch = data()
    batch = replace(batch, teacher=batch.teacher.requires_grad_())
    value(case.loss, batch.student.clone().requires_grad_(), batch).sum().backward()
    assert batch.teacher.grad is None


@taught
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_teacher_from_inference_mode(case: Case, dtype: torch.dtype) -> None:
    """ "Inference tensors cannot be saved for backward", in the first step with a live teacher."""
    batch = data(dtype=dtype)
    with torch.inference_mode():
        under = replace(batch, teacher=batch.teacher.clone())
    assert under.teacher.is_inference()
    expected = slope(case, batch.student, batch)
    torch.testing.assert_close(slope(case, batch.student, under), expected, rtol=0, atol=0)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(case: Case, dtype: torch.dtype) -> None:
    """Statistics in half precision, where small probabilities are 0 and a sum of a thousand is off by 1 %."""
    half = data(dtype=dtype)
    full = replace(half, student=half.student.float(), teacher=half.teacher.float())
    values = value(case.loss, half.student, half)
    assert values.dtype is torch.float32
    torch.testing.assert_close(values, value(case.loss, full.student, full), rtol=0, atol=0)
    gradient = slope(case, half.student, half, weights.float())
    assert gradient.dtype is dtype
    torch.testing.assert_close(gradient, slope(case, full.student, full, weights.float()).to(dtype))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_finite_at_extreme_logits(case: Case, dtype: torch.dtype) -> None:
    """NaN from 0 · log 0 or inf − inf once a model is sure of itself, which ends a run for good."""
    for seed in range(3):
        batch = data(seed, scale=1.0)
        extreme = replace(
            batch,
            student=(batch.student.sign() * 1e4).to(dtype),
            teacher=(batch.teacher.sign() * 1e4).to(dtype),
        )
        for student in (extreme.student, extreme.teacher, torch.zeros_like(extreme.student)):
            assert bool(value(case.loss, student, extreme).isfinite().all())
            assert bool(slope(case, student, extreme).isfinite().all())


@pytest.mark.parametrize("case", [c for c in CASES if c.excludes], ids=lambda case: case.name)
def test_an_excluded_class_is_as_if_it_were_not_there(case: Case) -> None:
    """Padding of a vocabulary that takes probability, or gives NaN, where both sides exclude it by −inf."""
    batch = data()

    def padded(logits: Tensor) -> Tensor:
        return torch.cat([logits, logits.new_full((BATCH, 2), -torch.inf)], -1)

    wide = replace(batch, student=padded(batch.student), teacher=padded(batch.teacher))
    torch.testing.assert_close(value(case.loss, wide.student, wide), value(case.loss, batch.student, batch))
    gradient = slope(case, wide.student, wide)
    torch.testing.assert_close(gradient[:, :CLASSES], slope(case, batch.student, batch))
    assert bool((gradient[:, CLASSES:] == 0).all())


@every
def test_a_masked_batch_equals_the_batch_without_those_items(case: Case) -> None:
    """Padding that leaks into the loss, or into the statistics of one that couples a batch's items."""
    keep = torch.tensor([True, False, True, True, False, True, True])
    batch = data()
    # A loss that sees the mask must withstand even NaN behind it.
    garbage = torch.nan if "where" in case.loss.inputs else 50.0
    behind = ~keep.unsqueeze(-1)
    spoilt = replace(
        batch,
        student=batch.student.masked_fill(behind, garbage),
        teacher=batch.teacher.masked_fill(behind, 9.0),
    )
    student = spoilt.student.clone().requires_grad_()
    masked = value(case.loss, student, spoilt, where=keep)
    torch.where(keep, masked * weights, 0.0).sum().backward()
    short = batch.rows(keep)
    torch.testing.assert_close(masked[keep], value(case.loss, short.student, short))
    assert student.grad is not None
    torch.testing.assert_close(student.grad[keep], slope(case, short.student, short, weights[keep]))
    assert bool((student.grad[~keep] == 0).all())


@every
def test_one_value_an_item(case: Case) -> None:
    """A loss that reduces by itself, so that masks and global counts come too late."""
    batch = data()
    assert value(case.loss, batch.student, batch).shape == (BATCH,)
    nothing = batch.rows(torch.zeros(BATCH, dtype=torch.bool))
    assert value(case.loss, nothing.student, nothing).shape == (0,)


@pytest.mark.parametrize("case", [c for c in CASES if not c.name.startswith("feature")], ids=lambda case: case.name)
def test_tokens_are_items(case: Case) -> None:
    """Logits of a sequence, (batch, tokens, classes), read as if the classes were in the middle."""
    keep = torch.tensor([True] * 6 + [False])
    flat = data().rows(keep)
    deep = replace(
        flat,
        student=flat.student.view(2, 3, CLASSES),
        teacher=flat.teacher.view(2, 3, CLASSES),
        labels=flat.labels.view(2, 3),
        targets=flat.targets.view(2, 3, CLASSES),
    )
    torch.testing.assert_close(
        value(case.loss, deep.student, deep),
        value(case.loss, flat.student, flat).view(2, 3),
        rtol=0,
        atol=1e-12,
    )


@every
def test_a_shape_mismatch_is_named(case: Case) -> None:
    """Broadcasting that compares a student of 5 classes with a teacher of 1, or items with one another."""
    batch = data()
    if case.at_equality != NO_TEACHER:
        for wrong in (batch.teacher[:, :1], batch.teacher[:1], batch.teacher.unsqueeze(0)):
            with pytest.raises(LimbeckError, match=r"student gives shape \(7, 5\), the teacher"):
                value(case.loss, batch.student, replace(batch, teacher=wrong))
    if "labels" in case.loss.inputs:
        for index in (slice(1), slice(6)):
            short = replace(batch, labels=batch.labels[index], targets=batch.targets[index])
            with pytest.raises(LimbeckError, match="of shape"):
                value(case.loss, batch.student, short)
