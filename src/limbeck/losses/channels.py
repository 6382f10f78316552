"""A loss on where each channel is active: channel-wise distillation."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.losses.base import Loss, LossInput
from limbeck.losses.maps import over_same_positions, same_channels
from limbeck.losses.numeric import positive, precise


def cwd(student: Tensor, teacher: Tensor, tokens: Tensor | None = None, *, temperature: float = 4.0) -> Tensor:
    """T² times the mean over channels of KL(p ‖ q), with p and q the softmax over positions of the channel over T.

    p is the teacher's. Of two maps the larger is averaged down to the smaller's height and width.

    Args:
        student: maps (batch, channels, height, width) or tokens (batch, tokens, width).
        teacher: as the student, with the same channels; never receives a gradient.
        tokens: (batch, tokens) boolean, True where a token counts; None where all do. Maps have none.
        temperature: T > 0.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, there is one position only, or the temperature is not positive.

    Shu et al. 2021, "Channel-wise Knowledge Distillation for Dense Prediction", arXiv:2011.13256.
    """
    positive(temperature, "cwd temperature")
    own, taught, counted = over_same_positions(precise(student), precise(teacher.detach()), tokens, "cwd", several=True)
    same_channels(own.shape[1], taught.shape[1], "cwd")
    log_q, log_p = _log_shares(own, counted, temperature), _log_shares(taught, counted, temperature)
    return (log_p.exp() * (log_p - log_q)).sum(2).mean(1) * (temperature * temperature)


class CWD(Loss):
    """`cwd` with its temperature."""

    name = "cwd"
    inputs: tuple[LossInput, ...] = ("teacher", "tokens")
    wants = "last-stage"
    structured = True

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "CWD temperature")

    def forward(self, student: Tensor, teacher: Tensor, tokens: Tensor | None = None) -> Tensor:
        """(batch,) from maps (batch, channels, height, width) or tokens (batch, tokens, width)."""
        return cwd(student, teacher, tokens, temperature=self.temperature)


def _log_shares(feature: Tensor, counted: Tensor | None, temperature: float) -> Tensor:
    softened = feature / temperature
    if counted is not None:
        # Not −∞, which gives NaN in an item of which no token counts.
        softened = softened.masked_fill(~counted, torch.finfo(softened.dtype).min)
    return softened.log_softmax(2)
