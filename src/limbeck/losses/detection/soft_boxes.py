"""Distillation through boxes, between detectors of any two families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.detection.confidence import counted, over_objects, with_quality
from limbeck.losses.detection.geometry import overlaps
from limbeck.losses.detection.quality import focal, same_classes
from limbeck.losses.detection.queries import query_matching
from limbeck.losses.numeric import fraction, not_negative, positive
from limbeck.types import Batch

CANDIDATES = 1000
"""How many of a teacher's answers are looked at, the best of each picture."""

NOTHING = -50.0
"""The logit of a class that is not there."""


@runtime_checkable
class Assigns(Protocol):
    """A detector with fixed locations, which says what each of them is to find."""

    def assigned(self, boxes: Sequence[Tensor]) -> Tensor:
        """Which of each picture's boxes (found, 4) a location is to find, (batch, locations) int64; −1 where none, −2
        where that is not to be learned."""


def soft_boxes(
    student: Sequence[Tensor],
    found: Sequence[Tensor],
    places: Tensor,
    where: Tensor | None = None,
    *,
    classes: float = 1.0,
    boxes: float = 2.0,
    beta: float = 2.0,
) -> Tensor:
    """`classes` · the focal cross-entropy of all locations + `boxes` · (1 − GIoU) of those with a box, divided by the
    scores of their boxes in the whole batch.

    A location with a box learns the scores that the teacher gave it, all classes of them, one without learns that there
    is nothing; the focal weight is |σ(s) − p|^β. Boxes count as much as the teacher is sure.

    Args:
        student: logits (batch, locations, classes) and boxes (batch, locations, 4), xyxy.
        found: logits (batch, most, classes) and boxes (batch, most, 4) of what the teacher finds; never receive a
            gradient.
        places: (batch, locations) int64: which of them each location is to find, −1 none, −2 not to be learned.
        where: (batch,) boolean, True where a picture counts; None where all do.
        classes, boxes: weights, not negative.
        beta: 0, or 1 or more.

    Returns:
        (batch,), in float32 (float64 where the student is). The divisor, at least 1, couples the pictures of a batch.

    Raises:
        LimbeckError: shapes do not fit, or a setting is out of range.

    Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388 (scores between 0 and 1 as targets); boxes of a teacher
    as targets: Xu et al. 2021, "End-to-End Semi-Supervised Object Detection with Soft Teacher", arXiv:2106.09018.
    """
    same_classes(student[0], found[0], "soft_boxes")
    if places.shape != student[0].shape[:2]:
        raise LimbeckError(
            f"soft_boxes: expected the box of each location, {tuple(student[0].shape[:2])}, got {tuple(places.shape)}"
        )
    not_negative(classes, "soft_boxes classes")
    not_negative(boxes, "soft_boxes boxes")
    own = counted("soft_boxes", where, *student)
    taught = counted("soft_boxes", where, *(each.detach() for each in found))
    held = places >= 0
    index = places.clamp(min=0).unsqueeze(-1)
    scores = taught[0].sigmoid().gather(1, index.expand(-1, -1, own[0].shape[-1]))
    scores = scores.masked_fill(~held.unsqueeze(-1), 0.0)
    weights = scores.amax(-1)
    kinds = focal(own[0], scores, beta).sum(-1).masked_fill(places == -2, 0.0)
    apart = 1.0 - overlaps(own[1], taught[1].gather(1, index.expand(-1, -1, 4)))[1]
    return over_objects(classes * kinds + boxes * weights * apart, weights, where)


@torch.no_grad()
def found_by(
    logits: Tensor, boxes: Tensor, *, score: float, overlap: float, most: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What a teacher finds: its boxes with a score above `score`, without those that overlap a better one of their
    class by more than `overlap`, at most `most` a picture.

    Args:
        logits, boxes: (batch, locations, classes) and (batch, locations, 4), xyxy.

    Returns:
        The boxes of each picture (found, 4); and logits (batch, most found, classes) and boxes (batch, most found, 4),
        filled up with what is nothing.
    """
    best, kinds = logits.sigmoid().max(-1)
    best = best.masked_fill((boxes[..., 2:] <= boxes[..., :2]).any(-1), 0.0)  # nothing is as small
    kept = []
    for scores, classes, places in zip(best, kinds, boxes, strict=True):
        above = torch.nonzero(scores > score)[:, 0]
        above = above[scores[above].topk(min(CANDIDATES, len(above))).indices]
        kept.append(above[batched_nms(places[above].float(), scores[above].float(), classes[above], overlap)[:most]])
    widest = max(1, *(len(each) for each in kept))
    all_logits = logits.new_full((len(logits), widest, logits.shape[-1]), NOTHING)
    all_boxes = boxes.new_zeros(len(boxes), widest, 4)
    for row, chosen in enumerate(kept):
        all_logits[row, : len(chosen)] = logits[row, chosen]
        all_boxes[row, : len(chosen)] = boxes[row, chosen]
    return [boxes[row, chosen] for row, chosen in enumerate(kept)], all_logits, all_boxes


class SoftBoxes(Loss):
    """`soft_boxes` of what the teacher finds, whatever its family: a dense student learns it at the locations that its
    own matching gives to such boxes, one that predicts a set at the queries that match (`query_matching`).

    Where the teacher gives its `quality` (FCOS: how central a location is), its scores are what it ranks by itself, the
    root of class score times quality. A student's own `quality` learns from labels only.

    Args:
        classes, boxes: weights of both parts.
        beta: of the focal weight.
        score: the teacher's boxes below it do not teach.
        overlap: of two boxes of one class that overlap more (IoU), the worse one does not teach.
        most: boxes of a picture that teach, at most.
    """

    name = "soft-boxes"
    inputs: tuple[LossInput, ...] = ("teacher", "batch", "where")
    student_signals = ("logits", "boxes")
    teacher_signals = ("logits", "boxes")
    optional = ("quality",)
    aligned = False

    def __init__(
        self,
        classes: float = 1.0,
        boxes: float = 2.0,
        beta: float = 2.0,
        score: float = 0.1,
        overlap: float = 0.6,
        most: int = 100,
    ) -> None:
        super().__init__()
        self.classes = not_negative(classes, "SoftBoxes classes")
        self.boxes = not_negative(boxes, "SoftBoxes boxes")
        self.beta = not_negative(beta, "SoftBoxes beta")
        self.score = fraction(score, "SoftBoxes score")
        self.overlap = fraction(overlap, "SoftBoxes overlap")
        self.most = int(positive(most, "SoftBoxes most"))
        self._student: tuple[Assigns, ...] = ()  # in a tuple, so that it is no part of this module

    def meet(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Keeps in mind a student that says what its locations are to find."""
        self._student = (student,) if isinstance(student, Assigns) else ()

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch, where: Tensor | None = None
    ) -> Tensor:
        """(batch,) from logits and boxes of both models, of the teacher its quality (batch, locations) too if it has
        one, and the batch, whose `inputs` say how large pictures are."""
        logits, boxes, *quality = counted("soft-boxes", where, *(each.detach() for each in teacher))
        logits = with_quality(logits, quality[0]) if quality else logits
        listed, *found = found_by(logits, boxes, score=self.score, overlap=self.overlap, most=self.most)
        if self._student:
            places = self._student[0].assigned([each.float() for each in listed])
            return soft_boxes(student, found, places, where, classes=self.classes, boxes=self.boxes, beta=self.beta)
        height, width = batch["inputs"].shape[-2:]
        return query_matching(
            student, found, (height, width), where, classes=self.classes, boxes=self.boxes, beta=self.beta,
            queries=self.most,
        )  # fmt: skip
