"""Distillation between detectors that predict sets: queries of the teacher teach those that match them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softmax

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.detection.confidence import confidence, counted, over_objects
from limbeck.losses.detection.geometry import overlaps
from limbeck.losses.detection.localization import edge_divergence, projected
from limbeck.losses.detection.matching import DISTANCE_COST, OVERLAP_COST, matched
from limbeck.losses.detection.quality import focal, same_classes
from limbeck.losses.numeric import not_negative, positive
from limbeck.types import Batch


def query_matching(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    size: tuple[int, int],
    where: Tensor | None = None,
    *,
    classes: float = 1.0,
    boxes: float = 1.0,
    edges: float = 0.06,
    beta: float = 1.0,
    temperature: float = 5.0,
    queries: int = 100,
) -> Tensor:
    """`classes` · the focal cross-entropy of all student's queries + `boxes` · (5 · L1 + 2 · (1 − GIoU)) of the matched
    ones + `edges` · the KL divergence of their edges' distributions, divided by the teacher's confidence in the batch.

    The teacher's best queries are matched one to one to the student's, see `matched`. A student's query learns the
    scores of the teacher's that it is matched to, one without any learns that there is nothing; |σ(s) − p|^β weighs
    the cross-entropy. Boxes and edges count as much as the teacher is sure. Edges of other bins, or relative to another
    box, are brought to the student's bins, with the same mean.

    Args:
        student: logits (batch, queries, classes), boxes (batch, queries, 4) in pixels, and where both models have them
            distributions (batch, queries, 4, bins) and their edges in pixels, of the same shape.
        teacher: the same, of any number of queries and bins; never receives a gradient.
        size: height and width of the pictures in pixels.
        where: (batch,) boolean, True where a picture counts; None where all do.
        classes, boxes, edges: weights, not negative; that of edges times T² is 1.5, as in localisation distillation.
        beta: of the focal weight; 0, or 1 or more.
        temperature: T > 0, of the distributions.
        queries: how many of the teacher's queries teach, at most.

    Returns:
        (batch,), in float32 (float64 where the student is). The divisor, at least 1, couples the pictures of a batch.

    Raises:
        LimbeckError: shapes do not fit, or a setting is out of range.

    Chang et al. 2023, "DETRDistill", arXiv:2211.10156 (its matching and losses); Wang et al. 2024, "KD-DETR",
    arXiv:2211.08071; Peng et al. 2024, "D-FINE", arXiv:2410.13842 (the edges' distributions, at T = 5).
    """
    if len(student) != len(teacher) or len(student) not in (2, 4):
        raise LimbeckError(
            f"query_matching: expected logits and boxes, or these with distribution and edges, of both models, got "
            f"{len(student)} signals of the student and {len(teacher)} of the teacher"
        )
    same_classes(student[0], teacher[0], "query_matching")
    for weight in (classes, boxes, edges):
        not_negative(weight, "query_matching weight")
    own = counted("query_matching", where, *student)
    taught = counted("query_matching", where, *(each.detach() for each in teacher))
    scale = own[1].new_tensor([size[1], size[0], size[1], size[0]])
    chosen = _best(taught, min(queries, own[0].shape[1]))
    places = matched(own[0], own[1], chosen[0], chosen[1], scale)
    weights = confidence(chosen[0])
    targets = torch.zeros_like(own[0]).scatter(1, _wide(places, own[0]), chosen[0].sigmoid())
    values = classes * focal(own[0], targets, beta).sum((1, 2))
    near = own[1].gather(1, _wide(places, own[1]))
    distance = ((near - chosen[1]) / scale).abs().sum(-1)
    apart = DISTANCE_COST * distance + OVERLAP_COST * (1.0 - overlaps(near, chosen[1])[1])
    values = values + boxes * (weights * apart).sum(1)
    if len(own) == 4 and edges:
        bins = own[2].gather(1, _wide(places, own[2]))
        where_bins = own[3].detach().gather(1, _wide(places, own[3]))
        softened = softmax(chosen[2] / temperature, -1)
        target = projected(softened, chosen[3], where_bins)
        divergence = edge_divergence(bins, target, temperature)
        values = values + edges * (weights * divergence).sum(1)
    return over_objects(values, weights, where)


class QueryMatching(Loss):
    """`query_matching` with its weights. For detectors with distributions of edges (D-FINE) name as the signals of both
    `logits`, `boxes`, `distribution` and `edges`."""

    name = "query-matching"
    inputs: tuple[LossInput, ...] = ("teacher", "batch", "where")
    student_signals = ("logits", "boxes")
    teacher_signals = ("logits", "boxes")
    aligned = False

    def __init__(
        self,
        classes: float = 1.0,
        boxes: float = 1.0,
        edges: float = 0.06,
        beta: float = 1.0,
        temperature: float = 5.0,
        queries: int = 100,
    ) -> None:
        super().__init__()
        self.classes = not_negative(classes, "QueryMatching classes")
        self.boxes = not_negative(boxes, "QueryMatching boxes")
        self.edges = not_negative(edges, "QueryMatching edges")
        self.beta = not_negative(beta, "QueryMatching beta")
        self.temperature = positive(temperature, "QueryMatching temperature")
        self.queries = int(positive(queries, "QueryMatching queries"))

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Batch, where: Tensor | None = None
    ) -> Tensor:
        """(batch,) from the signals of both models and the batch, whose `inputs` say how large pictures are."""
        height, width = batch["inputs"].shape[-2:]
        return query_matching(
            student,
            teacher,
            (height, width),
            where,
            classes=self.classes,
            boxes=self.boxes,
            edges=self.edges,
            beta=self.beta,
            temperature=self.temperature,
            queries=self.queries,
        )


def _best(teacher: Sequence[Tensor], count: int) -> list[Tensor]:
    """The signals of the teacher's best queries."""
    scores = confidence(teacher[0])
    places = scores.topk(min(count, scores.shape[1]), 1).indices
    return [each.gather(1, _wide(places, each)) for each in teacher]


def _wide(places: Tensor, like: Tensor) -> Tensor:
    """(batch, count) as an index into the second dimension of a tensor."""
    rest = like.shape[2:]
    return places.view(*places.shape, *[1] * len(rest)).expand(*places.shape, *rest)
