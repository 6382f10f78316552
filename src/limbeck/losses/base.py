"""The one abstract level of the losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

LossInput = Literal["teacher", "labels", "where", "ids", "tokens", "batch"]

Wants = Literal["logits", "stages", "last-stage", "all-stages", "embedding", "attention", "values", "pyramid"]


class Loss(nn.Module):
    """A loss between the student's signal and what `inputs` names, one value an item; it never reduces.

    `forward(student, *inputs)` receives the named inputs in the order given: `teacher` is the teacher's
    signal (never with gradient), `labels` the batch's labels (or None), `where` a boolean mask (or None) for
    losses that couple items of a batch and so must not see the masked ones, `ids` the samples' ids (batch,) int64, and
    `tokens` which tokens of a text are there, (batch, length) boolean (or None), and `batch` the batch itself, for what
    has boxes or keypoints. It gives values of shape (batch,)
    or (batch, …), one an item; the objective masks, averages and weights what comes back. A loss that takes several
    signals together gets tuples of tensors for `student` and `teacher`.

    Attributes:
        name: what recipes and logs call the loss; one of `METHODS`.
        inputs: what `forward` receives after the student's signal; a wrapper has those of what it wraps.
        targets: the forms in which it can take the teacher's logits: dense (Tensor), LinearHead, TopK, Sampled.
        skips_unlabelled: whether an item without a label counts for nothing, rather than as a value of 0.
        wants: which signals it takes where a term names none: `logits`; `stages` (a term for each pair of stages),
            `last-stage`, `all-stages` (one term with a tuple of them); `embedding`, the vector before the head;
            `attention` and `values`, of transformers' last layer; `pyramid` (a term for each level of a detector's).
        student_signals, teacher_signals: what a term takes where it names none, of models that give more than logits.
        optional: signals that the teacher's are followed by where it gives them, of a term that names none.
        aligned: whether both signals must have one shape, so that a projector is built between features that differ.
        structured: whether it looks at a text's tokens together, (batch, length, …), rather than at each by itself.
        needs_ids: whether it keeps something of each sample, so that `prepare` must come before training.
    """

    name: str
    inputs: tuple[LossInput, ...] = ("teacher",)
    targets: tuple[type, ...] = (Tensor,)
    skips_unlabelled: bool = False
    wants: Wants = "logits"
    student_signals: str | tuple[str, ...] = ""
    teacher_signals: str | tuple[str, ...] = ""
    optional: tuple[str, ...] = ()
    aligned: bool = True
    structured: bool = False
    needs_ids: bool = False
    forward: Callable[..., Tensor]

    def meet(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Shows both models, before `build`, to a loss that needs more of them than signals; the teacher is None where
        it is not one module that runs. It keeps none of them as a part of its own."""

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes learned parts for signals of these shapes, on their device; called once, before training. Most losses
        have none."""

    def progress(self, epoch: float, share: float) -> None:
        """Told before each step how many epochs, and which share (0 to 1) of the training, are over."""

    def prepare(self, ids: Tensor) -> None:
        """Told before training the ids of all training samples, (samples,) int64."""
