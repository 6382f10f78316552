"""How detections are chosen from the answers of a dense detector: as torchvision does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from limbeck.models.detection.detections import Detections


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers are detections: those with a score above `score`, of each group the best `candidates`, without
    those that overlap a better one of their class by more than `overlap` (IoU), and of these the best `detections`."""

    score: float
    overlap: float
    detections: int
    candidates: int

    def by_level(self, scores: Tensor, boxes: Tensor, levels: Sequence[int], size: tuple[int, int]) -> list[Detections]:
        """From scores (batch, locations, classes) and boxes (batch, locations, 4), each level's locations being a
        group, in pictures of that height and width."""
        return [
            self._chosen(zip(own.split(levels), places.split(levels), [0] * len(levels), strict=True), size)
            for own, places in zip(scores, boxes, strict=True)
        ]

    def by_class(self, scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[Detections]:
        """As `by_level`, each class being a group."""
        return [
            self._chosen(((own[:, [kind]], places, kind) for kind in range(own.shape[-1])), size)
            for own, places in zip(scores, boxes, strict=True)
        ]

    def _chosen(self, groups: Iterable[tuple[Tensor, Tensor, int]], size: tuple[int, int]) -> Detections:
        """From groups of scores (locations, classes), boxes (locations, 4) and the number of their first class."""
        found = [self._best(*group) for group in groups]
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
        boxes = clip_boxes_to_image(boxes, size)
        kept = batched_nms(boxes, scores, classes, self.overlap)[: self.detections]
        return Detections(boxes[kept], scores[kept], classes[kept])

    def _best(self, scores: Tensor, boxes: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        flat = scores.flatten()
        above = torch.nonzero(flat > self.score)[:, 0]
        best, order = flat[above].topk(min(self.candidates, len(above)))
        places = above[order]
        kinds = scores.shape[-1]
        return boxes[places // kinds], best, places % kinds + first
