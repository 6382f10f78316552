"""The heads of dense detectors: torchvision's, run from any of their blocks, with a loss for each picture."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNetHead

from limbeck.errors import LimbeckError

Outputs = dict[str, Tensor]
Target = dict[str, Tensor]
"""A picture's `boxes` (found, 4), `labels` (found,) and `crowds` (regions, 4)."""

Targets = Sequence[Target]

DISTRIBUTION_WEIGHT = 0.25
"""Of the distribution focal loss beside the others, as in Generalized Focal Loss."""


class TowerHead(nn.Module):
    """What the heads of FCOS and RetinaNet have in common: two towers of blocks (convolution, norm, ReLU) over every
    level of a pyramid, one for classes and one for boxes."""

    classification_head: Any
    regression_head: Any

    @property
    def blocks(self) -> int:
        """How many blocks a tower has."""
        return len(_blocks(self.classification_head.conv))

    def forward(
        self,
        classification: Sequence[Tensor],
        regression: Sequence[Tensor] | None = None,
        *,
        start: int = 0,
        hold: int | None = None,
    ) -> Outputs:
        """What the head says of a pyramid's maps (batch, channels, rows, columns).

        With `start`, the maps are taken for what the block before it gave, and the rest of the head runs: those of the
        tower of classes, and of the tower of boxes. With `hold`, what block `hold` gives before its ReLU (0: the maps
        themselves) comes along as `classification` and `regression`, (batch, positions of all levels, channels).
        """
        regression = classification if regression is None else regression
        classes, held_classes = _run(self.classification_head.conv, classification, start, hold)
        places, held_places = _run(self.regression_head.conv, regression, start, hold)
        outputs = self.outputs(classes, places)
        if hold is not None:
            outputs["classification"] = torch.cat([_rows(each, each.shape[1]) for each in held_classes], 1)
            outputs["regression"] = torch.cat([_rows(each, each.shape[1]) for each in held_places], 1)
        return outputs

    def outputs(self, classes: Sequence[Tensor], places: Sequence[Tensor]) -> Outputs:
        """What the last convolutions make of both towers: `cls_logits`, `bbox_regression` and others, as torchvision
        calls them."""
        raise NotImplementedError

    def compute_loss(
        self,
        targets: Sequence[Target],
        head_outputs: Outputs,
        anchors: Sequence[Tensor],
        matched_idxs: Sequence[Tensor],
    ) -> Outputs:
        """As `by_picture`."""
        return by_picture(self._loss, targets, head_outputs, anchors, matched_idxs)

    def _loss(
        self, targets: list[Target], outputs: Outputs, anchors: list[Tensor], matched: list[Tensor]
    ) -> Mapping[str, Tensor]:
        """The parts of one picture's loss."""
        raise NotImplementedError


class DistanceHead(TowerHead, FCOSHead):  # type: ignore[misc]
    """FCOS's head: at each position the logits of classes, the distances to a box's four edges in strides, and how
    central the position is (Tian et al. 2019, arXiv:1904.01355).

    With `bins` each distance is the mean of a distribution over as many equally spaced distances from 0 to `reach`
    strides, which is taught by the distribution focal loss (Li et al. 2020, arXiv:2006.04388).
    """

    def __init__(self, channels: int, classes: int, *, blocks: int, bins: int, reach: float) -> None:
        nn.Module.__init__(self)  # FCOSHead's own needs a width that 32 divides
        norm = partial(nn.GroupNorm, math.gcd(channels, 32))
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.classification_head = FCOSClassificationHead(channels, 1, classes, blocks, norm_layer=norm)
        self.regression_head = FCOSRegressionHead(channels, 1, blocks, norm_layer=norm)
        self.bins, self.reach = bins, reach
        if bins:
            edges = nn.Conv2d(channels, 4 * bins, kernel_size=3, stride=1, padding=1)
            nn.init.normal_(edges.weight, std=0.01)
            assert edges.bias is not None
            nn.init.zeros_(edges.bias)
            self.regression_head.bbox_reg = edges

    def outputs(self, classes: Sequence[Tensor], places: Sequence[Tensor]) -> Outputs:
        """Logits (batch, locations, classes), distances (…, 4), centralities (…, 1) and distributions (…, 4, bins)."""
        kinds, boxes = self.classification_head, self.regression_head
        found = {
            "cls_logits": torch.cat([_rows(kinds.cls_logits(each), kinds.num_classes) for each in classes], 1),
            "bbox_ctrness": torch.cat([_rows(boxes.bbox_ctrness(each), 1) for each in places], 1),
        }
        edges = torch.cat([_rows(boxes.bbox_reg(each), 4 * max(self.bins, 1)) for each in places], 1)
        if not self.bins:
            return found | {"bbox_regression": edges.relu()}
        distribution = edges.unflatten(-1, (4, self.bins)).float()
        distances = torch.linspace(0.0, self.reach, self.bins, device=edges.device)
        return found | {
            "bbox_regression": (distribution.softmax(-1) * distances).sum(-1),
            "distribution": distribution,
        }

    def _loss(
        self, targets: list[Target], outputs: Outputs, anchors: list[Tensor], matched: list[Tensor]
    ) -> Mapping[str, Tensor]:
        losses: dict[str, Tensor] = FCOSHead.compute_loss(self, targets, outputs, anchors, matched)
        if self.bins:
            losses["distribution"] = self._distribution_loss(
                targets[0], outputs["distribution"][0], anchors[0], matched[0]
            )
        return losses

    def _distribution_loss(self, target: Target, distribution: Tensor, anchors: Tensor, matched: Tensor) -> Tensor:
        """The mean over positions in boxes of −(share · log p of the bin below the edge + … of the bin above it)."""
        inside = matched >= 0
        boxes = target["boxes"][matched[inside]]
        steps = self.box_coder.encode(anchors[inside], boxes) * ((self.bins - 1) / self.reach)
        steps = steps.clamp(0.0, self.bins - 1 - 1e-3)
        below = steps.long()
        above = steps - below
        log_p = distribution[inside].log_softmax(-1)
        at = log_p.gather(-1, below.unsqueeze(-1)), log_p.gather(-1, below.unsqueeze(-1) + 1)
        values = -((1.0 - above) * at[0].squeeze(-1) + above * at[1].squeeze(-1)).mean(-1)
        summed: Tensor = values.sum()
        return summed * (DISTRIBUTION_WEIGHT / max(1, len(boxes)))


class AnchorHead(TowerHead, RetinaNetHead):  # type: ignore[misc]
    """RetinaNet's head: for each anchor the logits of classes, and how far a box is from it (Lin et al. 2017,
    arXiv:1708.02002)."""

    def __init__(self, channels: int, anchors: int, classes: int, *, blocks: int) -> None:
        RetinaNetHead.__init__(self, channels, anchors, classes)
        for head in (self.classification_head, self.regression_head):
            for _ in range(len(head.conv), blocks):
                head.conv.append(_fresh(head.conv[0]))
            head.conv = head.conv[:blocks]

    def outputs(self, classes: Sequence[Tensor], places: Sequence[Tensor]) -> Outputs:
        """Logits (batch, locations, classes) and offsets (…, 4)."""
        kinds, boxes = self.classification_head, self.regression_head
        return {
            "cls_logits": torch.cat([_rows(kinds.cls_logits(each), kinds.num_classes) for each in classes], 1),
            "bbox_regression": torch.cat([_rows(boxes.bbox_reg(each), 4) for each in places], 1),
        }

    def _loss(
        self, targets: list[Target], outputs: Outputs, anchors: list[Tensor], matched: list[Tensor]
    ) -> Mapping[str, Tensor]:
        losses: Mapping[str, Tensor] = RetinaNetHead.compute_loss(self, targets, outputs, anchors, matched)
        return losses


def by_picture(
    compute: Callable[[list[Target], Outputs, list[Tensor], list[Tensor]], Mapping[str, Tensor]],
    targets: Sequence[Target],
    outputs: Outputs,
    anchors: Sequence[Tensor],
    matched: Sequence[Tensor],
) -> Outputs:
    """A library's loss of each picture by itself, `losses` (pictures,), and how many locations have a box in it,
    `matched` (pictures,). Locations in a crowd that have no box take no part."""
    losses, counts = [], []
    for index, (target, places, found) in enumerate(zip(targets, anchors, matched, strict=True)):
        own = {name: each[index : index + 1] for name, each in outputs.items()}
        if len(target["crowds"]):
            kept = (found >= 0) | ~_in_any(places, target["crowds"])
            own = {name: each[:, kept] for name, each in own.items()}
            places, found = places[kept], found[kept]
        losses.append(torch.stack(list(compute([target], own, [places], [found]).values())).sum())
        counts.append((found >= 0).sum())
    return {"losses": torch.stack(losses), "matched": torch.stack(counts)}


def _fresh(block: nn.Module) -> nn.Module:
    """Another block like one of RetinaNet's towers, with weights of its own, drawn as torchvision does."""
    block = copy.deepcopy(block)
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return block


def _in_any(anchors: Tensor, regions: Tensor) -> Tensor:
    """Which anchors have their centre in one of the regions."""
    centres = (anchors[:, None, :2] + anchors[:, None, 2:]) / 2
    within: Tensor = ((centres >= regions[:, :2]) & (centres <= regions[:, 2:])).all(-1).any(-1)
    return within


def _blocks(tower: nn.Sequential) -> list[list[nn.Module]]:
    """The layers of each block of a tower, without its ReLU."""
    blocks: list[list[nn.Module]] = [[]]
    for layer in tower.modules():
        if isinstance(layer, nn.Sequential):
            continue
        if isinstance(layer, nn.ReLU):
            blocks.append([])
        else:
            blocks[-1].append(layer)
    return blocks[:-1]


def _run(
    tower: nn.Sequential, maps: Sequence[Tensor], start: int, hold: int | None
) -> tuple[list[Tensor], list[Tensor]]:
    """What the blocks of a tower from `start` on give for each level's map, and what block `hold` gave."""
    blocks = _blocks(tower)
    if hold is not None and not start <= hold <= len(blocks):
        raise LimbeckError(f"the head has {len(blocks)} blocks, so what block {hold} gives cannot be held")
    current, held = list(maps), list(maps)
    for number, layers in enumerate(blocks[start:], start + 1):
        for layer in layers:
            current = [layer(each) for each in current]
        if number == hold:
            held = current
        current = [each.relu() for each in current]
    return current, held


def _rows(maps: Tensor, width: int) -> Tensor:
    """(batch, anchors · width, rows, columns) as (batch, rows · columns · anchors, width), in torchvision's order."""
    rows: Tensor = maps.unflatten(1, (-1, width)).permute(0, 3, 4, 1, 2).flatten(1, 3)
    return rows
