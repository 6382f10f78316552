"""The one abstract level of the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

LossInput = Literal["teacher", "labels", "where"]


class Loss(nn.Module):
    """A loss between the student's signal and what `inputs` names, one value an item; it never reduces.

    `forward(student, *inputs)` receives the named inputs in the order given: `teacher` is the teacher's
    signal (never with gradient), `labels` the batch's labels (or None), `where` a boolean mask (or None) for
    losses that couple items of a batch and so must not see the masked ones. It gives values of shape (batch,)
    or (batch, …), one an item; the objective masks, averages and weights what comes back.

    Attributes:
        name: what recipes and logs call the loss; one of `METHODS`.
        inputs: what `forward` receives after the student's signal; a wrapper has those of what it wraps.
        targets: the forms in which it can take the teacher's logits: dense (Tensor), LinearHead, TopK, Sampled.
        skips_unlabelled: whether an item without a label counts for nothing, rather than as a value of 0.
    """

    name: str
    inputs: tuple[LossInput, ...] = ("teacher",)
    targets: tuple[type, ...] = (Tensor,)
    skips_unlabelled: bool = False
    forward: Callable[..., Tensor]
