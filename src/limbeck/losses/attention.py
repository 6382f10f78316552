"""A loss on where a network looks: attention transfer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.maps import over_same_positions
from limbeck.losses.numeric import precise


def at(student: Tensor, teacher: Tensor, tokens: Tensor | None = None, *, power: float = 2.0) -> Tensor:
    """The mean over positions of (Q_s / ‖Q_s‖ − Q_t / ‖Q_t‖)², with attention Q = mean over channels of |A|^power.

    Channels may differ. Of two maps the larger is averaged down to the smaller's height and width.

    Args:
        student: maps (batch, channels, height, width) or tokens (batch, tokens, width).
        teacher: as the student, of any channels, and maps of any size; or one is a map, the other the tokens of a
            square image with at most a class token; never receives a gradient.
        tokens: (batch, tokens) boolean, True where a token counts; None where all do. Maps have none.
        power: p ≥ 1.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, there is one position only, or `power` is below 1.

    Zagoruyko and Komodakis 2017, "Paying More Attention to Attention", arXiv:1612.03928, equation 2 with squares as
    in the authors' code.
    """
    at_least_one(power, "at power")
    own, taught, counted = over_same_positions(precise(student), precise(teacher.detach()), tokens, "at", several=True)
    squares = (_attention(own, power) - _attention(taught, power)).square()
    if counted is None:
        return squares.mean(1)
    return squares.sum(1) / counted.sum((1, 2)).clamp(min=1)


class AT(Loss):
    """`at` with its power."""

    name = "at"
    inputs: tuple[LossInput, ...] = ("teacher", "tokens")
    wants = "stages"
    aligned = False
    structured = True

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = at_least_one(power, "AT power")

    def forward(self, student: Tensor, teacher: Tensor, tokens: Tensor | None = None) -> Tensor:
        """(batch,) from maps (batch, channels, height, width) or tokens (batch, tokens, width)."""
        return at(student, teacher, tokens, power=self.power)


def at_least_one(power: float, what: str) -> float:
    """Gives `power` back; raises LimbeckError unless it is 1 or more."""
    if not 1.0 <= power < float("inf"):
        raise LimbeckError(f"{what}: expected a finite number of at least 1, got {power}")
    return power


def _attention(feature: Tensor, power: float) -> Tensor:
    """(batch, positions) of length 1 from (batch, channels, positions)."""
    powers = feature.square() if power == 2.0 else feature.abs().pow(power)
    return F.normalize(powers.mean(1), dim=1)
