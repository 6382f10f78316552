"""Dense one-stage detectors: torchvision's FCOS, RetinaNet and SSDLite on pictures of one size, with any backbone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.ops import box_iou

from limbeck.models.detection.dense import DenseDetector, precise
from limbeck.models.detection.detections import Detections
from limbeck.models.detection.heads import Outputs, TowerHead, by_picture
from limbeck.models.detection.logits import log_odds


class TowerDetector(DenseDetector):
    """A dense detector with towers of convolutions, some of whose blocks another model's head may take over."""

    @property
    def head(self) -> TowerHead:
        """What makes answers of the pyramid."""
        head: TowerHead = self.network.head
        return head

    def answers(self, maps: Sequence[Tensor]) -> Outputs:
        """What the head makes of the pyramid; with `hold`, what one of its blocks gave too."""
        outputs: Outputs = self.head(maps, hold=self.hold)
        return precise(outputs)

    def crossed(self, classification: Tensor, regression: Tensor, start: int) -> dict[str, Tensor]:
        """What the head's blocks from `start` on say of maps (batch, positions, channels) that another model holds.

        The gradient reaches these maps; the head's weights are taken as they are.
        """
        grids = self.network.backbone.grids

        def maps(rows: Tensor) -> list[Tensor]:
            parts = rows.transpose(1, 2).split(self.positions, -1)
            return [each.unflatten(-1, (grid.rows, grid.columns)) for each, grid in zip(parts, grids, strict=True)]

        weights = {name: each.detach() for name, each in self.head.named_parameters()}
        like = next(iter(weights.values())).dtype
        inputs = maps(classification.to(like)), maps(regression.to(like))
        return self.said(precise(functional_call(self.head, weights, inputs, {"start": start})))

    def held(self, outputs: Outputs) -> dict[str, Tensor]:
        """What was held of the towers."""
        return {name: outputs[name] for name in ("classification", "regression") if name in outputs}


class FCOSDetector(TowerDetector):
    """FCOS (Tian et al. 2019, arXiv:1904.01355) with torchvision's matching and loss.

    It gives `quality` (batch, locations) too, how central a location is, before the sigmoid; and with a distribution
    over the distances to a box's edges `distribution` (batch, locations, 4, bins), logits, and `edges`, where in pixels
    each bin has the edge. The loss is divided by the locations in boxes of the whole batch, so that pictures share it
    as they share these.
    """

    @property
    def signals(self) -> Collection[str]:
        """The names of what `forward` may give."""
        more = ("distribution", "edges") if self.network.head.bins else ()
        return (*super().signals, "quality", *more)

    def said(self, outputs: Outputs) -> dict[str, Tensor]:
        """The signals in what the head made."""
        anchors = self.anchors_on(outputs["cls_logits"].device)
        signal = {
            "logits": outputs["cls_logits"],
            "boxes": self.network.box_coder.decode(outputs["bbox_regression"], anchors),
            "quality": outputs["bbox_ctrness"].squeeze(-1),
            **self.held(outputs),
        }
        if "distribution" in outputs:
            signal["distribution"] = outputs["distribution"]
            signal["edges"] = self._edges(anchors).expand(len(outputs["cls_logits"]), -1, -1, -1)
        return signal

    def _edges(self, anchors: Tensor) -> Tensor:
        """Where in pixels each bin has a box's edges, (locations, 4, bins)."""
        head = self.network.head
        distances = torch.linspace(0.0, head.reach, head.bins, device=anchors.device)
        corners = [self.network.box_coder.decode(each.expand(len(anchors), 4), anchors) for each in distances]
        return torch.stack(corners, -1)

    def picture_losses(self, targets: list[dict[str, Tensor]], outputs: Outputs, anchors: list[Tensor]) -> Tensor:
        """The loss of each picture, whose mean is torchvision's loss of all of them."""
        return _shared(self.network.compute_loss(targets, outputs, anchors, self.levels))

    def assigned(self, boxes: Sequence[Tensor]) -> Tensor:
        """Which box each location is to find: that of torchvision's matching."""
        radius = self.network.center_sampling_radius
        return _places(FCOS, boxes, self.anchors_on(boxes[0].device), self.levels, center_sampling_radius=radius)

    def detections(self, signal: Mapping[str, Tensor]) -> list[Detections]:
        """What is found in each picture, as torchvision chooses it."""
        scores = (signal["logits"].sigmoid() * signal["quality"].sigmoid().unsqueeze(-1)).sqrt()
        return self.selection.by_level(scores, signal["boxes"], self.levels, self.size)


class RetinaNetDetector(TowerDetector):
    """RetinaNet (Lin et al. 2017, arXiv:1708.02002) with torchvision's matching and loss, which is one of each picture
    by itself."""

    def said(self, outputs: Outputs) -> dict[str, Tensor]:
        """The signals in what the head made."""
        return {
            "logits": outputs["cls_logits"],
            "boxes": _decoded(self.network.box_coder, outputs, self.anchors_on(outputs["cls_logits"].device)),
            **self.held(outputs),
        }

    def picture_losses(self, targets: list[dict[str, Tensor]], outputs: Outputs, anchors: list[Tensor]) -> Tensor:
        """The loss of each picture, whose mean is torchvision's loss of all of them."""
        return self.network.compute_loss(targets, outputs, anchors)["losses"]  # type: ignore[no-any-return]

    def assigned(self, boxes: Sequence[Tensor]) -> Tensor:
        """Which box each anchor is to find: that of torchvision's matching."""
        matcher = self.network.proposal_matcher
        return _places(RetinaNet, boxes, self.anchors_on(boxes[0].device), proposal_matcher=matcher)

    def detections(self, signal: Mapping[str, Tensor]) -> list[Detections]:
        """What is found in each picture, as torchvision chooses it."""
        return self.selection.by_level(signal["logits"].sigmoid(), signal["boxes"], self.levels, self.size)


class SSDLiteDetector(DenseDetector):
    """SSDLite (Sandler et al. 2018, arXiv:1801.04381) on a feature pyramid, with torchvision's matching and loss. The
    loss is divided by the anchors with a box of the whole batch, so that pictures share it as they share these."""

    def said(self, outputs: Outputs) -> dict[str, Tensor]:
        """The signals in what the head made."""
        return {
            "logits": log_odds(outputs["cls_logits"])[..., 1:],
            "boxes": _decoded(self.network.box_coder, outputs, self.anchors_on(outputs["cls_logits"].device)),
        }

    def picture_losses(self, targets: list[dict[str, Tensor]], outputs: Outputs, anchors: list[Tensor]) -> Tensor:
        """The loss of each picture, whose mean is torchvision's loss of all of them."""
        matched = list(self.assigned([target["boxes"] for target in targets]))
        # 0 is the background.
        targets = [{**target, "labels": target["labels"] + 1} for target in targets]
        return _shared(by_picture(self.network.compute_loss, targets, outputs, anchors, matched))

    def assigned(self, boxes: Sequence[Tensor]) -> Tensor:
        """Which box each anchor is to find, as torchvision does it inside of its forward."""
        anchors = self.anchors_on(boxes[0].device)
        nothing = torch.full((len(anchors),), -1, device=anchors.device)
        found = [self.network.proposal_matcher(box_iou(each, anchors)) if len(each) else nothing for each in boxes]
        return torch.stack(found)

    def detections(self, signal: Mapping[str, Tensor]) -> list[Detections]:
        """What is found in each picture, as torchvision chooses it."""
        return self.selection.by_class(signal["logits"].sigmoid(), signal["boxes"], self.size)


class _Matches:
    """In the place of a head whose loss torchvision asks for: it gives the matching that torchvision made for it."""

    @staticmethod
    def compute_loss(_targets: Any, _outputs: Any, _anchors: Any, matched_idxs: list[Tensor]) -> Tensor:
        return torch.stack(matched_idxs)


def _places(family: Any, boxes: Sequence[Tensor], anchors: Tensor, *levels: list[int], **settings: Any) -> Tensor:
    """The matching of a family of torchvision's."""
    targets = [{"boxes": each, "labels": each[:, 0].long()} for each in boxes]
    matcher = SimpleNamespace(head=_Matches, **settings)
    places: Tensor = family.compute_loss(matcher, targets, {}, [anchors] * len(boxes), *levels)
    return places


def _decoded(coder: Any, outputs: Outputs, anchors: Tensor) -> Tensor:
    """Boxes (batch, locations, 4) from offsets to anchors."""
    codes = outputs["bbox_regression"]
    boxes: Tensor = coder.decode_single(codes.flatten(0, 1), anchors.repeat(len(codes), 1))
    return boxes.view_as(codes)


def _shared(by_itself: Mapping[str, Tensor]) -> Tensor:
    """The loss of each picture, divided by the matched locations of all pictures instead of its own."""
    losses, matched = by_itself["losses"], by_itself["matched"]
    return losses * matched.clamp(min=1) * (len(losses) / matched.sum().clamp(min=1))
