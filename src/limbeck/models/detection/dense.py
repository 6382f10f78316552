"""What all dense one-stage detectors have in common: answers at fixed locations of pictures of one size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from limbeck.errors import LimbeckError
from limbeck.models.detection.detections import Detections
from limbeck.models.detection.heads import Outputs
from limbeck.models.detection.selecting import Selection
from limbeck.models.detection.truths import Truths, truths_of
from limbeck.models.spec import Shape


class DenseDetector(nn.Module):
    """A detector that says at each location of a pyramid, or for each anchor there, what there is.

    `forward` gives `logits` (batch, locations, classes), whose sigmoid is the score of a class; `boxes` (batch,
    locations, 4), xyxy in pixels, not cut at the picture's border; `pyramid.0`, … (batch, channels, rows, columns); and
    with `boxes` of a batch `model_loss` (batch,), the family's own loss. Classes with softmax become the logarithms of
    their odds, so that the sigmoid gives the same scores.

    Args:
        network: torchvision's detector; its own resizing and normalising is not used.
        shape: the pictures' size is fixed, so that anchors are made once.
        selection: how detections are chosen.
    """

    def __init__(self, network: Any, shape: Shape, selection: Selection) -> None:
        super().__init__()
        self.network = network
        self.size = shape.image_size
        self.selection = selection
        self.hold: int | None = None
        grids = network.backbone.grids
        maps = [torch.zeros(1, 1, grid.rows, grid.columns) for grid in grids]
        picture = torch.zeros(1, 1, *self.size)
        self._anchors: Tensor = network.anchor_generator(ImageList(picture, [self.size]), maps)[0]
        per_location = network.anchor_generator.num_anchors_per_location()
        self.positions = [grid.rows * grid.columns for grid in grids]
        self.levels = [places * many for places, many in zip(self.positions, per_location, strict=True)]

    @property
    def head(self) -> nn.Module:
        """What makes answers of the pyramid."""
        head: nn.Module = self.network.head
        return head

    @property
    def signals(self) -> Collection[str]:
        """The names of what `forward` may give."""
        held = ("classification", "regression") if self.hold is not None else ()
        levels = (f"pyramid.{index}" for index in range(len(self.levels)))
        return ("logits", "boxes", "model_loss", *held, *levels)

    def anchors_on(self, device: torch.device) -> Tensor:
        """The anchors (locations, 4), xyxy in pixels, on a device."""
        # No buffer: a model in half precision would round them.
        if self._anchors.device != device:
            self._anchors = self._anchors.to(device)
        return self._anchors

    def forward(
        self,
        inputs: Tensor,
        boxes: Tensor | None = None,
        box_classes: Tensor | None = None,
        annotated: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The signals of pictures (batch, channels, height, width); of `boxes` (batch, most, 4) with `box_classes`
        (batch, most), -1 for padding and -2 for crowds, the loss of those pictures that are `annotated` (batch,)."""
        if tuple(inputs.shape[-2:]) != self.size:
            raise LimbeckError(
                f"the detector was built for pictures of {self.size[0]}×{self.size[1]}, got "
                f"{inputs.shape[-2]}×{inputs.shape[-1]}; build it for that size (its weights fit)"
            )
        maps = list(self.network.backbone(inputs).values())
        outputs = self.answers(maps)
        signal = self.said(outputs) | {f"pyramid.{index}": each for index, each in enumerate(maps)}
        if boxes is not None and box_classes is not None:
            signal["model_loss"] = self._loss(outputs, truths_of(boxes, box_classes, annotated))
        return signal

    def answers(self, maps: Sequence[Tensor]) -> Outputs:
        """What the head makes of the pyramid."""
        outputs: Outputs = self.head(maps)
        return precise(outputs)

    @abstractmethod
    def said(self, outputs: Outputs) -> dict[str, Tensor]:
        """The signals in what the head made."""

    @abstractmethod
    def picture_losses(self, targets: list[dict[str, Tensor]], outputs: Outputs, anchors: list[Tensor]) -> Tensor:
        """The loss of each picture, whose mean is the family's loss of all of them."""

    @abstractmethod
    def detections(self, signal: Mapping[str, Tensor]) -> list[Detections]:
        """What is found in each picture, as torchvision chooses it."""

    @abstractmethod
    def assigned(self, boxes: Sequence[Tensor]) -> Tensor:
        """Which of a picture's boxes (found, 4) each location is to find, (batch, locations) int64; −1 where none, −2
        where that is not to be learned."""

    def _loss(self, outputs: Outputs, truths: Truths) -> Tensor:
        losses = outputs["cls_logits"].flatten(1)[:, :0].sum(1)  # 0, with a graph
        rows = truths.annotated
        if not rows:
            return losses
        targets = [
            {"boxes": truths.boxes[row], "labels": truths.classes[row], "crowds": truths.crowds[row]} for row in rows
        ]
        if len(rows) < len(losses):
            outputs = {name: each[rows] for name, each in outputs.items()}
        found = self.picture_losses(targets, outputs, [self.anchors_on(losses.device)] * len(rows))
        return (
            found if len(rows) == len(losses) else losses.index_copy(0, torch.tensor(rows, device=found.device), found)
        )


def precise(outputs: Outputs) -> Outputs:
    """Boxes in pixels need more than half precision."""
    return {name: each if name in ("classification", "regression") else each.float() for name, each in outputs.items()}
