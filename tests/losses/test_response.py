"""The divergences and the matching of logits, against torch's functions, hand numbers and known limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.losses import KD, GeneralizedJSD, ReverseKL, generalized_jsd, kd, logit_mse, reverse_kl

generator = torch.Generator().manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 6, 10, generator=generator, dtype=torch.float64) * 3


def log_softmaxes(temperature: float) -> tuple[Tensor, Tensor]:
    return F.log_softmax(STUDENT / temperature, -1), F.log_softmax(TEACHER / temperature, -1)


def test_kd_of_two_classes_by_hand() -> None:
    """p = (1/4, 3/4) against q = (1/2, 1/2): 1/4 · log 1/2 + 3/4 · log 3/2; T² times that for T · logits."""
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0.0, math.log(3)]]).double()
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kd(student, teacher, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)
    assert kd(5 * student, 5 * teacher, temperature=5.0).item() == pytest.approx(25 * expected, rel=1e-6)
    assert reverse_kl(student, teacher, temperature=1.0).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_torchs_kl_div(temperature: float) -> None:
    """The two arguments of F.kl_div swapped, or T² missing."""
    log_q, log_p = log_softmaxes(temperature)
    forward = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1) * temperature**2
    torch.testing.assert_close(kd(STUDENT, TEACHER, temperature=temperature), forward)
    backward = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1) * temperature**2
    torch.testing.assert_close(reverse_kl(STUDENT, TEACHER, temperature=temperature), backward)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_are_those_of_autograd(beta: float, temperature: float) -> None:
    """The gradient in closed form drifting from what autograd makes of torch's own functions."""
    ours = STUDENT.clone().requires_grad_()
    upstream = torch.linspace(-1, 1, 6, dtype=torch.float64)
    generalized_jsd(ours, TEACHER, temperature=temperature, beta=beta).mul(upstream).sum().backward()
    theirs = STUDENT.clone().requires_grad_()
    log_q, log_p = F.log_softmax(theirs / temperature, -1), F.log_softmax(TEACHER / temperature, -1)
    if beta == 0.0:
        log_m, weights = log_q, (1.0, 0.0)
    elif beta == 1.0:
        log_m, weights = log_p, (0.0, 1.0)
    else:
        log_m, weights = (beta * log_p.exp() + (1 - beta) * log_q.exp()).log(), (beta, 1 - beta)
    divergence = weights[0] * log_p.exp() * (log_p - log_m) + weights[1] * log_q.exp() * (log_q - log_m)
    (divergence.sum(-1) * upstream).sum().mul(temperature**2).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_kd_is_one_node() -> None:
    """A chain of autograd nodes, which costs a small model more than its own backward pass."""
    student = STUDENT.clone().requires_grad_()
    node = kd(student, TEACHER, temperature=4.0).grad_fn
    assert node is not None
    (parent, _), *others = node.next_functions
    assert type(parent).__name__ == "AccumulateGrad"
    assert all(other is None for other, _ in others)


def test_a_second_derivative_is_refused() -> None:
    """A second derivative that is silently 0 because the gradient was a constant to autograd."""
    student = STUDENT.clone().requires_grad_()
    with pytest.raises(LimbeckError, match="no second derivative"):
        torch.autograd.grad(kd(student, TEACHER, temperature=4.0).sum(), student, create_graph=True)


def test_temperature_keeps_the_gradients_size() -> None:
    """T² missing or applied twice: the gradient would shrink or grow with T instead of settling."""

    def size(temperature: float) -> float:
        student = STUDENT.clone().requires_grad_()
        kd(student, TEACHER, temperature=temperature).sum().backward()
        assert student.grad is not None
        return student.grad.norm().item()

    assert size(1000.0) == pytest.approx(size(2000.0), rel=0.01)


def test_kd_at_high_temperature_is_half_the_squared_difference() -> None:
    """Hinton et al. 2015, section 2.1: matching logits of zero mean is a special case of distillation."""
    student = STUDENT - STUDENT.mean(-1, keepdim=True)
    teacher = TEACHER - TEACHER.mean(-1, keepdim=True)
    torch.testing.assert_close(
        kd(student, teacher, temperature=1e4), logit_mse(student, teacher) / 2, rtol=1e-3, atol=0
    )


def test_half_is_the_symmetric_divergence_of_lin() -> None:
    """A mixture weighted the wrong way: Jensen-Shannon is symmetric, and at most log 2."""
    forth = generalized_jsd(STUDENT, TEACHER, temperature=1.0)
    torch.testing.assert_close(forth, generalized_jsd(TEACHER, STUDENT, temperature=1.0))
    apart = torch.tensor([[1e4, -1e4]], dtype=torch.float64)
    assert generalized_jsd(apart, -apart, temperature=1.0).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_mixture_is_the_one_of_equation_1(beta: float) -> None:
    """β on the student's side of the mixture or of the sum; TRL and the paper have it on the teacher's."""
    log_q, log_p = log_softmaxes(1.0)
    log_m = (beta * log_p.exp() + (1 - beta) * log_q.exp()).log()
    expected = beta * F.kl_div(log_m, log_p, reduction="none", log_target=True).sum(-1)
    expected += (1 - beta) * F.kl_div(log_m, log_q, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(generalized_jsd(STUDENT, TEACHER, temperature=1.0, beta=beta), expected)


def test_ends_are_the_limits_of_the_direction() -> None:
    """The ends swapped: β = 0 must be forward KL, the limit of JSD(β)/β, and β = 1 reverse KL."""
    near = 1e-6
    forward, backward = kd(STUDENT, TEACHER, temperature=2.0), reverse_kl(STUDENT, TEACHER, temperature=2.0)
    at = generalized_jsd(STUDENT, TEACHER, temperature=2.0, beta=near) / near
    torch.testing.assert_close(at, forward, rtol=1e-2, atol=0)
    at = generalized_jsd(STUDENT, TEACHER, temperature=2.0, beta=1 - near) / near
    torch.testing.assert_close(at, backward, rtol=1e-2, atol=0)
    assert torch.equal(generalized_jsd(STUDENT, TEACHER, temperature=2.0, beta=0.0), forward)
    assert torch.equal(generalized_jsd(STUDENT, TEACHER, temperature=2.0, beta=1.0), backward)


def test_infinite_where_the_student_excludes_what_the_teacher_gives() -> None:
    """A divergence that hides a class the student can never give, or a NaN of the student, as 0."""
    teacher = torch.zeros(1, 3)
    assert kd(torch.tensor([[0.0, 0.0, -math.inf]]), teacher, temperature=1.0).item() == math.inf
    assert kd(torch.tensor([[0.0, 0.0, math.nan]]), teacher, temperature=1.0).isnan().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_out_of_range_is_named(temperature: float) -> None:
    """A temperature of 0 that divides by 0 at the first step, in place of an error when the loss is built."""
    for build in (KD, ReverseKL, GeneralizedJSD):
        with pytest.raises(LimbeckError, match="temperature: expected a positive number"):
            build(temperature=temperature)
    with pytest.raises(LimbeckError, match="kd temperature: expected a positive number"):
        kd(STUDENT, TEACHER, temperature=temperature)


def test_a_beta_out_of_range_is_named() -> None:
    """A mixture that is no distribution."""
    with pytest.raises(LimbeckError, match=r"beta: expected a number from 0 to 1, got 1\.5"):
        GeneralizedJSD(beta=1.5)
