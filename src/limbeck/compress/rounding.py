"""What int8 does to numbers, in training: weights and activations rounded to the values that the file will hold.

Gradients pass straight through the rounding, and are none where a value lies outside the range (Jacob et al. 2018,
arXiv:1712.05877). The width of an activation's range is learned (Esser et al. 2020, arXiv:1902.08153), as a factor to
what calibration found.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError

LEVELS = 255
"""The largest activation as an integer: 0 to 255."""
LARGEST = 127
"""The largest weight as an integer: −127 to 127, so that 0 is in the middle."""
SMALLEST = torch.finfo(torch.float32).tiny * 2**20
"""The smallest scale, of weights that are all zero."""


class _Rounded(torch.autograd.Function):
    """x (…), θ () to round(x / s) · s within the range, where s = scale · exp(θ)."""

    @staticmethod
    def forward(context: Any, values: Tensor, log_factor: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        step = scale * log_factor.exp()
        on = torch.ones(1, dtype=torch.int32, device=values.device)
        rounded, inside = torch.ops.aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
            values, step.reshape(1), zero_point.reshape(1), on, 0, LEVELS
        )
        context.save_for_backward(values, rounded, inside)
        given: Tensor = rounded
        return given

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        values, rounded, inside = context.saved_tensors
        (gradient,) = gradients
        # ∂y/∂θ = s ∂y/∂s: y − x where x is inside the range, and y, a multiple of s, where it is clipped.
        moved = torch.where(inside, rounded - values, rounded)
        width = (gradient * moved).sum() / (values.numel() * LEVELS) ** 0.5
        return gradient * inside, width, None, None


class ActivationRange(nn.Module):
    """An activation as unsigned integers of eight bits would hold it: (…) to (…) of the same shape.

    Raises:
        LimbeckError: from `settle`, where calibration saw nothing, or numbers that are not finite.
    """

    smallest: Tensor
    largest: Tensor
    calibrated: Tensor
    zero_point: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.observes = True
        self.log_factor = nn.Parameter(torch.zeros(()))
        self.register_buffer("smallest", torch.zeros(()), persistent=False)
        self.register_buffer("largest", torch.zeros(()), persistent=False)
        self.register_buffer("calibrated", torch.zeros(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))

    @property
    def scale(self) -> Tensor:
        """The distance between neighbouring values, ()."""
        return self.calibrated * self.log_factor.detach().exp()

    def forward(self, values: Tensor) -> Tensor:
        """The values rounded and clipped; as they are while calibration watches."""
        if self.observes:
            # Zero is among the values: padding has to be exact.
            self.smallest = torch.minimum(self.smallest, values.detach().amin().float())
            self.largest = torch.maximum(self.largest, values.detach().amax().float())
            return values
        rounded: Tensor = _Rounded.apply(values.float(), self.log_factor, self.calibrated, self.zero_point)
        return rounded

    def settle(self) -> None:
        """Ends calibration: the range is what was seen."""
        width = self.largest - self.smallest
        if not bool(width.isfinite()):
            raise LimbeckError(
                f"quantization_aware: {self.name} gives numbers that are not finite for the calibration batches; give "
                "a trained student, and inputs prepared as for training"
            )
        scale = (width / LEVELS).clamp(min=1e-12)
        self.calibrated.copy_(scale)
        self.zero_point.copy_((-self.smallest / scale).round().clamp(0, LEVELS).to(torch.int32))
        self.observes = False


class RoundedWeight(nn.Module):
    """A weight as signed integers of eight bits would hold it, with a scale for each place of the dimension `axis`."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        """The weight rounded, of the same shape."""
        scales = scales_of(weight, self.axis)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight.float(), scales, zeros, self.axis, -LARGEST, LARGEST)


class RoundedRows(nn.Module):
    """Rows of a table of embeddings, (…, width), each rounded with a scale of its own."""

    def forward(self, rows: Tensor) -> Tensor:
        """The rows rounded, of the same shape."""
        flat = rows.float().flatten(0, -2)
        scales = scales_of(flat, 0)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(flat, scales, zeros, 0, -LARGEST, LARGEST).view(rows.shape)


def scales_of(weight: Tensor, axis: int) -> Tensor:
    """The scale of each place of the dimension `axis`, (places,), by which its largest weight is ±127."""
    others = [place for place in range(weight.dim()) if place != axis % weight.dim()]
    return (weight.detach().float().abs().amax(others) / LARGEST).clamp(min=SMALLEST)
