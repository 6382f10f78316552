"""A frozen teacher's BatchNorm, folded: the same answers, or not folded at all."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from limbeck import Live
from limbeck.models.cifar import CifarResNet
from limbeck.teachers.folding import FoldedModel


def randomised(model: nn.Module) -> nn.Module:
    """The model in float64 and eval mode, with statistics that a wrong fold cannot survive."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 3.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.double().eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


class Branches(nn.Module):
    """A convolution whose output is used beside its norm, one that runs twice, and one that can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.seen_norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.twice, self.twice_norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.once, self.once_norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.seen(inputs)
        hidden = self.seen_norm(first) + first
        hidden = self.twice_norm(self.twice(self.twice(hidden)))
        hidden = self.once_norm(self.once(hidden))
        return hidden.mean((2, 3))


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: CifarResNet(depth=8, widths=(4, 4, 8, 8), num_classes=5), 0),
        (lambda: timm.create_model("resnet18.a1_in1k", num_classes=5), 0),
        (lambda: timm.create_model("mobilenetv3_small_050", num_classes=5), 0),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7), nn.BatchNorm1d(7), nn.ReLU()), 0),
        (Branches, 2),
        # A norm before its convolution cannot be folded into the one after it.
        (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()), 1),
    ],
    ids=["resnet8", "timm-resnet18", "timm-mobilenet", "linear", "branches", "norm-first"],
)
def test_answers_do_not_change(make: type[nn.Module], left: int) -> None:
    """A fold with a wrong sign, without ε, over a layer that something else reads, or one that folds nothing."""
    torch.manual_seed(0)
    model = randomised(make())
    before = copy.deepcopy(model.state_dict())
    inputs = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = model(inputs).detach()
    folded = FoldedModel(model, {"inputs": inputs}, ())
    if left == norms(model):
        assert folded.model is None
    else:
        assert folded.model is not None
        assert norms(folded.model) == left
        other = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(folded.model(other), model(other), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model(inputs), expected, rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_taps_give_what_they_gave() -> None:
    """A tapped convolution that gives its folded output, or a tapped norm that gives nothing."""
    torch.manual_seed(0)
    model = randomised(CifarResNet(depth=8, widths=(4, 4, 8, 8), num_classes=5))
    names = {"conv1", "bn1", "layer1.0.bn2", "layer2"}
    plain, folded = Live(model, shortcuts=()), Live(model)
    plain.require(names)
    folded.require(names)
    batch = {"inputs": torch.randn(2, 3, 32, 32, dtype=torch.float64)}
    expected, given = plain(batch), folded(batch)
    assert set(given) == set(expected)
    for name in expected:
        torch.testing.assert_close(given[name], expected[name], rtol=1e-9, atol=1e-9)


def test_a_teacher_loaded_again_is_folded_again() -> None:
    """Answers of the weights that the teacher had an hour ago."""
    torch.manual_seed(0)
    model, other = (randomised(CifarResNet(depth=8, widths=(4, 4, 8, 8), num_classes=5)) for _ in range(2))
    teacher = Live(model)
    batch = {"inputs": torch.randn(2, 3, 32, 32, dtype=torch.float64)}
    teacher(batch)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(teacher(batch)["logits"], other(batch["inputs"]), rtol=1e-9, atol=1e-9)


def test_a_copy_shares_what_was_not_folded() -> None:
    """Twice the memory for every teacher."""
    model = randomised(CifarResNet(depth=8, widths=(4, 4, 8, 8), num_classes=5))
    folded = FoldedModel(model, {"inputs": torch.randn(2, 3, 32, 32, dtype=torch.float64)}, ()).model
    assert folded is not None
    assert folded.get_submodule("fc").weight is model.get_submodule("fc").weight
