"""What every loss on features promises. A test module lists its cases and runs all promises on each:

@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses import Loss

Shape = tuple[int, ...]
Shapes = Shape | tuple[Shape, ...]
Features = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A loss and features to try it on.

    `make` gives a new, unbuilt loss. `student` and `teacher` are shapes with the batch first, or tuples of shapes.
    `naive` computes the values again, with plain loops over nested lists or from another library, from (student,
    teacher, labels, loss), where student and teacher are float64 tensors; it must share no code with the loss.
    `equal` is whether the loss is zero, and smallest, where student and teacher are one tensor. `couples` is whether
    it looks at several items of a batch at once (then it must take `where`). `given` are further inputs by name.
    """

    name: str
    make: Callable[[], Loss]
    student: Shapes
    teacher: Shapes
    naive: Callable[[Any, Any, Tensor, Loss], list[float] | Tensor]
    equal: bool = True
    couples: bool = False
    mismatch: Shapes | None = None
    given: dict[str, Tensor] = field(default_factory=dict)
    slack: float = 1e-8


def features(shapes: Shapes, seed: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> Features:
    """Random features."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape: Shape) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    if isinstance(shapes[0], int):
        return one(shapes)  # type: ignore[arg-type]
    return tuple(one(shape) for shape in shapes)  # type: ignore[arg-type]


def batch_of(values: Features) -> int:
    return len(values if isinstance(values, Tensor) else values[0])


def each(values: Features, change: Callable[[Tensor], Tensor]) -> Any:
    return change(values) if isinstance(values, Tensor) else tuple(change(value) for value in values)


def labels_of(count: int) -> Tensor:
    return torch.tensor([2, -1, 0, 1, 2, -1, 1, 0])[:count]


def built(case: Case, dtype: torch.dtype = torch.float64) -> Loss:
    """The loss with its learned parts, the same each time."""
    torch.manual_seed(0)
    loss = case.make()
    loss.build(features(case.student, 1), features(case.teacher, 2))
    return loss.to(dtype).eval()


def call(case: Case, loss: Loss, student: Any, teacher: Any, where: Tensor | None = None, **given: Any) -> Tensor:
    inputs: dict[str, Any] = {
        "teacher": teacher, "labels": labels_of(batch_of(student)), "where": where,
        "ids": torch.arange(batch_of(student)), "tokens": None, **case.given, **given,
    }  # fmt: skip
    values = loss(student, *(inputs[name] for name in loss.inputs))
    assert isinstance(values, Tensor)
    return values


def gradients(
    case: Case, loss: Loss, student: Any, teacher: Any, where: Tensor | None = None, **given: Any
) -> list[Tensor]:
    leaves = each(student, lambda one: one.clone().requires_grad_())
    values = call(case, loss, leaves, teacher, where, **given)
    weights = torch.linspace(-1.0, 2.0, len(values), dtype=values.dtype)
    kept = values * weights if where is None else torch.where(where, values * weights, 0.0)
    listed = [leaves] if isinstance(leaves, Tensor) else list(leaves)
    pairs = zip(torch.autograd.grad(kept.sum(), listed, allow_unused=True), listed, strict=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in pairs]


def equals_a_naive_reference(case: Case) -> None:
    """A wrong sign, axis, normalisation or weight."""
    loss = built(case)
    for seed in (0, 10):
        student, teacher = features(case.student, seed), features(case.teacher, seed + 1)
        with torch.no_grad():
            expected = torch.as_tensor(
                case.naive(student, teacher, labels_of(batch_of(student)), loss), dtype=torch.float64
            )
        torch.testing.assert_close(call(case, loss, student, teacher).detach(), expected, rtol=1e-6, atol=1e-6)


def gradient_is_the_value_s(case: Case) -> None:
    """A gradient that does not belong to the value, or a detach too many: central differences say otherwise."""
    loss = built(case)
    student, teacher = features(case.student, 3), features(case.teacher, 4)
    leaves = each(student, lambda one: one.clone().requires_grad_())
    listed = (leaves,) if isinstance(leaves, Tensor) else leaves

    def function(*given: Tensor) -> Tensor:
        return call(case, loss, given[0] if isinstance(student, Tensor) else given, teacher)

    assert torch.autograd.gradcheck(function, listed, fast_mode=True)


def smallest_where_student_equals_teacher(case: Case) -> None:
    """A loss that pulls the student away from the teacher."""
    if not case.equal or case.student != case.teacher:
        return
    loss, teacher = built(case), features(case.teacher, 5)
    at_rest = call(case, loss, each(teacher, Tensor.clone), teacher)
    torch.testing.assert_close(at_rest, torch.zeros_like(at_rest), rtol=0, atol=case.slack)
    away = call(case, loss, features(case.student, 6), teacher)
    assert float(away.detach().sum()) > float(at_rest.detach().sum()) + 10 * case.slack


def no_gradient_to_the_teacher(case: Case) -> None:
    """A teacher that is trained by the loss."""
    loss = built(case)
    teacher = each(features(case.teacher, 8), lambda one: one.requires_grad_())
    student = each(features(case.student, 7), lambda one: one.requires_grad_())
    call(case, loss, student, teacher).sum().backward()
    for one in [teacher] if isinstance(teacher, Tensor) else teacher:
        assert one.grad is None
    for parameter in loss.parameters():
        assert parameter.grad is not None, "a learned part that this loss does not train"


def half_precision_is_computed_in_float32(case: Case) -> None:
    """Statistics in half precision."""
    loss = built(case, torch.float32)
    student, teacher = features(case.student, 9, torch.bfloat16), features(case.teacher, 10, torch.bfloat16)
    values = call(case, loss, student, teacher)
    assert values.dtype is torch.float32
    full = call(case, loss, each(student, Tensor.float), each(teacher, Tensor.float))
    torch.testing.assert_close(values, full, rtol=1e-5, atol=1e-5)


def finite_at_extremes(case: Case) -> None:
    """NaN from 0 / 0, the root of 0, or the logarithm of 0."""
    loss = built(case, torch.float32)
    large, other = features(case.student, 11, torch.float32, 1e4), features(case.teacher, 12, torch.float32, 1e4)
    zeros = each(features(case.student, 11, torch.float32), torch.zeros_like)
    nothing = each(other, torch.zeros_like)
    for student in (large, zeros):
        for teacher in (other, nothing):
            assert bool(call(case, loss, student, teacher).isfinite().all())
            assert all(bool(one.isfinite().all()) for one in gradients(case, loss, student, teacher))


def a_mask_equals_leaving_out(case: Case) -> None:
    """Items that do not count and yet change the values of others."""
    loss = built(case)
    student, teacher = features(case.student, 13), features(case.teacher, 14)
    count = batch_of(student)
    keep = torch.tensor([True, False, True, True, False, True, True, True])[:count]

    def spoilt(one: Tensor) -> Tensor:
        garbage = torch.nan if case.couples else 50.0
        return torch.where(keep.view(-1, *[1] * (one.dim() - 1)), one, garbage)

    def rows(values: Any) -> Any:
        return each(values, lambda one: one[keep])

    inside = {name: value[keep] for name, value in case.given.items() if len(value) == count}
    inside |= {"labels": labels_of(count)[keep], "ids": torch.arange(count)[keep]}
    whole = call(case, loss, each(student, spoilt), each(teacher, spoilt), where=keep)
    few = call(case, loss, rows(student), rows(teacher), **inside)
    torch.testing.assert_close(whole[keep], few)
    if case.couples:
        for one in gradients(case, loss, each(student, spoilt), each(teacher, spoilt), where=keep):
            assert bool((one[~keep] == 0).all())
            assert bool(one.isfinite().all())


def one_value_an_item(case: Case) -> None:
    """A loss that reduces by itself."""
    loss = built(case)
    student, teacher = features(case.student, 15), features(case.teacher, 16)
    assert call(case, loss, student, teacher).shape == (batch_of(student),)


def a_shape_mismatch_is_named(case: Case) -> None:
    """Broadcasting between features that do not belong together."""
    if case.mismatch is not None:
        loss = built(case)
        with pytest.raises(LimbeckError, match=r"shape|channels|width|batch"):
            call(case, loss, features(case.student, 17), features(case.mismatch, 18))


def learned_parts_are_saved(case: Case) -> None:
    """A variance or projector that starts anew after a resume."""
    loss = built(case)
    state = copy.deepcopy(loss.state_dict())
    torch.manual_seed(99)
    other = case.make()
    other.build(features(case.student, 1), features(case.teacher, 2))
    other.to(torch.float64).eval().load_state_dict(state)
    student, teacher = features(case.student, 19), features(case.teacher, 20)
    torch.testing.assert_close(call(case, other, student, teacher), call(case, loss, student, teacher))


Promise = Callable[[Case], None]

PROMISES: tuple[Promise, ...] = (
    equals_a_naive_reference,
    gradient_is_the_value_s,
    smallest_where_student_equals_teacher,
    no_gradient_to_the_teacher,
    half_precision_is_computed_in_float32,
    finite_at_extremes,
    a_mask_equals_leaving_out,
    one_value_an_item,
    a_shape_mismatch_is_named,
    learned_parts_are_saved,
)
