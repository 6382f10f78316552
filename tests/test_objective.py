"""The objective: masks, means and weights are its, in one place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import KD, FeatureMSE, Supervised
from limbeck.objective import Objective, labelled
from limbeck.terms import Term
from limbeck.types import Signal


def signals(batch: int = 6, classes: int = 5) -> tuple[Signal, Signal, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(batch, classes, generator=generator, requires_grad=True)
    teacher = torch.randn(batch, classes, generator=generator)
    return Signal({"logits": student}), Signal({"logits": teacher}), torch.arange(batch) % classes


def test_the_sum_is_torchs_own() -> None:
    """Weights on the wrong term, or T² applied twice, would show here."""
    student, teacher, labels = signals()
    objective = Objective([Term(Supervised(), weight=0.1), Term(KD(temperature=4.0), weight=0.9)])
    loss, terms = objective(student, teacher, labels)
    hard = F.cross_entropy(student["logits"], labels)
    soft = 16 * F.kl_div(
        F.log_softmax(student["logits"] / 4, -1), F.softmax(teacher["logits"] / 4, -1), reduction="batchmean"
    )
    torch.testing.assert_close(loss, 0.1 * hard + 0.9 * soft)
    torch.testing.assert_close(terms["supervised"], hard.detach())
    torch.testing.assert_close(terms["kd"], soft.detach())


def test_unlabelled_samples_teach_but_do_not_supervise() -> None:
    """A label of -1 must leave the supervised mean over the others, and the distilling mean over all."""
    student, teacher, labels = signals()
    labels[:4] = -1
    _, terms = Objective([Term(Supervised()), Term(KD())])(student, teacher, labels)
    torch.testing.assert_close(terms["supervised"], F.cross_entropy(student["logits"][4:], labels[4:]).detach())
    _, everything = Objective([Term(KD())])(student, teacher, None)
    torch.testing.assert_close(terms["kd"], everything["kd"])


def test_nothing_labelled_is_zero_with_a_graph() -> None:
    """0/0 would make the weights NaN at the first batch without a label."""
    student, _, labels = signals()
    loss, _ = Objective([Term(Supervised())])(student, None, torch.full_like(labels, -1))
    loss.backward()
    assert loss.item() == 0
    assert student["logits"].grad is not None
    assert student["logits"].grad.abs().sum() == 0


def test_masked_items_are_as_if_deleted() -> None:
    """A mask that only zeroed values would still count the items in the mean."""
    student, teacher, _ = signals()
    mask = torch.tensor([True, False, True, True, False, True])
    masked = Signal(student.tensors, {"logits": mask})
    _, terms = Objective([Term(KD())])(masked, teacher, None)
    _, kept = Objective([Term(KD())])(
        Signal({"logits": student["logits"][mask]}), Signal({"logits": teacher["logits"][mask]}), None
    )
    torch.testing.assert_close(terms["kd"], kept["kd"])


def test_parts_with_shared_denominators_add_up() -> None:
    """Averaging two unequal halves separately would weight their labelled samples differently."""
    student, teacher, labels = signals()
    labels[:2] = -1
    objective = Objective([Term(Supervised(), weight=0.3), Term(KD(), weight=0.7)])
    whole, _ = objective(student, teacher, labels)
    total = objective.counts(labels[:3], 3) + objective.counts(labels[3:], 3)
    parts = [
        objective(
            Signal({"logits": student["logits"][at]}), Signal({"logits": teacher["logits"][at]}), labels[at], total
        )
        for at in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole)


def test_labelled_reads_several_labels_a_sample() -> None:
    """NaN or -1 in every entry is no label; one known entry is one."""
    nan = float("nan")
    targets = torch.tensor([[1.0, 0.0], [nan, nan], [-1.0, -1.0], [nan, 1.0]])
    assert labelled(targets).tolist() == [True, False, False, True]


def test_terms_of_one_loss_get_names_of_their_own() -> None:
    """Two terms under one name would overwrite each other in the logs."""
    objective = Objective([Term(KD(2.0)), Term(KD(4.0)), Term(FeatureMSE(), student="a", teacher="b", name="hint")])
    assert [term.name for term in objective.terms] == ["kd", "kd-2", "hint"]


def test_no_terms_is_an_error() -> None:
    with pytest.raises(LimbeckError, match="no terms"):
        Objective([])
