"""Models of keypoints: what they give, kept and opened again, and what a name or an option that does not fit says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.losses import CWD, FeatureMSE, HeatmapMSE, SimCCKD, SupervisedHeatmaps, SupervisedSimCC
from limbeck.models import ModelSpec, Shape, build, forward_of, load, save
from limbeck.models.poses import KeypointModel, is_vitpose
from limbeck.teachers import Live
from limbeck.terms import Term
from limbeck.types import Preprocessing

SIZE = (64, 96)
JOINTS = ("nose", "left_ear", "right_ear")
SHAPE = Shape(len(JOINTS), 3, SIZE, "keypoints")
PIXELS = Preprocessing(SIZE, 3, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))

RESNET = ModelSpec("heatmaps:timm:test_resnet", {"deconvolution": [8, 8], "stride": 16})
SIMCC = ModelSpec("simcc:timm:test_resnet", {"split": 1.5})
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
VITPOSE = ModelSpec("hf:vitpose", {"pretrained": False, "config": {"backbone_config": VIT, "scale_factor": 2}})

CASES = {
    "a timm net, cut at a stride": (RESNET, {"heatmaps": (16, 24)}),
    "a timm net to its end": (ModelSpec("heatmaps:timm:test_resnet", {"deconvolution": [8]}), {"heatmaps": (4, 6)}),
    "a ViT of timm": (ModelSpec("heatmaps:timm:test_vit", {"deconvolution": []}), {"heatmaps": (4, 6)}),
    "a torchvision net": (
        ModelSpec("heatmaps:torchvision:mobilenet_v3_small", {"deconvolution": [8, 8]}), {"heatmaps": (8, 12)}),
    "simcc": (SIMCC, {"simcc_x": (144,), "simcc_y": (96,)}),
    "simcc with deconvolutions": (
        ModelSpec("simcc:timm:test_resnet", {"deconvolution": [8]}), {"simcc_x": (192,), "simcc_y": (128,)}),
    "ViTPose": (VITPOSE, {"heatmaps": (8, 12)}),
}  # fmt: skip


def inputs(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def batch() -> dict[str, torch.Tensor]:
    points = torch.rand(2, len(JOINTS), 3, generator=torch.Generator().manual_seed(2)) * 60
    points[..., 2] = 1.0
    return {"inputs": inputs(), "keypoints": points, "labels": torch.tensor([1, -1]), "ids": torch.arange(2)}


@pytest.mark.parametrize(("spec", "shapes"), CASES.values(), ids=CASES.keys())
def test_what_is_given_is_kept(spec: ModelSpec, shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    """Maps of another size than the head says, a model that another comes back as, or one that the hub is asked for."""
    torch.manual_seed(0)
    model = build(spec, SHAPE).eval()
    with torch.no_grad():
        signal = forward_of(model)({"inputs": inputs()})
    assert {name: tuple(tensor.shape[2:]) for name, tensor in signal.items()} == shapes
    assert all(tensor.shape[:2] == (2, len(JOINTS)) for tensor in signal.values())
    save(model, tmp_path / "m", spec=spec, shape=SHAPE, classes=JOINTS, preprocessing=PIXELS, task="pose-estimation")
    with torch.no_grad():
        again = forward_of(load(tmp_path / "m"))({"inputs": inputs()})
        opened = forward_of(build(ModelSpec(str(tmp_path / "m")), SHAPE).eval())({"inputs": inputs()})
    for name, tensor in signal.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(opened[name], tensor, rtol=0, atol=0)


def test_transformers_opens_a_saved_vitpose(tmp_path: Path) -> None:
    """A folder that only limbeck reads."""
    from transformers import VitPoseForPoseEstimation

    torch.manual_seed(0)
    model: Any = build(VITPOSE, SHAPE).eval()
    assert is_vitpose(model)
    save(model, tmp_path / "m", spec=VITPOSE, shape=SHAPE, classes=JOINTS, preprocessing=PIXELS)
    with torch.no_grad():
        expected = model(inputs()).heatmaps
        given: Any = VitPoseForPoseEstimation.from_pretrained(tmp_path / "m")
        torch.testing.assert_close(given(inputs()).heatmaps, expected)
        named: Any = build(ModelSpec(f"hf:{tmp_path / 'm'}"), SHAPE).eval()
        torch.testing.assert_close(named(inputs()).heatmaps, expected)
    with pytest.raises(LimbeckError, match="has 3 joints, the data 5; give the option `ignore_mismatched_sizes"):
        build(ModelSpec(f"hf:{tmp_path / 'm'}"), Shape(5, 3, SIZE, "keypoints"))
    other = build(ModelSpec(f"hf:{tmp_path / 'm'}", {"ignore_mismatched_sizes": True}), Shape(5, 3, SIZE, "keypoints"))
    assert forward_of(other)({"inputs": inputs()})["heatmaps"].shape == (2, 5, 8, 12)


def test_a_map_of_the_input_moves_with_it() -> None:
    """A head whose cells are not where its backbone's are: a shift of the input by its stride is not one of the map."""
    torch.manual_seed(0)
    model = build(ModelSpec("heatmaps:timm:test_resnet", {"deconvolution": [8], "stride": 8}), SHAPE).eval()
    picture = torch.zeros(1, 3, *SIZE)
    picture[..., 24:40, 40:56] = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        here = model(picture)["heatmaps"]
        there = model(picture.roll((8, 8), (2, 3)))["heatmaps"]
    torch.testing.assert_close(here.roll((2, 2), (2, 3))[..., 5:11, 9:15], there[..., 5:11, 9:15], atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("teacher", [RESNET, VITPOSE], ids=["resnet", "vitpose"])
def test_heatmaps_are_taught_by_name(teacher: ModelSpec) -> None:
    """A teacher's heatmaps looked for among its modules, a size that differs, a feature without a projector."""
    student = build(ModelSpec("heatmaps:timm:test_resnet", {"deconvolution": [8], "stride": 8}), SHAPE)
    terms = [Term(SupervisedHeatmaps()), Term(HeatmapMSE())]
    if teacher is RESNET:
        terms.append(Term(FeatureMSE(), student="head.deconvolutions.input", teacher="head.deconvolutions.input"))
    taught = build(teacher, SHAPE)
    distiller = Distiller(student, taught, terms, example=batch())
    output = distiller(batch())
    output.loss.backward()
    assert all(bool(value.isfinite()) for value in output.terms.values())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in taught.parameters())


def test_coordinates_are_taught_by_name() -> None:
    """Signals taken together that are looked for one by one, or the taps that nobody named."""
    student, teacher = build(SIMCC, SHAPE), build(SIMCC, SHAPE)
    terms = [Term(SupervisedSimCC()), Term(SimCCKD()), Term(FeatureMSE())]
    distiller = Distiller(student, teacher, terms, example=batch())
    distiller(batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_tokens_and_last_maps_are_taught() -> None:
    """ViTPose's tokens out of reach, or a last stage that is the head's."""
    deep = {**VIT, "hidden_size": 24, "num_hidden_layers": 3}
    larger = ModelSpec("hf:vitpose", {"pretrained": False, "config": {"backbone_config": deep, "scale_factor": 2}})
    tokens = Term(FeatureMSE(), student="hidden.1", teacher="hidden.2")
    distiller = Distiller(build(VITPOSE, SHAPE), build(larger, SHAPE), [tokens], example=batch())
    assert float(distiller(batch()).terms["feature-mse"]) > 0
    maps = Distiller(build(RESNET, SHAPE), build(RESNET, SHAPE), [Term(CWD())], example=batch())
    assert maps.objective.terms[0].student == maps.objective.terms[0].teacher == "backbone.net.layer3"


def test_a_teacher_s_mistaken_signal_is_named() -> None:
    """Nothing said until the first step."""
    with pytest.raises(LimbeckError, match="the teacher has no module 'heatmap' to tap"):
        Live(build(RESNET, SHAPE)).require(["heatmap"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {}, "gives no keypoints; take heatmaps:timm:NAME"),
        ("heatmap:timm:resnet18", {}, "gives no keypoints; take heatmaps:timm:NAME,"),
        ("timm:resnet18", {}, "gives no keypoints; take heatmaps:timm:resnet18 or simcc:timm:resnet18"),
        ("heatmaps:resnet20", {}, "expected heatmaps:timm:NAME or heatmaps:torchvision:NAME"),
        ("heatmaps:timm:test_resent", {}, "did you mean 'test_resnet'"),
        ("heatmaps:timm:test_resnet", {"stride": 64}, "64×96 are no multiples of the stride 64"),
        ("heatmaps:timm:test_resnet", {"stride": 1}, "not at 1"),
        ("heatmaps:timm:test_resnet", {"deconvolution": 64}, "expected the option deconvolution as a list of widths"),
        ("heatmaps:timm:test_resnet", {"split": 2}, "takes no option 'split'"),
        ("simcc:timm:test_resnet", {"split": 0}, "expected the option split as a number above 0"),
        ("heatmaps:timm:test_resnet", {"depth": 3}, "an option does not fit"),
        ("hf:vit", {"pretrained": False}, "is a vit, which finds no keypoints; take a ViTPose"),
        ("hf:vitpose", {"pretrained": False, "config": {"scale": 2}}, "has no 'scale'"),
        ("hf:vitpose", {"pretrained": False, "config": {"backbone_config": {"layers": 2}}}, "has no 'layers'"),
        ("hf:vitpose", {"pretrained": False, "config": {"backbone_config": {"num_experts": 6}}}, "has experts"),
    ],
)
def test_what_cannot_be_built_is_named(name: str, options: dict[str, Any], message: str) -> None:
    """A backbone cut in the wrong place, or a classifier taken for a pose model."""
    with pytest.raises(LimbeckError, match=message):
        build(ModelSpec(name, options), SHAPE)


def test_other_data_ask_for_no_keypoints() -> None:
    """A pose model built for classes."""
    with pytest.raises(LimbeckError, match="gives keypoints, which these data do not ask for"):
        build(RESNET, Shape(3, 3, SIZE))


def test_the_head_begins_small() -> None:
    """Heatmaps of the default initialisation, which swamp the first steps (SimpleBaseline draws with σ = 0.001)."""
    model = build(RESNET, SHAPE)
    assert isinstance(model, KeypointModel)
    for layer in model.head.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.weight.std().item() == pytest.approx(0.001, rel=0.3)
