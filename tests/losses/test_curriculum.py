"""Temperatures that are learned against the student, and annealed ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck import Distiller, Term
from limbeck.errors import LimbeckError
from limbeck.losses import CTKD, AnnealedKD, Supervised, ctkd, kd
from limbeck.types import TopK

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64) * 2


def plain(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """T² · KL by torch's own function, (batch,)."""
    t = temperature.unsqueeze(-1)
    divergence = F.kl_div(F.log_softmax(student / t, -1), F.log_softmax(teacher / t, -1), log_target=True,
                          reduction="none")  # fmt: skip
    return temperature.square() * divergence.sum(-1)


@pytest.mark.parametrize("temperature", [torch.tensor(4.0), torch.linspace(1.0, 9.0, 6)])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_temperatures_gradient_is_reversed_and_the_students_is_not(temperature: Tensor, strength: float) -> None:
    """A temperature that learns to make the task easy; a student that learns to make it hard."""
    temperature = temperature.double()
    mine, expected = ((STUDENT.clone().requires_grad_(), temperature.clone().requires_grad_()) for _ in range(2))
    values = ctkd(mine[0], TEACHER, mine[1], strength=strength)
    reference = plain(expected[0], TEACHER, expected[1].expand(6))
    torch.testing.assert_close(values, reference)
    values.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(mine[0].grad, expected[0].grad)
    assert expected[1].grad is not None
    torch.testing.assert_close(mine[1].grad, -strength * expected[1].grad)


def test_an_excluded_class_leaves_the_temperatures_gradient_finite() -> None:
    """0 · inf from the slope of −inf / T, which spoils the temperature for good."""
    score = CTKD()
    score.progress(10.0, 0.1)
    wide = [torch.cat([logits, logits.new_full((6, 2), -torch.inf)], -1) for logits in (STUDENT, TEACHER)]
    score(*wide).sum().backward()
    narrow = CTKD()
    narrow.progress(10.0, 0.1)
    narrow(STUDENT, TEACHER).sum().backward()
    assert score.score is not None
    assert narrow.score is not None
    torch.testing.assert_close(score.score.grad, narrow.score.grad)


def test_lambda_rises_by_a_cosine_and_stays() -> None:
    """A curriculum that begins at its end, or starts again after ten epochs."""
    loss = CTKD(epochs=10)
    assert loss.strength == 0.0
    expected = {0.0: 0.0, 5.0: 0.5, 10.0: 1.0, 50.0: 1.0, 2.5: 0.5 - 0.5 * math.cos(math.pi / 4)}
    for epoch, strength in expected.items():
        loss.progress(epoch, epoch / 100)
        assert loss.strength == pytest.approx(strength)
    at_once = CTKD(epochs=0)
    at_once.progress(0.0, 0.0)
    assert at_once.strength == 1.0


def test_the_temperature_starts_where_the_authors_does_and_stays_in_its_range() -> None:
    """T = start + span · σ(1); a score that runs away must not take the temperature with it."""
    loss = CTKD()
    assert loss.temperature(STUDENT, TEACHER).item() == pytest.approx(1 + 20 / (1 + math.exp(-1)), rel=1e-6)
    assert loss.score is not None
    for score, temperature in ((1e4, 21.0), (-1e4, 1.0)):
        loss.score.data.fill_(score)
        assert loss.temperature(STUDENT, TEACHER).item() == pytest.approx(temperature)


def test_an_optimizer_moves_the_temperature_to_where_the_loss_is_larger() -> None:
    """A sign lost between the layer and the optimizer."""
    loss = CTKD()
    loss.progress(10.0, 1.0)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.05)
    before = loss(STUDENT, TEACHER).mean().item()
    for _ in range(20):
        optimizer.zero_grad()
        loss(STUDENT, TEACHER).mean().backward()
        optimizer.step()
    assert loss(STUDENT, TEACHER).mean().item() > before


def instance_wise() -> CTKD:
    torch.manual_seed(0)
    loss = CTKD(instance=True, hidden=7)
    loss.build(STUDENT, None)
    return loss


def test_instance_wise_temperatures_are_those_of_the_layers() -> None:
    """Student and teacher swapped, a gradient of the student through its own temperature, layers that do not learn."""
    loss = instance_wise().double()
    loss.progress(20.0, 0.5)
    assert loss.layers is not None
    first, last = loss.layers[0], loss.layers[2]
    hidden = F.relu(F.linear(torch.cat([TEACHER, STUDENT], 1), first.weight, first.bias))  # type: ignore[arg-type]
    temperature = 1.0 + 20.0 * torch.sigmoid(F.linear(hidden, last.weight, last.bias).squeeze(1))  # type: ignore[arg-type]
    assert len(temperature.detach().unique()) == 6
    student, other = STUDENT.clone().requires_grad_(), STUDENT.clone().requires_grad_()
    values, expected = loss(student, TEACHER), plain(other, TEACHER, temperature)
    torch.testing.assert_close(values, expected)
    parameters = list(loss.parameters())
    mine = torch.autograd.grad(values.sum(), [student, *parameters])
    theirs = torch.autograd.grad(expected.sum(), [other, *parameters])
    torch.testing.assert_close(mine[0], theirs[0])
    for own, reference in zip(mine[1:], theirs[1:], strict=True):
        torch.testing.assert_close(own, -reference)


def test_instance_wise_layers_take_what_logits_come() -> None:
    """A half-precision or excluded logit that the layers choke on."""
    loss = instance_wise()
    half = loss(STUDENT.bfloat16(), TEACHER.bfloat16())
    assert half.dtype is torch.float32
    assert loss(STUDENT, TEACHER).dtype is torch.float64
    excluded = STUDENT.clone()
    excluded[:, 0] = -torch.inf
    assert bool(loss(excluded, excluded + 1.0).isfinite().all())
    assert bool(loss(STUDENT * 1e4, TEACHER * 1e4).isfinite().all())
    with pytest.raises(LimbeckError, match="CTKD: give the Distiller example=batch"):
        CTKD(instance=True)(STUDENT, TEACHER)


@pytest.mark.parametrize("instance", [False, True])
def test_the_temperature_is_saved_and_trained_with_the_student(instance: bool) -> None:
    """A temperature that starts anew after a resume, or that the optimizer never sees."""

    def distiller(seed: int) -> Distiller:
        torch.manual_seed(seed)
        batch = {"inputs": torch.randn(4, 3), "labels": torch.tensor([0, 1, 2, -1])}
        term = Term(CTKD(instance=instance))
        return Distiller(nn.Linear(3, 5), nn.Linear(3, 5), [term], example=batch)

    one, other = distiller(0), distiller(1)
    names = {name for name, _ in one.objective.named_parameters()}
    assert names == ({f"losses.0.layers.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")} if instance
                     else {"losses.0.score"})  # fmt: skip
    one.progress(3.0, 0.3)
    one({"inputs": torch.randn(4, 3), "labels": torch.tensor([0, 1, 2, -1])}).loss.backward()
    assert all(parameter.grad is not None for parameter in one.objective.parameters())
    torch.nn.init.normal_(next(one.objective.parameters()))
    other.load_state_dict(one.state_dict())
    other.progress(3.0, 0.3)
    mine, theirs = one.objective.losses[0], other.objective.losses[0]
    torch.testing.assert_close(mine(STUDENT, TEACHER), theirs(STUDENT, TEACHER), rtol=0, atol=0)


def test_annealed_kd_is_kd_at_the_temperature_of_the_moment() -> None:
    """A temperature that is read once, or T² of the start."""
    loss = AnnealedKD(start=9.0, end=1.0)
    for share, temperature in ((0.0, 9.0), (0.25, 7.0), (1.0, 1.0), (1.5, 1.0)):
        loss.progress(share * 40, share)
        assert torch.equal(loss(STUDENT, TEACHER), kd(STUDENT, TEACHER, temperature=temperature))


def test_annealed_kd_among_joint_terms_follows_its_progress() -> None:
    """A shortcut that keeps the temperature of the first step."""
    torch.manual_seed(0)
    batch = {"inputs": torch.randn(4, 3), "labels": torch.tensor([0, 1, 2, 1])}
    student, teacher = nn.Linear(3, 5), nn.Linear(3, 5)
    for shortcuts in ((), ("joint-loss",)):
        distiller = Distiller(student, teacher, [Term(Supervised()), Term(AnnealedKD(8.0, 2.0))], shortcuts=shortcuts)
        distiller.progress(5.0, 0.5)
        expected = kd(student(batch["inputs"]), teacher(batch["inputs"]), temperature=5.0).mean()
        torch.testing.assert_close(distiller(batch).terms["annealed-kd"], expected.detach())


def test_a_stored_softened_answer_is_no_target_of_an_annealed_loss() -> None:
    """An answer stored at temperature 4, taken for one of temperature 2.7."""
    assert TopK not in AnnealedKD().targets


def test_settings_out_of_range_are_named() -> None:
    """A temperature of 0 or below."""
    with pytest.raises(LimbeckError, match="CTKD start"):
        CTKD(start=0.0)
    with pytest.raises(LimbeckError, match="CTKD epochs"):
        CTKD(epochs=-1.0)
    with pytest.raises(LimbeckError, match="AnnealedKD end"):
        AnnealedKD(end=0.0)
    with pytest.raises(LimbeckError, match="ctkd strength"):
        ctkd(STUDENT, TEACHER, torch.tensor(2.0), strength=-1.0)
