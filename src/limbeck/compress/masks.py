"""Unstructured magnitude pruning, a baseline that is neither faster nor smaller: the weights are zeros, and stay."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import prune as torch_prune

from limbeck.errors import LimbeckError
from limbeck.models import unwrapped


def zero_smallest(model: nn.Module, ratio: float) -> nn.Module:
    """A copy of `model` with the share `ratio` of the weights of convolutions and linear layers, the smallest, at zero.

    It takes as long and as many bytes as before: processors multiply by zero as by any number. Training it moves the
    zeros again; this is for comparing what removing weights costs in accuracy.

    Raises:
        LimbeckError: ratio is not above 0 and below 1, or there is no such layer.
    """
    if not 0 < ratio < 1:
        raise LimbeckError(f"zero_smallest: expected a ratio above 0 and below 1, got {ratio}")
    changed = copy.deepcopy(unwrapped(model))
    layers = [each for each in changed.modules() if isinstance(each, (nn.modules.conv._ConvNd, nn.Linear))]
    if not layers:
        raise LimbeckError(f"zero_smallest: {type(changed).__name__} has no convolution or linear layer")
    torch_prune.global_unstructured(
        [(each, "weight") for each in layers], pruning_method=torch_prune.L1Unstructured, amount=ratio
    )
    for each in layers:
        torch_prune.remove(each, "weight")
    return changed
