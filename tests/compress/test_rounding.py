from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limbeck.compress import quantization_aware
from limbeck.compress.rounding import ActivationRange, RoundedRows, RoundedWeight


def grid(values: Tensor, low: float, high: float) -> Tensor:
    """Each value by itself on a grid of 256 points from low to high, in which 0 is exact."""
    step = (max(high, 0.0) - min(low, 0.0)) / 255
    zero = round(-min(low, 0.0) / step)
    whole = [min(max(round(float(each) / step) + zero, 0), 255) for each in values.flatten()]
    return (torch.tensor(whole, dtype=torch.float64) - zero).mul(step).view(values.shape).float()


def rows_on_grid(weight: Tensor) -> Tensor:
    """Each row on a grid of 255 points that ends at its largest value."""
    rows = []
    for row in weight.detach().flatten(1):
        step = max(abs(float(each)) for each in row) / 127
        rows.append([round(float(each) / step) * step for each in row])
    return torch.tensor(rows).view(weight.shape)


def test_a_small_network_is_what_it_is_by_hand() -> None:
    """A weight's scale of another dimension, or an activation that is rounded in the wrong place."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 4))
    inputs = torch.randn(5, 2, 4, 4)
    aware = quantization_aware(layers, {"inputs": inputs}, calibration=[{"inputs": inputs[:3]}, {"inputs": inputs[3:]}])
    convolution, _, _, linear = layers
    read = grid(inputs, float(inputs.min()), float(inputs.max()))
    weight = rows_on_grid(convolution.weight)
    hidden = torch.zeros(5, 3, 4, 4)
    padded = nn.functional.pad(read, [1] * 4)
    for sample in range(5):
        for channel in range(3):
            for row in range(4):
                for column in range(4):
                    window = padded[sample, :, row : row + 3, column : column + 3]
                    hidden[sample, channel, row, column] = (window * weight[channel]).sum() + convolution.bias[channel]
    hidden = hidden.clamp(min=0)
    with torch.no_grad():
        # What calibration sees is made with rounded weights, of inputs that are not rounded yet.
        seen = nn.functional.conv2d(inputs, weight, convolution.bias, padding=1)
        expected = grid(hidden, 0.0, float(seen.max())).flatten(1) @ rows_on_grid(linear.weight).T + linear.bias
        got, plain = aware(inputs)["logits"], layers(inputs)
    assert torch.allclose(got, expected, atol=1e-5)
    assert not torch.allclose(got, plain, atol=1e-4)


def test_gradients_are_those_of_torch_and_pass_straight_through() -> None:
    """torch's own learnable rounding has a gradient for the scale; ours is for its logarithm."""
    torch.manual_seed(1)
    values = (torch.randn(64, 10) * 2).requires_grad_()
    ours = ActivationRange("x")
    ours.smallest, ours.largest = torch.tensor(-1.0), torch.tensor(3.0)
    ours.settle()
    weights = torch.randn(64, 10)
    (ours(values) * weights).sum().backward()
    theirs = values.detach().clone().requires_grad_()
    scale = ours.scale.reshape(1).clone().requires_grad_()
    factor = 1 / (values.numel() * 255) ** 0.5
    made = torch._fake_quantize_learnable_per_tensor_affine(
        theirs, scale, ours.zero_point.float().reshape(1), 0, 255, factor
    )
    (made * weights).sum().backward()
    assert torch.allclose(ours(values), made)
    assert torch.allclose(values.grad, theirs.grad)
    assert ours.log_factor.grad == pytest.approx(float((scale.grad * scale).detach()), rel=1e-3)
    step, zero = float(ours.scale), int(ours.zero_point)
    inside = (values > (-zero - 0.5) * step) & (values < (255 - zero + 0.5) * step)
    assert torch.equal(values.grad, weights * inside)
    assert 0 < int(inside.sum()) < inside.numel()

    weight = torch.randn(4, 6, requires_grad=True)
    (RoundedWeight(0)(weight) * weights[:4, :6]).sum().backward()
    assert torch.equal(weight.grad, weights[:4, :6])
    rows = torch.randn(2, 3, 8)
    assert torch.allclose(RoundedRows()(rows), rows_on_grid(rows.view(6, 8)).view(2, 3, 8), atol=1e-6)


def test_nothing_is_a_range_too() -> None:
    """A ReLU that is never on, and a channel without weights."""
    dead = ActivationRange("x")
    dead(torch.zeros(3))
    dead.settle()
    assert torch.equal(dead(torch.zeros(3)), torch.zeros(3))
    assert torch.equal(RoundedWeight(0)(torch.zeros(2, 3)), torch.zeros(2, 3))
