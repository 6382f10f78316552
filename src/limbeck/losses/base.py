"""The one abstract level of the losses."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

LossInput = Literal["teacher", "labels", "where"]


class Loss(nn.Module):
    """A loss between the student's signal and what `inputs` names, one value an item; it never reduces.

    `forward(student, *inputs)` receives the named inputs in the order given: `teacher` is the teacher's signal
    (never with gradient), `labels` the batch's labels, `where` a boolean mask (or None) for losses that couple items
    of a batch and so must not see the masked ones. The objective masks, averages and weights what comes back.
    """

    inputs: ClassVar[tuple[LossInput, ...]] = ("teacher",)
    skips_unlabelled: ClassVar[bool] = False

    def forward(self, student: Tensor, *inputs: Tensor | None) -> Tensor:
        """Values of shape (batch,) or (batch, …): one an item, not reduced."""
        raise NotImplementedError
