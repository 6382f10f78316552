"""Channels-last memory: the same values and gradients, and a way back where a model cannot have it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from limbeck import Distiller, Live, Term
from limbeck.losses import KD, FeatureMSE, Supervised
from limbeck.models.cifar import CifarResNet
from limbeck.models.layout import channels_last_batch, channels_last_model
from limbeck.shortcuts import SHORTCUTS


def small() -> nn.Module:
    return CifarResNet(depth=8, widths=(16, 16, 16, 16), num_classes=5).double()


def batch() -> dict[str, Tensor]:
    return {"inputs": torch.randn(4, 3, 8, 8, dtype=torch.float64), "labels": torch.tensor([0, 4, -1, 2])}


def step(student: nn.Module, teacher: nn.Module, given: dict[str, Tensor], shortcuts: frozenset[str]) -> list[Tensor]:
    terms = [Term(Supervised(), 0.1), Term(KD(4.0), 0.9), Term(FeatureMSE(), student="layer2", teacher="layer2")]
    distiller = Distiller(student, Live(teacher, shortcuts=shortcuts), terms, shortcuts=shortcuts).train()
    output = distiller(given)
    output.loss.backward()
    gradients = [parameter.grad for parameter in student.parameters()]
    return [output.loss.detach(), *(each for each in gradients if each is not None)]


def test_a_model_that_would_crash_stays_as_it_is() -> None:
    """torch's backward pass ends the process for strided 1×1 convolutions of few channels on channels-last memory."""
    narrow = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1, stride=2))
    assert not channels_last_model(narrow)
    assert narrow[0].weight.is_contiguous()
    assert channels_last_model(nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1, stride=2)))


def test_values_and_gradients_do_not_change() -> None:
    """A shortcut that trains another model."""
    torch.manual_seed(0)
    student, teacher, given = small(), small(), batch()
    plain = step(copy.deepcopy(student), copy.deepcopy(teacher), given, frozenset())
    for shortcuts in ({"channels-last"}, {"fold-batchnorm"}, SHORTCUTS):
        fast = step(copy.deepcopy(student), copy.deepcopy(teacher), given, frozenset(shortcuts))
        assert len(fast) == len(plain)
        for mine, expected in zip(fast, plain, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


def test_convolutions_run_channels_last() -> None:
    """A shortcut that is said to be taken and is not."""
    student = small()
    distiller = Distiller(student)
    seen: list[Tensor] = []
    student.get_submodule("layer2").register_forward_hook(lambda _module, _args, output: seen.append(output))
    distiller(batch())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    Distiller(plain := small(), shortcuts=SHORTCUTS - {"channels-last"})
    assert plain.get_submodule("layer2.0.conv1").weight.is_contiguous()


class Viewed(nn.Module):
    """A model of many tutorials: `.view` where `.flatten` would do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4 * 6 * 6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv(inputs).relu()
        logits: Tensor = self.linear(hidden.view(hidden.size(0), -1))
        return logits


def test_a_model_that_calls_view_goes_back() -> None:
    """ "view size is not compatible with input tensor's size and stride" in the first step, from right code."""
    student, teacher = Viewed().double(), Viewed().double()
    given = batch()
    expected = student(given["inputs"]).detach()
    distiller = Distiller(student, teacher)
    for _ in range(2):
        output = distiller(given)
        torch.testing.assert_close(output.logits, expected)
    assert student.conv.weight.is_contiguous()


def test_other_errors_pass() -> None:
    """A model's own RuntimeError that is swallowed, and its forward run twice."""
    runs = []

    class Fails(Viewed):
        def forward(self, inputs: Tensor) -> Tensor:
            runs.append(1)
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        Distiller(Fails().double())(batch())
    assert len(runs) == 1


def test_what_is_not_a_picture_stays() -> None:
    """Vectors and texts copied for nothing."""
    assert not channels_last_model(nn.Linear(3, 2))
    for inputs in (torch.randn(4, 3), torch.randn(4, 3, 5)):
        given = {"inputs": inputs}
        assert channels_last_batch(given) is given
