"""Models that give an embedding: any backbone, and the layers that turn what it gives into a vector."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models.builtin import BUILT_IN, build_built_in, call_builder
from limbeck.models.forward import evaluating
from limbeck.models.iresnet import BLOCKS, IResNet
from limbeck.models.libraries import build_timm, build_torchvision
from limbeck.models.spec import AnyShape, ModelSpec, Shape
from limbeck.models.weights import accept_renamed

EMBEDDING: Final = "embedding"
PREFIX = "embedding:"
WIDTH = 512
NECKS = ("pooled", "flat")
PLACEHOLDER = 1000
"""Classes of the head that is taken off; those of ImageNet, whose weights torchvision loads with it."""

SIDE_HEADS = ("torchvision:googlenet", "torchvision:inception_v3")

Neck = Literal["pooled", "flat"]


class EmbeddingNeck(nn.Module):
    """From what a backbone gives to an embedding (batch, width): dropout, a linear layer, BatchNorm without a scale.

    A map (batch, channels, height, width) is normalised and flattened first, so that every place of it has weights of
    its own, which aligned faces are better recognised with (option E of Deng et al. 2019, "ArcFace",
    arXiv:1801.07698).
    """

    def __init__(self, given: tuple[int, ...], width: int, dropout: float) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm2d(given[0]) if len(given) == 3 else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(torch.Size(given).numel(), width)
        self.features = nn.BatchNorm1d(width)
        # Its scale would only stretch the axes of a direction.
        self.features.weight.requires_grad_(False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, width)."""
        embedding: Tensor = self.features(self.linear(self.dropout(self.norm(hidden).flatten(1))))
        return embedding


class EmbeddingModel(nn.Module):
    """A backbone and its neck; gives `{"embedding": (batch, width)}`, not normalised.

    Loads the published weights of InsightFace's IResNets, whose neck is bn2, fc and features.
    """

    signals = (EMBEDDING,)

    def __init__(self, backbone: nn.Module, neck: EmbeddingNeck) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding = neck
        if isinstance(backbone, IResNet):
            renames = [
                (r"^(conv1|bn1|prelu|layer[1-4])\.", r"backbone.\1."),
                (r"^bn2\.", "embedding.norm."),
                (r"^fc\.", "embedding.linear."),
                (r"^features\.", "embedding.features."),
            ]
            accept_renamed(self, renames)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """The embedding of inputs (batch, channels, height, width)."""
        return {EMBEDDING: self.embedding(self.backbone(inputs))}


def build_embedding(spec: ModelSpec, shape: Shape) -> nn.Module:
    """`embedding:BACKBONE`: the backbone is `iresnet10` to `iresnet100`, `timm:NAME`, `torchvision:NAME`, or a net that
    limbeck has itself; options are `width` (of the embedding, 512), `neck`, `dropout`, and those of the backbone.

    `neck` is `pooled`, a vector of means over the map, or `flat`, the whole map (IResNets have no other).

    Raises:
        LimbeckError: a name or an option is unknown, or the backbone gives no such thing.
    """
    options = dict(spec.options)
    width, dropout = options.pop("width", WIDTH), options.pop("dropout", 0.0)
    if type(width) is not int or width < 1:
        raise LimbeckError(f"model {spec.name!r}: width: expected a whole number of at least 1, got {width!r}")
    if not (isinstance(dropout, int | float) and 0 <= dropout < 1):
        raise LimbeckError(f"model {spec.name!r}: dropout: expected a share from 0 to 1, got {dropout!r}")
    name = spec.name.removeprefix(PREFIX)
    neck: Any = options.pop("neck", "flat" if name in BLOCKS else "pooled")
    if neck not in NECKS:
        raise LimbeckError(f"model {spec.name!r}: neck: unknown {neck!r}{nearest(str(neck), NECKS)}")
    backbone = _backbone(ModelSpec(name, options), shape, neck)
    with torch.no_grad(), evaluating(backbone):
        given = backbone(torch.zeros(1, shape.in_channels, *shape.image_size))
    if not isinstance(given, Tensor) or given.dim() < 2:
        raise LimbeckError(f"model {spec.name!r}: the backbone gives a {type(given).__name__}; take another")
    if neck == "flat" and given.dim() == 2 and name not in BUILT_IN and not name.startswith("torchvision:"):
        raise LimbeckError(f"model {spec.name!r}: the backbone gives no map; take the neck 'pooled'")
    return EmbeddingModel(backbone, EmbeddingNeck(tuple(given.shape[1:]), width, float(dropout)))


def wants_embedding(spec: ModelSpec, shape: AnyShape) -> None:
    """Raises LimbeckError where a model that gives no embedding is asked for one, or the reverse."""
    asked = isinstance(shape, Shape) and shape.head == EMBEDDING
    if asked and not spec.name.startswith((PREFIX, "python:")):
        raise LimbeckError(
            f"model {spec.name!r} gives no embedding; write {PREFIX}{spec.name} (a backbone and a layer to an "
            "embedding, option width)"
        )
    if not asked and spec.name.startswith(PREFIX):
        raise LimbeckError(f"model {spec.name!r} gives an embedding, the data ask for something else; name another")


def _backbone(spec: ModelSpec, shape: Shape, neck: Neck) -> nn.Module:
    """What gives a vector or a map of pictures."""
    kind = spec.name.partition(":")[0]
    if spec.name in BLOCKS:
        if neck != "flat":
            raise LimbeckError(f"model {PREFIX}{spec.name}: gives a map, so its neck is 'flat'; leave neck out")
        built = call_builder(partial(IResNet, blocks=BLOCKS[spec.name]), spec, shape)
        assert isinstance(built, nn.Module)
        return built
    if kind == "timm":
        pooled = {} if neck == "pooled" else {"global_pool": ""}
        return build_timm(ModelSpec(spec.name, {**spec.options, **pooled}), _shaped(shape, 0))
    if spec.name in SIDE_HEADS:
        raise LimbeckError(f"model {PREFIX}{spec.name}: has heads beside its last; take another backbone")
    if kind == "torchvision":
        return _headless(build_torchvision(spec, _shaped(shape, PLACEHOLDER)), spec, neck)
    if kind == "hf":
        raise LimbeckError(f"model {PREFIX}{spec.name}: transformers' models are no backbones here; take timm:NAME")
    if spec.name not in BUILT_IN:
        known = [*BUILT_IN, *BLOCKS]
        raise LimbeckError(
            f"unknown backbone {spec.name!r}{nearest(spec.name, known)} (or timm:NAME, torchvision:NAME)"
        )
    return _headless(build_built_in(spec, _shaped(shape, PLACEHOLDER)), spec, neck)


def _shaped(shape: Shape, classes: int) -> Shape:
    return Shape(classes, shape.in_channels, shape.image_size)


def _headless(model: nn.Module, spec: ModelSpec, neck: Neck) -> nn.Module:
    """A classifier without its last layer, and for a flat neck without the mean over the map."""
    linear = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
    if not linear or model.get_submodule(linear[-1]).out_features != PLACEHOLDER:
        raise LimbeckError(f"model {PREFIX}{spec.name}: has no linear layer at its end to take off; take timm:NAME")
    _replace(model, linear[-1])
    if neck == "flat":
        means = [name for name, each in model.named_modules() if isinstance(each, nn.AdaptiveAvgPool2d)]
        if len(means) != 1:
            raise LimbeckError(f"model {PREFIX}{spec.name}: shows no map to flatten; take the neck 'pooled'")
        _replace(model, means[0])
    return model


def _replace(model: nn.Module, name: str) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Identity())
