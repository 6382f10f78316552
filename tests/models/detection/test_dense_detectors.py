"""Dense detectors: the same losses and detections as torchvision's own, one picture at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.detection.scenes import CLASSES, FAMILIES, HEIGHT, SHAPE, WIDTH, detector, scenes, spec_of
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from limbeck import LimbeckError
from limbeck.models import ModelSpec, Shape, build, load, save
from limbeck.models.detection import Detections
from limbeck.models.detection.logits import log_odds
from limbeck.types import Preprocessing

UNCHANGED = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}


def shaken(model: nn.Module) -> nn.Module:
    """The model with larger weights in its last layers, so that untrained scores and boxes differ."""
    generator = torch.Generator().manual_seed(5)
    for name, each in model.named_parameters():
        if ".head." in name and each.dim() == 4:
            each.data += torch.randn(each.shape, generator=generator) * 0.15
        if "cls_logits" in name and each.dim() == 1:
            each.data += 3.0
    return model


def torchvisions(name: str, mine: Any) -> Any:
    """torchvision's own detector around the same backbone, with the same weights and its own head."""
    options = FAMILIES[name][1]
    pyramid, strides, chosen = mine.network.backbone, options["strides"], mine.selection
    many = {
        "score_thresh": chosen.score, "nms_thresh": chosen.overlap, "detections_per_img": chosen.detections,
        "topk_candidates": chosen.candidates, "anchor_generator": mine.network.anchor_generator, **UNCHANGED,
    }  # fmt: skip
    size = {"min_size": HEIGHT, "max_size": WIDTH}
    if name == "fcos":
        own = FCOS(pyramid, CLASSES, head=FCOSHead(32, 1, CLASSES, options["blocks"]), **size, **many)
        for head in (own.head.classification_head, own.head.regression_head):
            head.conv = nn.Sequential(*(_like(layer) for layer in head.conv))
        own.head.classification_head.cls_logits = nn.Conv2d(16, CLASSES, 3, padding=1)
        own.head.regression_head.bbox_reg = nn.Conv2d(16, 4, 3, padding=1)
        own.head.regression_head.bbox_ctrness = nn.Conv2d(16, 1, 3, padding=1)
    elif name == "retinanet":
        head = RetinaNetHead(16, 9, CLASSES)
        for part in (head.classification_head, head.regression_head):
            part.conv = part.conv[: options["blocks"]]
        own = RetinaNet(pyramid, CLASSES, head=head, **size, **many)
    else:
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        head = SSDLiteHead([16] * len(strides), [6] * len(strides), CLASSES + 1, norm)
        own = SSD(pyramid, size=(WIDTH, HEIGHT), num_classes=CLASSES + 1, head=head, **many)
    own.head.load_state_dict(mine.network.head.state_dict())
    return own


def _like(layer: nn.Module) -> nn.Module:
    """A layer of torchvision's head, of 16 channels instead of 32, of which it cannot be made."""
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(16, 16, 3, padding=1)
    return nn.GroupNorm(16, 16) if isinstance(layer, nn.GroupNorm) else layer


def as_torchvision(batch: dict[str, Tensor], shift: int) -> list[dict[str, Tensor]]:
    pairs = zip(batch["boxes"], batch["box_classes"], strict=True)
    return [{"boxes": boxes[kinds >= 0], "labels": kinds[kinds >= 0] + shift} for boxes, kinds in pairs]


def with_an_empty_picture(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    batch["boxes"][3], batch["box_classes"][3] = 0.0, -1
    return batch


@pytest.mark.parametrize("name", ["fcos", "retinanet", "ssdlite"])
def test_losses_and_detections_are_torchvision_s(name: str) -> None:
    """Another matching, another divisor, anchors of another place, or scores of another form."""
    mine = shaken(detector(name))
    own, batch = torchvisions(name, mine), with_an_empty_picture(scenes(4))
    shift = 1 if name == "ssdlite" else 0
    losses = own.train()(list(batch["inputs"]), as_torchvision(batch, shift))
    got = mine.train()(batch["inputs"], batch["boxes"], batch["box_classes"])
    torch.testing.assert_close(got["model_loss"].mean(), sum(losses.values()), rtol=1e-5, atol=1e-5)
    assert got["model_loss"].shape == (4,)
    with torch.no_grad():
        expected = own.eval()(list(batch["inputs"]))
        found = mine.eval().detections(mine(batch["inputs"]))
    assert all(len(each) > 3 for each in found)
    for each, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(each.boxes, theirs["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(each.scores, theirs["scores"], rtol=1e-4, atol=1e-5)
        assert torch.equal(each.classes + shift, theirs["labels"])


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_without_annotation_take_no_part(name: str) -> None:
    """Pictures that only the teacher knows, taught as background, or in the divisor of the others."""
    model, batch = detector(name).eval(), scenes(4)
    known = torch.tensor([True, False, True, True])
    batch["boxes"][1], batch["box_classes"][1] = 0.0, -1
    whole = model(batch["inputs"], batch["boxes"], batch["box_classes"], known)["model_loss"]
    few = model(batch["inputs"][known], batch["boxes"][known], batch["box_classes"][known])["model_loss"]
    assert float(whole[1].detach()) == 0.0
    torch.testing.assert_close(whole[known], few)
    none = model(batch["inputs"], batch["boxes"], batch["box_classes"], torch.zeros(4, dtype=torch.bool))["model_loss"]
    assert none.requires_grad
    assert bool((none == 0).all())


@pytest.mark.parametrize("name", FAMILIES)
def test_odd_boxes(name: str) -> None:
    """Boxes without width, of one pixel, at the border, many, or none in the whole batch, that give NaN."""
    model, batch = detector(name), scenes(2)
    for boxes, kinds in [
        (torch.tensor([[[5.0, 5, 5, 30], [0, 0, WIDTH, HEIGHT]], [[95, 63, 96, 64], [3, 3, 4, 4]]]), [[0, 1], [2, 2]]),
        (torch.zeros(2, 0, 4), [[], []]),
        (torch.zeros(2, 1, 4), [[-1], [-1]]),
        (torch.rand(2, 200, 4) @ torch.tensor([[30.0, 0, 30, 0], [0, 20, 0, 20], [0, 0, 30, 0], [0, 0, 0, 20]]),
         [[0] * 200] * 2),
    ]:  # fmt: skip
        loss = model(batch["inputs"], boxes, torch.tensor(kinds, dtype=torch.int64).view(2, -1))["model_loss"]
        loss.sum().backward()
        assert bool(loss.isfinite().all())
    assert all(each.grad is None or bool(each.grad.isfinite().all()) for each in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_locations_in_a_crowd_are_not_background(name: str) -> None:
    """A detector that is taught that there is nobody in a crowd."""
    model, batch = detector(name), scenes(1)
    everywhere = torch.tensor([[[-500.0, -500, 900, 900]]])
    crowd, box = torch.tensor([[-2]]), torch.tensor([[1]])
    assert float(model(batch["inputs"], everywhere, crowd)["model_loss"].detach()) == 0.0
    both = torch.cat([everywhere, batch["boxes"][:, :1]], 1)
    inside = model(batch["inputs"], both, torch.cat([crowd, box], 1))["model_loss"]
    outside = model(batch["inputs"], batch["boxes"][:, :1], box)["model_loss"]
    assert 0.0 < float(inside.detach()) < float(outside.detach())


@pytest.mark.parametrize("blocks", [2, 6])
def test_towers_have_as_many_blocks_as_asked(blocks: int) -> None:
    """A tower of RetinaNet that stops at torchvision's four blocks, or in which one block stands twice."""
    model = detector("retinanet", blocks=blocks)
    assert model.head.blocks == blocks
    for tower in (model.head.classification_head.conv, model.head.regression_head.conv):
        weights = [each for name, each in tower.named_parameters() if each.dim() == 4]
        assert len(weights) == blocks
        assert len({each.detach().numpy().tobytes() for each in weights}) == blocks
        assert all(0.008 < float(each.detach().std()) < 0.012 for each in weights)


def test_distances_are_the_mean_of_their_distribution() -> None:
    """Bins at other places than the boxes are decoded from."""
    signal = detector("fcos-bins")(scenes(2)["inputs"])
    assert signal["distribution"].shape == signal["edges"].shape == (2, signal["logits"].shape[1], 4, 9)
    mean = (signal["distribution"].softmax(-1) * signal["edges"]).sum(-1)
    torch.testing.assert_close(mean, signal["boxes"], rtol=1e-4, atol=1e-3)


def test_the_distribution_focal_loss() -> None:
    """Shares of the bins below and above an edge that are swapped, or steps of another size."""
    model = detector("fcos-bins")
    head = model.network.head
    anchors = torch.tensor([[4.0, 4, 12, 12], [20, 20, 36, 36]])
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[-1.0, 2, 20, 20], [12, 10, 60, 44]])
    got = head._distribution_loss({"boxes": boxes}, logits, anchors, torch.tensor([0, 1]))
    values, step = [], head.reach / 8
    for anchor, box, row in zip(
        anchors.tolist(), boxes.tolist(), logits.double().log_softmax(-1).tolist(), strict=True
    ):
        stride, x, y = anchor[2] - anchor[0], (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
        for edge, distance in enumerate((x - box[0], y - box[1], box[2] - x, box[3] - y)):
            place = distance / stride / step
            below = int(place)
            values.append(-((below + 1 - place) * row[edge][below] + (place - below) * row[edge][below + 1]))
    assert float(got) == pytest.approx(0.25 * sum(values) / 4 / 2, rel=1e-5)


def test_log_odds_keep_scores() -> None:
    """Scores of a softmax that the sigmoid does not give back, also of sure classes."""
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 12
    exact = logits.double().softmax(-1)
    torch.testing.assert_close(log_odds(logits).sigmoid().double(), exact, rtol=1e-4, atol=1e-7)
    rest = 1 - exact
    fine = rest > 1e-12
    odds = (exact.log() - rest.log())[fine]
    torch.testing.assert_close(log_odds(logits).double()[fine], odds, rtol=1e-4, atol=1e-3)


def test_half_precision_keeps_pixels() -> None:
    """Anchors rounded to bfloat16, which has no pixels beyond 256."""
    model = detector("fcos").to(torch.bfloat16)
    signal = model(scenes(1)["inputs"].bfloat16())
    assert signal["boxes"].dtype is torch.float32
    assert torch.equal(model.anchors_on(torch.device("cpu")), detector("fcos").anchors_on(torch.device("cpu")))


@pytest.mark.parametrize("name", ["fcos-bins", "retinanet"])
def test_another_head_goes_on_where_it_was_held(name: str) -> None:
    """Features held at another block than the head goes on from, or weights of the teacher that get a gradient."""
    model = detector(name).eval()
    for hold in (0, 1, 2):
        model.hold = hold
        signal = model(scenes(2)["inputs"])
        held = [signal[each] for each in ("classification", "regression")]
        leaves = [(each.relu() if hold else each).detach().requires_grad_() for each in held]
        crossed = model.crossed(leaves[0], leaves[1], hold)
        for part in crossed.keys() & {"logits", "boxes", "quality", "distribution"}:
            torch.testing.assert_close(crossed[part], signal[part], rtol=1e-4, atol=1e-4)
        sum(each.sum() for each in crossed.values()).backward()
        assert all(leaf.grad is not None for leaf in leaves)
        assert all(each.grad is None for each in model.parameters())
        assert set(signal) | {"model_loss"} == set(model.signals)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_folder_comes_back_bit_equal(name: str, tmp_path: Path) -> None:
    """Options, anchors or weights that are lost on the way."""
    model, spec = detector(name).eval(), spec_of(name)
    pixels = Preprocessing((HEIGHT, WIDTH), 3, (0.0,) * 3, (1.0,) * 3)
    save(
        model, tmp_path / "model", spec=spec, classes="abc", preprocessing=pixels, shape=SHAPE, task="object-detection"
    )
    inputs = scenes(2)["inputs"]
    expected = model(inputs)
    for again in (load(tmp_path / "model"), build(ModelSpec(str(tmp_path / "model")), SHAPE).eval()):
        got = again(inputs)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[key], expected[key]) for key in expected)
        assert isinstance(again.detections(got)[0], Detections)


@pytest.mark.parametrize(
    ("spec", "shape", "says"),
    [
        (ModelSpec("timm:resnet18"), SHAPE, "did you mean fcos:timm:resnet18"),
        (ModelSpec("resnet20"), SHAPE, "finds no objects"),
        (ModelSpec("fcos:timm:resnet18"), Shape(3, 3, (64, 64)), "the data ask for classification"),
        (ModelSpec("fcos:timm:resnet18", {"chanels": 3}), SHAPE, "did you mean 'channels'"),
        (ModelSpec("fcos:timm:resnet18", {"strides": [8, 24]}), SHAPE, "twice the one before"),
        (ModelSpec("fcos:timm:resnet18", {"distribution": 1}), SHAPE, "3 bins or more"),
        (ModelSpec("fcos:timm:resnet17"), SHAPE, "no model 'resnet17'"),
        (ModelSpec("fcos:resnet18"), SHAPE, "expected timm:NAME or torchvision:NAME"),
        (ModelSpec("fcos:timm:test_vit"), SHAPE, "strides|takes no pictures"),
        (ModelSpec("fcos:timm:resnet18"), Shape(3, 3, (64, 70), "detection"), "divisor"),
        (ModelSpec("fcos:torchvision:squeezenet1_1"), SHAPE, "no maps at strides"),
    ],
)
def test_what_cannot_be_built_is_named(spec: ModelSpec, shape: Shape, says: str) -> None:
    """A stack trace from inside of timm or torchvision."""
    with pytest.raises(LimbeckError, match=says):
        build(spec, shape)


def test_pictures_of_another_size_are_named() -> None:
    """Anchors that lie beside the maps."""
    with pytest.raises(LimbeckError, match="built for pictures of 64×96"):
        detector("fcos")(torch.zeros(1, 3, 64, 64))


def test_torchvision_backbones() -> None:
    """A backbone cut inside of a stage, or one whose unused layers get no gradient."""
    model = build(ModelSpec("fcos:torchvision:mobilenet_v3_small", {"channels": 16, "blocks": 1}), SHAPE)
    assert list(model.network.backbone.backbone.places) == ["features.3", "features.8", "features"]
    batch = scenes(2)
    model(batch["inputs"], batch["boxes"], batch["box_classes"])["model_loss"].sum().backward()
    assert all(each.grad is not None for each in model.parameters())
