"""Dense detectors by name: torchvision's families around any backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from limbeck.errors import LimbeckError
from limbeck.models.builtin import call_builder
from limbeck.models.detection.dense import DenseDetector
from limbeck.models.detection.heads import AnchorHead, DistanceHead
from limbeck.models.detection.one_stage import FCOSDetector, RetinaNetDetector, SSDLiteDetector
from limbeck.models.detection.pyramid import COARSEST, Pyramid, checked_strides
from limbeck.models.detection.selecting import Selection
from limbeck.models.spec import ModelSpec, Shape

STRIDES = (8, 16, 32, 64, 128)


def _fcos(
    backbone: str,
    shape: Shape,
    *,
    pretrained: bool = False,
    channels: int = 256,
    strides: Sequence[int] = STRIDES,
    blocks: int = 4,
    distribution: int = 0,
    score: float = 0.2,
    overlap: float = 0.6,
    detections: int = 100,
    candidates: int = 1000,
    options: Mapping[str, Any] | None = None,
) -> FCOSDetector:
    """Settings are torchvision's, where it has them."""
    if distribution and distribution < 3:
        raise LimbeckError(f"distribution: expected 3 bins or more, or 0 for none, got {distribution}")
    pyramid = _pyramid(backbone, shape, channels, strides, pretrained, options)
    reach = max(8.0, max(shape.image_size) / strides[-1])  # as far as a level's boxes go
    head = DistanceHead(channels, shape.num_classes, blocks=blocks, bins=distribution, reach=reach)
    anchors = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
    network = FCOS(pyramid, shape.num_classes, anchor_generator=anchors, head=head)
    return FCOSDetector(network, shape, Selection(score, overlap, detections, candidates))


def _retinanet(
    backbone: str,
    shape: Shape,
    *,
    pretrained: bool = False,
    channels: int = 256,
    strides: Sequence[int] = STRIDES,
    blocks: int = 4,
    score: float = 0.05,
    overlap: float = 0.5,
    detections: int = 300,
    candidates: int = 1000,
    options: Mapping[str, Any] | None = None,
) -> RetinaNetDetector:
    """Settings are torchvision's, where it has them."""
    pyramid = _pyramid(backbone, shape, channels, strides, pretrained, options)
    sizes = tuple(tuple(int(4 * stride * 2 ** (third / 3)) for third in range(3)) for stride in strides)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    head = AnchorHead(channels, anchors.num_anchors_per_location()[0], shape.num_classes, blocks=blocks)
    network = RetinaNet(pyramid, shape.num_classes, anchor_generator=anchors, head=head)
    return RetinaNetDetector(network, shape, Selection(score, overlap, detections, candidates))


def _ssdlite(
    backbone: str,
    shape: Shape,
    *,
    pretrained: bool = False,
    channels: int = 128,
    strides: Sequence[int] = STRIDES[1:],
    score: float = 0.001,
    overlap: float = 0.55,
    detections: int = 300,
    candidates: int = 300,
    options: Mapping[str, Any] | None = None,
) -> SSDLiteDetector:
    """Settings are those of torchvision's SSDLite320, where it has them."""
    pyramid = _pyramid(backbone, shape, channels, strides, pretrained, options)
    anchors = DefaultBoxGenerator([[2, 3] for _ in strides], min_ratio=0.2, max_ratio=0.95)
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    widths, many = [channels] * len(strides), anchors.num_anchors_per_location()
    head = SSDLiteHead(widths, many, shape.num_classes + 1, norm)
    network = SSD(pyramid, anchors, shape.image_size[::-1], shape.num_classes + 1, head=head)
    return SSDLiteDetector(network, shape, Selection(score, overlap, detections, candidates))


_FAMILIES: Mapping[str, Callable[..., DenseDetector]] = {"fcos": _fcos, "retinanet": _retinanet, "ssdlite": _ssdlite}


def build_dense(spec: ModelSpec, shape: Shape) -> DenseDetector:
    """`fcos:BACKBONE`, `retinanet:BACKBONE` or `ssdlite:BACKBONE`, the backbone being `timm:NAME` or
    `torchvision:NAME`.

    Options: `pretrained` (of the backbone), `channels` of the pyramid, its `strides`, `blocks` of each tower of the
    head (not of ssdlite), `distribution`: how many bins the distance to an edge has (of fcos; 0: it is one number);
    `score`, `overlap`, `detections` and `candidates` of the choice of detections; and `options` of the backbone.

    Raises:
        LimbeckError: the backbone or an option is unknown, or the pictures' size does not fit.
    """
    family, _, backbone = spec.name.partition(":")
    detector = call_builder(partial(_FAMILIES[family], backbone, shape=shape), spec, shape)
    assert isinstance(detector, DenseDetector)
    return detector


def _pyramid(
    backbone: str,
    shape: Shape,
    channels: int,
    strides: Sequence[int],
    pretrained: bool,
    options: Mapping[str, Any] | None,
) -> Pyramid:
    strides = checked_strides(strides)
    coarsest = max((stride for stride in strides if stride <= COARSEST), default=1)
    if any(side % coarsest for side in shape.image_size):
        raise LimbeckError(
            f"pictures of {shape.image_size[0]}×{shape.image_size[1]} do not divide into cells of {coarsest} pixels; "
            f"give data a size of which {coarsest} is a divisor"
        )
    given = {**(options or {}), **({"pretrained": True} if pretrained else {})}
    return Pyramid(backbone, shape, channels=channels, strides=strides, options=given)
