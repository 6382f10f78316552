"""What a detector finds in one picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The boxes of one picture, best first.

    Attributes:
        boxes: (found, 4) float32, left, top, right and bottom edge in pixels of the input.
        scores: (found,) float32, from 0 to 1.
        classes: (found,) int64.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.scores)
