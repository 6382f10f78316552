"""Backbones of detectors: the maps of any timm or torchvision net at given strides, made one width by an FPN."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork

from limbeck.errors import LimbeckError
from limbeck.models.libraries import build_timm, build_torchvision
from limbeck.models.spec import ModelSpec, Shape

COARSEST = 32
"""The largest stride that is taken of a backbone; larger ones come from convolutions behind the FPN."""


class CoarserLevels(ExtraFPNBlock):  # type: ignore[misc]
    """Levels behind the FPN's last, each at half the size of the one before: strided 3×3 convolutions with ReLU between
    them, as in RetinaNet (Lin et al. 2017, arXiv:1708.02002)."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(levels))
        for each in self.convolutions:
            assert isinstance(each, nn.Conv2d)
            assert each.bias is not None
            nn.init.kaiming_uniform_(each.weight, a=1)
            nn.init.zeros_(each.bias)

    def forward(self, results: list[Tensor], _maps: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """The FPN's maps and the coarser ones."""
        for index, convolution in enumerate(self.convolutions):
            results.append(convolution(results[-1] if index == 0 else results[-1].relu()))
            names.append(f"coarser.{index}")
        return results, names


class TimmMaps(nn.Module):
    """The maps of a timm net at the given strides."""

    def __init__(self, spec: ModelSpec, shape: Shape, strides: Sequence[int]) -> None:
        super().__init__()
        options = dict(spec.options)
        self.net, reductions = _timm_net(spec, shape, options)
        chosen = _chosen(reductions, strides, spec.name)
        if chosen[-1] < len(reductions) - 1:
            # Deeper stages that nobody looks at would take no part in a step.
            self.net, reductions = _timm_net(spec, shape, options | {"out_indices": chosen})
            chosen = _chosen(reductions, strides, spec.name)
        self.chosen = chosen

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """A map a stride, the finest first."""
        maps = self.net(inputs)
        return [maps[index] for index in self.chosen]


class TorchvisionMaps(nn.Module):
    """The maps of a torchvision classifier at the given strides: what its last layer at each gives."""

    def __init__(self, spec: ModelSpec, shape: Shape, strides: Sequence[int]) -> None:
        super().__init__()
        name = spec.name.removeprefix("torchvision:")
        pretrained = bool(spec.options.get("pretrained", False))
        classes = 1000 if pretrained else 1  # the head is thrown away
        model = build_torchvision(spec, Shape(classes, shape.in_channels, shape.image_size))
        places = _places(model.eval(), shape, strides, spec.name)
        try:
            self.net = create_feature_extractor(model.train(), {place: place for place in places})
        except Exception as error:
            raise LimbeckError(
                f"torchvision:{name} cannot be cut at {', '.join(places)} ({str(error).splitlines()[0]}); take a timm: "
                "backbone"
            ) from None
        self.places = places

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """A map a stride, the finest first."""
        maps = self.net(inputs)
        return [maps[place] for place in self.places]


@dataclass(frozen=True, slots=True)
class Grid:
    """A level of a pyramid: how many rows and columns it has."""

    rows: int
    columns: int


class Pyramid(nn.Module):
    """Maps of one width at several strides, from any backbone, by a feature pyramid network.

    Args:
        backbone: `timm:NAME` or `torchvision:NAME`.
        shape: of the pictures.
        channels: of every map.
        strides: each twice the one before it; those above 32 come from convolutions behind the pyramid.
        options: of the backbone's builder, `pretrained` among them.

    Attributes:
        grids: of its levels, for pictures of that shape.

    Raises:
        LimbeckError: the backbone has no such strides, or cannot be had.

    Lin et al. 2017, "Feature Pyramid Networks for Object Detection", arXiv:1612.03144.
    """

    def __init__(
        self, backbone: str, shape: Shape, *, channels: int, strides: Sequence[int], options: Mapping[str, Any]
    ) -> None:
        super().__init__()
        own = [stride for stride in checked_strides(strides) if stride <= COARSEST]
        kinds = {"timm": TimmMaps, "torchvision": TorchvisionMaps}
        library = backbone.partition(":")[0]
        if library not in kinds:
            raise LimbeckError(f"backbone {backbone!r}: expected timm:NAME or torchvision:NAME")
        self.backbone = kinds[library](ModelSpec(backbone, dict(options)), shape, own)
        try:
            widths = [each.shape[1] for each in _tried(self.backbone, shape)]
        except (AssertionError, RuntimeError) as error:
            size = "×".join(map(str, shape.image_size))
            raise LimbeckError(f"{backbone} takes no pictures of {size} ({str(error).splitlines()[0]})") from None
        levels = len(strides) - len(own)
        self.fpn = FeaturePyramidNetwork(widths, channels, CoarserLevels(channels, levels) if levels else None)
        self.out_channels = channels
        self.grids = [Grid(*each.shape[-2:]) for each in _tried(self, shape).values()]

    def forward(self, inputs: Tensor) -> OrderedDict[str, Tensor]:
        """The maps (batch, channels, rows, columns) by name, the finest first."""
        maps = OrderedDict((str(index), each) for index, each in enumerate(self.backbone(inputs)))
        levels: OrderedDict[str, Tensor] = self.fpn(maps)
        return levels


@torch.no_grad()
def _tried(module: nn.Module, shape: Shape) -> Any:
    """What a module gives for an empty picture; its mode stays."""
    training = module.training
    given = module.eval()(torch.zeros(1, shape.in_channels, *shape.image_size))
    module.train(training)
    return given


def checked_strides(strides: Sequence[int]) -> list[int]:
    """Gives the strides back; raises LimbeckError unless each is twice the one before it."""
    doubled = all(after == 2 * before for before, after in itertools.pairwise(strides))
    if not strides or not doubled or strides[0] not in (4, 8, 16, 32):
        raise LimbeckError(
            f"strides: expected 4, 8, 16 or 32, and then each twice the one before it, got {list(strides)}"
        )
    return list(strides)


def _timm_net(spec: ModelSpec, shape: Shape, options: Mapping[str, Any]) -> tuple[Any, list[int]]:
    given = ModelSpec(spec.name, {**options, "features_only": True})
    try:
        # Its head is left out, so it has no classes.
        net: Any = build_timm(given, Shape(0, shape.in_channels, shape.image_size))
    except AttributeError:
        raise LimbeckError(f"{spec.name} gives no maps of features; take a convolutional net") from None
    return net, [int(each) for each in net.feature_info.reduction()]


def _chosen(reductions: Sequence[int], strides: Sequence[int], name: str) -> list[int]:
    """Which of a net's maps have the strides; of several the last."""
    places = {reduction: index for index, reduction in enumerate(reductions)}
    missing = [stride for stride in strides if stride not in places]
    if missing:
        raise LimbeckError(
            f"{name} has maps at strides {', '.join(map(str, sorted(places)))}, not at {', '.join(map(str, missing))}; "
            "give others with the option `strides`, or take another backbone"
        )
    return [places[stride] for stride in strides]


def _places(model: nn.Module, shape: Shape, strides: Sequence[int], name: str) -> list[str]:
    """For each stride the path of the last module that gives such a map; of a stage rather than of a layer in one."""
    found: dict[tuple[int, ...], str] = {}
    handles = []

    def note(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                size, depth = tuple(output.shape[2:]), path.count(".")
                if size not in found or depth <= found[size].count("."):
                    found[size] = path

        return hook

    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_hook(note(path)))
    try:
        with torch.no_grad():
            model(torch.zeros(1, shape.in_channels, *shape.image_size))
    finally:
        for handle in handles:
            handle.remove()
    wanted = [_at_stride(shape, stride) for stride in strides]
    missing = [stride for stride, size in zip(strides, wanted, strict=True) if size not in found]
    if missing:
        raise LimbeckError(
            f"{name} has no maps at strides {', '.join(map(str, missing))}; give others with the option `strides`, or "
            "take another backbone"
        )
    return [found[size] for size in wanted]


def _at_stride(shape: Shape, stride: int) -> tuple[int, int]:
    height, width = shape.image_size
    return math.ceil(height / stride), math.ceil(width / stride)
