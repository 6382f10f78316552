"""What a channel, a head or an inner unit is worth: the smallest go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models.forward import evaluating
from limbeck.types import Batch

Criterion = Literal["magnitude", "taylor", "bn-scale", "random"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

LossOf = Callable[[nn.Module, Batch], Tensor]
"""From a model and a batch to the loss, a scalar: what the model is trained for."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Gives the worth of rows or columns of a weight.

    `gradients` are those of the loss by the names of parameters, which `taylor` needs; `generator` is what `random`
    draws from.
    """

    by: Criterion
    gradients: Mapping[str, Tensor]
    generator: torch.Generator

    def slices(self, name: str, weight: Tensor, dim: int) -> Tensor:
        """The worth of each slice of the parameter `name` along `dim`, (slices,) float64 on the CPU.

        `magnitude`: the squared L2 norm, over the mean of all, so that layers can be compared. `taylor`: the square of
        the summed products of gradient and weight, about how much the squared loss changes without the slice.
        """
        if self.by == "random":
            return torch.rand(weight.shape[dim], generator=self.generator, dtype=torch.float64)
        rows = weight.detach().double().movedim(dim, 0).flatten(1)
        if self.by == "taylor":
            return (rows * self.gradients[name].double().movedim(dim, 0).flatten(1)).sum(1).square().cpu()
        squares = rows.square().sum(1)
        return (squares / squares.mean().clamp(min=torch.finfo(torch.float64).tiny)).cpu()


def gradients_of(model: nn.Module, loss: LossOf | None, batches: Iterable[Batch] | None) -> dict[str, Tensor]:
    """The gradients of `loss` by parameter name, summed over `batches`; the model runs in evaluation mode.

    Raises:
        LimbeckError: loss or batches are missing or empty, or the loss is no finite scalar.
    """
    if loss is None or batches is None:
        raise LimbeckError(
            "prune: by='taylor' asks how much the loss changes, so it needs one over real batches; give "
            "loss=(model, batch) -> scalar and batches=, or take by='magnitude'"
        )
    device = next(model.parameters()).device
    seen = 0
    with evaluating(model), torch.enable_grad():
        for batch in batches:
            value = loss(model, {name: tensor.to(device) for name, tensor in batch.items()})
            if value.dim() or not bool(value.isfinite()):
                raise LimbeckError(f"prune: expected a finite scalar from loss, got {value.detach()!r}")
            value.backward()
            seen += 1
    if not seen:
        raise LimbeckError("prune: batches has none in it; give some of the training data")
    return {
        name: torch.zeros_like(each) if each.grad is None else each.grad.detach().clone()
        for name, each in model.named_parameters(remove_duplicate=False)
    }


def known_criterion(by: str) -> Criterion:
    """`by` itself; an unknown one is an error that names the nearest."""
    for each in CRITERIA:
        if by == each:
            return each
    raise LimbeckError(f"prune: unknown criterion {by!r}{nearest(by, CRITERIA)}")
