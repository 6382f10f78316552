"""Terms as one node: the values and gradients of the separate ones."""

from __future__ import annotations

import pytest
import torch

from limbeck import Term
from limbeck.errors import LimbeckError
from limbeck.losses import DKD, KD, GeneralizedJSD, ReverseKL, Supervised
from limbeck.losses.together import JointTerm, joint_losses, serves_joint
from limbeck.objective import Objective
from limbeck.types import Signal


@pytest.mark.parametrize("classes", [3, 100])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("others", [[KD(4.0)], [KD(1.0), ReverseKL(2.0), GeneralizedJSD(3.0, 0.3)], [KD(2.0), DKD()]])
def test_equal_to_the_separate_terms(classes: int, counted: bool, others: list[torch.nn.Module]) -> None:
    """A weight, a temperature, an unlabelled item or a denominator that counts otherwise."""
    torch.manual_seed(0)
    terms = [Term(Supervised(), 0.3), *(Term(loss, 0.5) for loss in others)]  # type: ignore[arg-type]
    logits = torch.randn(9, classes, dtype=torch.float64)
    teacher = Signal({"logits": torch.randn(9, classes, dtype=torch.float64)})
    for labels in (torch.randint(0, classes, (9,)), torch.tensor([-1, 1, 2, -1, 0, 0, 1, -1, 2]), torch.full((9,), -1)):
        counts = torch.arange(4.0, 4.0 + len(terms), dtype=torch.float64) if counted else None
        found = []
        for joint in (True, False):
            leaf = logits.clone().requires_grad_()
            total, means = Objective(terms, joint=joint)(Signal({"logits": leaf}), teacher, labels, counts)
            (3 * total).backward()
            found.append([total.detach(), *means.values(), leaf.grad])
        assert len(found[0]) == len(terms) + 2
        for mine, expected in zip(*found, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


def test_what_is_not_served_is_left_to_others() -> None:
    """Class weights or smoothing that are silently dropped."""
    labels = torch.tensor([0, 1])
    assert serves_joint(Supervised(), labels)
    assert not serves_joint(Supervised(0.1), labels)
    assert not serves_joint(Supervised(class_weights=[1.0, 2.0]), labels)
    assert not serves_joint(Supervised(), torch.eye(2))
    assert not serves_joint(DKD(), torch.eye(2))
    with pytest.raises(LimbeckError, match="the student gives shape"):
        joint_losses(torch.randn(2, 3), [JointTerm(KD(1.0), 1.0, torch.randn(2, 4))])
    leaf = torch.randn(2, 3, requires_grad=True)
    total, _ = joint_losses(leaf, [JointTerm(KD(1.0), 1.0, torch.randn(2, 3))])
    with pytest.raises(LimbeckError, match="second derivative"):
        torch.autograd.grad(total, leaf, create_graph=True)
