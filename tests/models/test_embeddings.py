"""Embedding models: any backbone, saved and loaded, and InsightFace's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models import ModelSpec, Shape, build, forward_of, load, save
from limbeck.models.iresnet import BLOCKS, IResNet
from limbeck.teachers import Live
from limbeck.types import Preprocessing

SHAPE = Shape(0, 3, (32, 32), "embedding")
THIN = {"widths": [4, 4, 8, 8]}

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("iresnet10", THIN),
    ("iresnet18", {**THIN, "dropout": 0.3}),
    ("resnet8", {}),
    ("resnet8", {"neck": "flat"}),
    ("vgg8", {}),
    ("conv-student", {}),
    ("timm:resnet10t", {}),
    ("timm:resnet10t", {"neck": "flat"}),
    ("torchvision:shufflenet_v2_x0_5", {}),
]


def made(name: str, options: dict[str, Any], shape: Shape = SHAPE) -> nn.Module:
    torch.manual_seed(0)
    return build(ModelSpec(f"embedding:{name}", {"width": 12, **options}), shape)


def inputs(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_any_backbone_gives_an_embedding_and_is_saved(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """A head that stays, a map that is no vector, a model that is built otherwise when it is loaded."""
    model = made(name, options)
    assert not any(isinstance(each, nn.Linear) and each.out_features == 1000 for each in model.modules())
    model(inputs())["embedding"].square().sum().backward()
    spec = ModelSpec(f"embedding:{name}", {"width": 12, **options})
    pixels = Preprocessing((32, 32), 3, (0.5,) * 3, (0.5,) * 3)
    save(model, tmp_path, spec=spec, classes=(), preprocessing=pixels, task="face-recognition", shape=SHAPE)
    again = load(tmp_path)
    expected, got = model.eval()(inputs())["embedding"], again(inputs())["embedding"]
    assert expected.shape == (4, 12)
    assert torch.equal(got, expected)
    assert forward_of(again)({"inputs": inputs()}).keys() == {"embedding"}
    assert type(build(ModelSpec(str(tmp_path)), SHAPE)) is type(model)


def test_a_flat_neck_sees_where_things_are() -> None:
    """A mean over places in a neck that is to tell a mouth from an eye."""
    flat, pooled = (made("resnet8", {"neck": neck}).eval() for neck in ("flat", "pooled"))
    corner = torch.zeros(1, 3, 32, 32)
    corner[:, :, 8:16, 8:16] = 1.0
    moved = corner.roll((8, 8), (2, 3))
    with torch.no_grad():
        apart = [
            float((model(corner)["embedding"] - model(moved)["embedding"]).abs().max()) for model in (flat, pooled)
        ]
    assert apart[0] > 10 * apart[1]


def test_the_published_iresnets() -> None:
    """Another structure than InsightFace's, whose weights then do not load: parameters (24,025,600 of iresnet18, for
    embeddings 512 wide of 112 pixels) and every name of its state dict."""
    for name, blocks in BLOCKS.items():
        with torch.device("meta"):
            backbone = IResNet(blocks=blocks)
        expected, before = 3 * 64 * 9 + 2 * 64 + 64, 64
        for count, width in zip(blocks, (64, 128, 256, 512), strict=True):
            for at in range(count):
                expected += 2 * before + 9 * before * width + 2 * width + width + 9 * width * width + 2 * width
                expected += before * width + 2 * width if at == 0 else 0
                before = width
        assert sum(each.numel() for each in backbone.parameters()) == expected
        if name == "iresnet18":
            assert expected + 2 * 512 + (512 * 49 + 1) * 512 + 2 * 512 == 24_025_600
    model = made("iresnet10", THIN)
    own = model.state_dict()
    theirs = {
        key.replace("backbone.", "").replace("embedding.norm", "bn2").replace("embedding.linear", "fc")
        .replace("embedding.features", "features"): torch.randn_like(value) if value.is_floating_point() else value
        for key, value in own.items()
    }  # fmt: skip
    assert {"conv1.weight", "prelu.weight", "layer1.0.bn1.weight", "layer4.0.downsample.0.weight", "bn2.running_mean",
            "fc.bias", "features.weight"} <= theirs.keys()  # fmt: skip
    model.load_state_dict(theirs)
    assert torch.equal(model.state_dict()["embedding.linear.weight"], theirs["fc.weight"])
    assert torch.equal(model.state_dict()["backbone.bn1.weight"], theirs["bn1.weight"])


def test_the_scale_of_the_last_norm_is_not_trained() -> None:
    """Axes of a direction that are stretched, which ArcFace's own models do not do."""
    model = made("iresnet10", THIN)
    free = {name for name, each in model.named_parameters() if not each.requires_grad}
    assert free == {"embedding.features.weight"}


def test_a_teacher_of_pre_activations_folds() -> None:
    """A norm before a convolution that is taken for one behind the convolution whose output has its place in memory."""
    for seed in range(5):
        torch.manual_seed(seed)
        model = made("iresnet18", THIN).train()
        model(inputs(16))
        model.eval()
        teacher = Live(model)
        teacher.require(["embedding"])
        expected = model(inputs())["embedding"]
        torch.testing.assert_close(teacher({"inputs": inputs()})["embedding"], expected, rtol=1e-3, atol=1e-3)


def test_mistakes_are_named(tmp_path: Path) -> None:
    """Each with what to write instead."""
    for name, options, said in (
        ("embedding:resnet21", {}, "unknown backbone 'resnet21'; did you mean"),
        ("embedding:resnet8", {"width": "wide"}, "width: expected a whole number"),
        ("embedding:resnet8", {"dropout": 1.5}, "dropout: expected a share"),
        ("embedding:resnet8", {"neck": "flatt"}, "neck: unknown 'flatt'; did you mean 'flat'"),
        ("embedding:iresnet10", {"neck": "pooled"}, "leave neck out"),
        ("embedding:iresnet10", {"widths": [1, 2]}, "channels of four stages"),
        ("embedding:iresnet10", {"blocks": 3}, "takes no option 'blocks'"),
        ("embedding:torchvision:mobilenet_v2", {"neck": "flat"}, "shows no map"),
        ("embedding:torchvision:squeezenet1_1", {}, "no linear layer at its end"),
        ("embedding:torchvision:googlenet", {}, "heads beside its last"),
        ("embedding:hf:vit", {}, "take timm:NAME"),
        ("resnet8", {}, "write embedding:resnet8"),
        ("timm:resnet10t", {}, "write embedding:timm:resnet10t"),
    ):
        with pytest.raises(LimbeckError, match=said):
            build(ModelSpec(name, options), SHAPE)
    with pytest.raises(LimbeckError, match="the data ask for something else"):
        build(ModelSpec("embedding:resnet8"), Shape(10, 3, (32, 32)))
    model = build(ModelSpec("resnet8"), Shape(2, 3, (32, 32)))
    pixels = Preprocessing((32, 32), 3, (0.5,) * 3, (0.5,) * 3)
    save(model, tmp_path, spec=ModelSpec("resnet8"), classes=("a", "b"), preprocessing=pixels)
    with pytest.raises(LimbeckError, match="one of classification, the data ask for embedding"):
        build(ModelSpec(str(tmp_path)), SHAPE)
