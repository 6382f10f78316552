"""Teachers whose classes are not the student's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck import Distiller, Term
from limbeck.errors import LimbeckError
from limbeck.losses import KD
from limbeck.teachers import Ema, Ensemble, Mapped

ONTO = ("cat", "dog", "bird", "fish")
BATCH = {
    "inputs": torch.randn(5, 6, generator=torch.Generator().manual_seed(0)),
    "labels": torch.tensor([0, 1, 2, 3, -1]),
}


def net(seed: int, classes: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(6, classes)


def logits(model: nn.Module) -> Tensor:
    return model(BATCH["inputs"]).detach()  # type: ignore[no-any-return]


def test_classes_are_mapped_by_name() -> None:
    """Another order of the same classes teaches the wrong ones; a class of the teacher's own must leave no trace."""
    model = net(0, 5)
    taught = Mapped(model, ["dog", "horse", "fish", "cat", "bird"], ONTO)(BATCH)["logits"]
    own = logits(model)
    assert torch.equal(taught, own[:, [3, 0, 4, 2]])
    rest = own.softmax(-1)[:, [3, 0, 4, 2]]
    torch.testing.assert_close(taught.softmax(-1), rest / rest.sum(-1, keepdim=True))


def test_a_partial_teacher_alone_is_refused() -> None:
    """Probability 0 for what it does not know is a lesson, and a wrong one."""
    partial = Mapped(net(0, 2), ["dog", "cat"], ONTO)
    with pytest.raises(LimbeckError, match=r"does not know bird, fish; alone it would teach that these never occur"):
        partial(BATCH)
    with pytest.raises(LimbeckError, match="allow_missing=True"):
        Distiller(net(1, 4), partial)
    allowed = Mapped(net(0, 2), ["dog", "cat"], ONTO, allow_missing=True)
    probabilities = allowed(BATCH)["logits"].softmax(-1)
    assert torch.equal(probabilities[:, 2:], torch.zeros(5, 2))
    loss = Distiller(net(1, 4), allowed)(BATCH).loss
    loss.backward()
    assert loss.isfinite()


def test_partial_teachers_are_assembled() -> None:
    """−inf times a share is NaN; a class that two teachers know must not weigh twice."""
    first, second = net(0, 3), net(1, 2)
    taught = Ensemble([Mapped(first, ["cat", "dog", "bird"], ONTO), Mapped(second, ["fish", "bird"], ONTO)])(BATCH)
    a, b = logits(first), logits(second)
    expected = torch.stack([a[:, 0], a[:, 1], (a[:, 2] + b[:, 1]) / 2, b[:, 0]], 1)
    torch.testing.assert_close(taught["logits"], expected)
    weighted = Ensemble(
        [Mapped(first, ["cat", "dog", "bird"], ONTO), Mapped(second, ["fish", "bird"], ONTO)], weights=[3.0, 1.0]
    )(BATCH)
    expected[:, 2] = 0.75 * a[:, 2] + 0.25 * b[:, 1]
    torch.testing.assert_close(weighted["logits"], expected)


def test_a_teacher_of_all_classes_helps_partial_ones() -> None:
    """A plain model among mapped ones taken to know nothing, or its classes averaged with −inf."""
    full, partial = net(0, 4), net(1, 2)
    taught = Ensemble([full, Mapped(partial, ["dog", "cat"], ONTO)])(BATCH)["logits"]
    a, b = logits(full), logits(partial)
    torch.testing.assert_close(
        taught, torch.stack([(a[:, 0] + b[:, 1]) / 2, (a[:, 1] + b[:, 0]) / 2, a[:, 2], a[:, 3]], 1)
    )


def test_a_student_learns_all_classes_from_partial_teachers() -> None:
    """The whole way: a student of four classes taught by two teachers of two."""
    first, second = net(0, 2), net(1, 2)
    teachers = Ensemble([Mapped(first, ["cat", "dog"], ONTO), Mapped(second, ["bird", "fish"], ONTO)])
    student = net(2, 4)
    distiller = Distiller(student, teachers, [Term(KD(1.0))], example=BATCH)
    optimizer = torch.optim.Adam(student.parameters(), 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        distiller(BATCH).loss.backward()
        optimizer.step()
    expected = torch.cat([logits(first), logits(second)], 1).softmax(-1)
    torch.testing.assert_close(student(BATCH["inputs"]).softmax(-1), expected, atol=0.02, rtol=0.0)


def test_complete_maps_combine_in_every_way() -> None:
    """Teachers that only name their classes in another order counted as partial."""
    first, second = net(0, 4), net(1, 4)
    taught = Ensemble([Mapped(first, ONTO[::-1], ONTO), Mapped(second, ONTO, ONTO)], combine="confidence")(BATCH)
    assert taught["logits"].isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mapped(net(0, 2), ["cat", "cat"], ONTO), "'cat' occurs more than once"),
        (lambda: Mapped(net(0, 2), ["cta", "cow"], ONTO), "none of the student's classes, such as 'cta'; did you mean"),
        (lambda: Mapped(net(0, 3), ONTO, ONTO)(BATCH), "gives 3 logits, but 4 class names"),
        (
            lambda: Ensemble([Mapped(net(0, 2), ["cat", "dog"], ONTO), Mapped(net(1, 1), ["bird"], ONTO)]),
            "none of the ensemble's teachers knows fish",
        ),
        (
            lambda: Ensemble([Mapped(net(0, 4), ONTO, ONTO), Mapped(net(0, 4), ONTO, ONTO[::-1])]),
            "mapped onto different class lists",
        ),
        (
            lambda: Ensemble([net(0, 4), Mapped(net(0, 2), ["cat", "dog"], ONTO)], combine="confidence"),
            "combine='confidence' compares teachers that know the same classes",
        ),
        (
            lambda: Ensemble([Mapped(net(0, 3), ONTO[:3], ONTO), Mapped(net(0, 1), ["fish"], ONTO)], [1.0, 0.0]),
            "none of the ensemble's teachers knows fish",
        ),
    ],
)
def test_mistakes_are_named(make: object, message: str) -> None:
    """At construction where it can be known then, and never as NaN."""
    assert callable(make)
    with pytest.raises(LimbeckError, match=message):
        make()


def test_the_inner_teacher_keeps_its_life() -> None:
    """A mean teacher inside would neither follow nor resume."""
    student = net(0, 4)
    mapped = Mapped(Ema(student, decay=0.5), ONTO, ONTO[::-1])
    other = Mapped(Ema(net(3, 4), decay=0.5), ONTO, ONTO[::-1])
    with torch.no_grad():
        student.bias.add_(1.0)  # type: ignore[operator, union-attr]
    before = mapped(BATCH)["logits"]
    mapped.update(student)
    assert not torch.equal(mapped(BATCH)["logits"], before)
    other.load_state_dict(mapped.state_dict())
    assert torch.equal(other(BATCH)["logits"], mapped(BATCH)["logits"])
    plain = [Mapped(net(0, 4), ONTO, order).identity() for order in (ONTO, ONTO[::-1])]
    assert plain[0] != plain[1]
