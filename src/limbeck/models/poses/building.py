"""Models of keypoints by name: `heatmaps:BACKBONE` and `simcc:BACKBONE`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.detection.pyramid import TimmMaps, TorchvisionMaps
from limbeck.models.forward import evaluating
from limbeck.models.libraries import build_timm
from limbeck.models.poses.heads import HeatmapHead, KeypointModel, SimCCHead
from limbeck.models.spec import AnyShape, ModelSpec, Shape

KEYPOINTS = "keypoints"
HEATMAPS, SIMCC = "heatmaps:", "simcc:"
DECONVOLUTION = (256, 256, 256)
"""The widths of SimpleBaseline's deconvolutions."""
SPLIT = 2.0
"""Bins a pixel of SimCC for inputs of 256×192."""


def wants_keypoints(spec: ModelSpec, shape: AnyShape) -> bool:
    """Whether a name is one of keypoints.

    Raises:
        LimbeckError: it is, and the data ask for something else; or the reverse.
    """
    named = spec.name.startswith((HEATMAPS, SIMCC))
    asked = isinstance(shape, Shape) and shape.head == KEYPOINTS
    if named and not asked:
        raise LimbeckError(f"model {spec.name!r} gives keypoints, which these data do not ask for; name another")
    if asked and not named and not spec.name.startswith(("hf:", "python:")):
        backbone = spec.name.startswith(("timm:", "torchvision:"))
        hint = f"heatmaps:{spec.name} or simcc:{spec.name}" if backbone else "heatmaps:timm:NAME"
        raise LimbeckError(f"model {spec.name!r} gives no keypoints; take {hint}, or hf:NAME of a ViTPose")
    return named


def build_poses(spec: ModelSpec, shape: Shape) -> KeypointModel:
    """`heatmaps:BACKBONE` or `simcc:BACKBONE`, where BACKBONE is `timm:NAME` or `torchvision:NAME`.

    Options: `deconvolution`, the widths of the layers that double the backbone's map (for heatmaps 256, 256, 256; for
    SimCC none); `stride`, of the backbone's map that the head takes, the coarsest by default; `split`, SimCC's bins a
    pixel (2); all others are the backbone's, such as `pretrained`.

    Raises:
        LimbeckError: the backbone cannot be had or cut, an option does not fit, or the size of the crops is not a
            multiple of the stride.
    """
    kind, _, backbone = spec.name.partition(":")
    options = dict(spec.options)
    given = options.pop("deconvolution", DECONVOLUTION if kind == "heatmaps" else ())
    stride, split = options.pop("stride", None), options.pop("split", SPLIT)
    widths = _widths(spec, given)
    if kind == "heatmaps" and "split" in spec.options:
        raise LimbeckError(f"model {spec.name!r} takes no option 'split', which is of simcc:BACKBONE")
    library = backbone.partition(":")[0]
    if library not in ("timm", "torchvision"):
        raise LimbeckError(f"model {spec.name!r}: expected {kind}:timm:NAME or {kind}:torchvision:NAME")
    if library == "timm" and _fixed_size(backbone.removeprefix("timm:")):
        options.setdefault("img_size", shape.image_size)
    inner = ModelSpec(backbone, options)
    stride = _coarsest(inner, shape) if stride is None else stride
    height, width = shape.image_size
    if type(stride) is not int or height % stride or width % stride:
        raise LimbeckError(
            f"model {spec.name!r}: crops of {height}×{width} are no multiples of the stride {stride} of the backbone's "
            "map; set data.size to multiples of it, or the option `stride`"
        )
    net: nn.Module = (TimmMaps if library == "timm" else TorchvisionMaps)(inner, shape, [stride])
    with torch.no_grad(), evaluating(net):
        _, channels, rows, columns = net(torch.zeros(1, shape.in_channels, height, width))[-1].shape
    if (rows, columns) != (height // stride, width // stride):
        raise LimbeckError(f"model {spec.name!r}: the backbone's map is no (channels, rows, columns); take another")
    if kind == "heatmaps":
        return KeypointModel(net, HeatmapHead(channels, shape.num_classes, widths))
    if isinstance(split, bool) or not isinstance(split, int | float) or not split > 0:
        raise LimbeckError(f"model {spec.name!r}: expected the option split as a number above 0, got {split!r}")
    bins = round(width * split), round(height * split)
    return KeypointModel(net, SimCCHead(channels, shape.num_classes, widths, (rows, columns), bins))


def _widths(spec: ModelSpec, given: Any) -> tuple[int, ...]:
    if not isinstance(given, Sequence) or not all(type(each) is int and each > 0 for each in given):
        raise LimbeckError(
            f"model {spec.name!r}: expected the option deconvolution as a list of widths like [64, 64], got {given!r}"
        )
    return tuple(given)


def _fixed_size(name: str) -> bool:
    """Whether a timm net must be told the size of its inputs."""
    found = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    return found is not None and bool(found.fixed_input_size)


def _coarsest(spec: ModelSpec, shape: Shape) -> int:
    """The largest stride of a backbone's maps."""
    if spec.name.startswith("torchvision:"):
        return 32
    options = {key: value for key, value in spec.options.items() if key != "pretrained"} | {"features_only": True}
    with torch.device("meta"):
        net: Any = build_timm(ModelSpec(spec.name, options), Shape(0, shape.in_channels, shape.image_size))
    return max(int(each) for each in net.feature_info.reduction())
