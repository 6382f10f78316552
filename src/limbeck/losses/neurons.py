"""A loss on which positions each neuron selects: neuron selectivity transfer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.losses.base import Loss, LossInput
from limbeck.losses.maps import over_same_positions, product
from limbeck.losses.numeric import precise


def nst(student: Tensor, teacher: Tensor, tokens: Tensor | None = None) -> Tensor:
    """The squared maximum mean discrepancy (MMD²) between the channels of both, under the kernel (x · y)².

    Each channel is one sample: its values at all positions, scaled to length 1. Channels may differ. Of two maps the
    larger is averaged down to the smaller's height and width.

    Args:
        student: maps (batch, channels, height, width) or tokens (batch, tokens, width).
        teacher: as the student, of any channels, and maps of any size; or one is a map, the other the tokens of a
            square image with at most a class token; never receives a gradient.
        tokens: (batch, tokens) boolean, True where a token counts; None where all do. Maps have none.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, or there is one position only.

    Huang and Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv:1707.01219,
    with the polynomial kernel of d = 2 and c = 0.
    """
    own, taught, _ = over_same_positions(precise(student), precise(teacher.detach()), tokens, "nst", several=True)
    own, taught = F.normalize(own, dim=2), F.normalize(taught, dim=2)
    mine, theirs, positions = own.shape[1], taught.shape[1], own.shape[2]
    if positions * (mine + theirs) < mine * mine + theirs * theirs + mine * theirs:
        # Σᵢⱼ (aᵢ · bⱼ)² = ⟨AᵀA, BᵀB⟩: with few positions the same number from smaller matrices.
        between = product(own.transpose(1, 2), own) / mine - product(taught.transpose(1, 2), taught) / theirs
        return between.square().sum((1, 2))
    return _kernel(own, own) + _kernel(taught, taught) - 2.0 * _kernel(own, taught)


class NST(Loss):
    """`nst`."""

    name = "nst"
    inputs: tuple[LossInput, ...] = ("teacher", "tokens")
    wants = "stages"
    aligned = False
    structured = True

    def forward(self, student: Tensor, teacher: Tensor, tokens: Tensor | None = None) -> Tensor:
        """(batch,) from maps (batch, channels, height, width) or tokens (batch, tokens, width)."""
        return nst(student, teacher, tokens)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """The mean of (x · y)² over all pairs of channels, (batch,)."""
    return product(first, second.transpose(1, 2)).square().mean((1, 2))
