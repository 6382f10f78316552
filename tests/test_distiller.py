"""The Distiller in a loop of one's own, with taps and projectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import Distiller, LimbeckError, Term
from limbeck.losses import KD, FeatureMSE, Supervised
from limbeck.models import conv_student, conv_teacher

BATCH = {
    "inputs": torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    "labels": torch.tensor([0, 1, 2, -1]),
}
SIZE = (8, 8)


def hinted(student_tap: str = "layer2", teacher_tap: str = "layer2") -> list[Term]:
    return [Term(Supervised()), Term(FeatureMSE(), student=student_tap, teacher=teacher_tap, weight=10.0)]


def test_feature_term_equals_one_made_by_hand() -> None:
    """The tap must be that module's output in this very forward, through the projector."""
    student, teacher = conv_student(image_size=SIZE), conv_teacher(image_size=SIZE)
    distiller = Distiller(student, teacher, hinted(), example=BATCH).eval()
    output = distiller(BATCH)
    projector = distiller.objective.projectors["feature-mse"]
    mine = projector(student.layer2(student.layer1(BATCH["inputs"])))
    theirs = teacher.layer2(teacher.layer1(BATCH["inputs"]))
    torch.testing.assert_close(output.terms["feature-mse"], nn.functional.mse_loss(mine, theirs).detach())


def test_projectors_learn_with_the_student_and_hooks_do_not_stay() -> None:
    """A projector that is no parameter would stay random; a hook left behind would leak into other uses."""
    student, teacher = conv_student(image_size=SIZE), conv_teacher(image_size=SIZE)
    distiller = Distiller(student, teacher, hinted(), example=BATCH)
    distiller(BATCH).loss.backward()
    projector = distiller.objective.projectors["feature-mse"]
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in projector.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())


def test_an_own_loop_teaches() -> None:
    """The README's loop: the student must come nearer to its teacher."""
    torch.manual_seed(0)
    student, teacher = conv_student(image_size=SIZE), conv_teacher(image_size=SIZE)
    distiller = Distiller(student, teacher, [Term(KD(temperature=4.0))])
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        output = distiller(BATCH)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (hinted(student_tap="layer9"), "student has no module 'layer9' to tap; did you mean"),
        (hinted(teacher_tap="layr2"), "teacher has no module 'layr2' to tap; did you mean 'layer2'"),
    ],
)
def test_unknown_taps_fail_when_built(objective: list[Term], message: str) -> None:
    """Not at step 900."""
    with pytest.raises(LimbeckError, match=message):
        Distiller(conv_student(image_size=SIZE), conv_teacher(image_size=SIZE), objective)


def test_other_mistakes_fail_when_built() -> None:
    model = conv_student(image_size=SIZE)
    with pytest.raises(LimbeckError, match="there is none"):
        Distiller(model, None, [Term(KD())])
    with pytest.raises(LimbeckError, match="one object"):
        Distiller(model, model)
    odd = nn.Sequential(nn.Unflatten(2, (2, 4)), nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(LimbeckError, match="no projector leads"):
        Distiller(odd, conv_teacher(image_size=SIZE), hinted("0", "layer2"), example=BATCH)
    with pytest.raises(LimbeckError, match="must be equal"):
        Distiller(model, conv_teacher(image_size=SIZE, num_classes=7), [Term(KD())], example=BATCH)
