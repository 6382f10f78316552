"""The boxes that a teacher found in pictures, kept on disk, in the place of what people would have drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.files import staged_file
from limbeck.sources.boxes.regions import Regions


class Objects(Protocol):
    """What was found in one picture, as `limbeck.models.detection.Detections` has it."""

    @property
    def boxes(self) -> Tensor: ...
    @property
    def scores(self) -> Tensor: ...
    @property
    def classes(self) -> Tensor: ...


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a teacher found in the pictures called `ids` (pictures,) int64, in pixels of the input."""

    ids: Tensor
    regions: Regions

    @classmethod
    def of(cls, ids: Tensor, objects: Sequence[Objects], threshold: float) -> Found:
        """What was found with a score of at least `threshold`."""
        kept = [each.scores >= threshold for each in objects]
        lengths = torch.tensor([int(each.sum()) for each in kept], dtype=torch.int64)
        boxes = torch.cat([each.boxes[which].float() for each, which in zip(objects, kept, strict=True)])
        regions = Regions(
            starts=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            boxes=boxes,
            classes=torch.cat([each.classes[which].long() for each, which in zip(objects, kept, strict=True)]),
            crowds=torch.zeros(len(boxes), dtype=torch.bool),
            areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
            scores=torch.cat([each.scores[which].float() for each, which in zip(objects, kept, strict=True)]),
        )
        return cls(ids.long(), regions)

    def write(self, path: Path) -> None:
        """Writes a file, whole or not at all."""
        columns = {name: getattr(self.regions, name).contiguous() for name in Regions.__slots__}
        with staged_file(path) as staging:
            safetensors.torch.save_file({"ids": self.ids.contiguous(), **columns}, staging)

    @classmethod
    def read(cls, path: Path) -> Found:
        """What `write` wrote. Raises LimbeckError where it cannot be read."""
        try:
            columns = safetensors.torch.load_file(path)
            return cls(columns.pop("ids"), Regions(**columns))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise LimbeckError(f"{path}: cannot be read ({error}); delete it, and the teacher looks again") from None
