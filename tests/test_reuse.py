"""The teacher's classifier reused: the same head to the bit, a projector that learns, saved and loaded."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, ViTConfig
from transformers import ViTForImageClassification as HubViT

from limbeck import Distiller, LimbeckError, load, save
from limbeck.models import CifarResNet, CifarVGG, ModelSpec, Shape, WideResNet, build, forward_of, read_card
from limbeck.models.reused import HeadProjector
from limbeck.reuse import reuse_head
from limbeck.taps import SignalReader
from limbeck.types import Preprocessing

SMALL = Preprocessing(size=(32, 32), channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


def pixels(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    return {"inputs": torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))}


def texts(count: int = 6, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(7) < torch.randint(3, 8, (count, 1), generator=generator)).long()
    return {"input_ids": torch.randint(1, 30, (count, 7), generator=generator) * mask, "attention_mask": mask}


def cifar(widths: tuple[int, int, int, int], classes: int = 4) -> nn.Module:
    return CifarResNet(depth=8, widths=widths, num_classes=classes)


def timm_resnet(widths: tuple[int, ...], classes: int = 4) -> nn.Module:
    model: nn.Module = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=classes, channels=widths)
    return model


def timm_vit(width: int, classes: int = 4) -> nn.Module:
    model: nn.Module = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=width, depth=2, num_heads=2, num_classes=classes
    )
    return model


def hub_vit(width: int, classes: int = 4) -> nn.Module:
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * width, num_labels=classes,
    )  # fmt: skip
    return HubViT(config)


def bert(width: int, classes: int = 4) -> nn.Module:
    config = BertConfig(
        vocab_size=30, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=2 * width,
        max_position_embeddings=12, num_labels=classes,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def gpt2(width: int) -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=width, n_layer=2, n_head=2, n_positions=12))


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], Any, tuple[str, str]]] = {
    "cifar": (lambda: cifar((4, 4, 8, 12)), lambda: cifar((8, 8, 16, 20)), pixels, ("avgpool.0", "layer3")),
    "wide": (
        lambda: cifar((4, 4, 8, 12)), lambda: WideResNet(depth=10, widen=1, num_classes=4), pixels,
        ("avgpool.0", "avgpool.0"),
    ),
    "to-a-smaller-map": (
        lambda: cifar((4, 4, 8, 12)), lambda: CifarVGG(convolutions=(1,) * 5, num_classes=4), pixels,
        ("avgpool.0", "layer5"),
    ),
    "to-a-larger-map": (
        lambda: CifarVGG(convolutions=(1,) * 5, num_classes=4), lambda: cifar((8, 8, 16, 20)), pixels,
        ("avgpool.0", "avgpool.0"),
    ),
    "torchvision": (
        lambda: torchvision.models.mobilenet_v2(num_classes=4, width_mult=0.35), lambda: cifar((8, 8, 16, 20)), pixels,
        ("classifier.1.0", "fc.0"),
    ),
    "torchvision-resnet": (
        lambda: cifar((16, 16, 16, 24)), lambda: torchvision.models.resnet18(num_classes=4),
        lambda count=6, seed=0: {"inputs": F.interpolate(pixels(count, seed)["inputs"], 64)}, ("avgpool.0", "layer4"),
    ),
    "timm-resnet": (
        lambda: timm_resnet((16, 16, 16, 24)), lambda: cifar((16, 16, 16, 20)),
        lambda count=6, seed=0: {"inputs": F.interpolate(pixels(count, seed)["inputs"], 64)},
        ("global_pool.pool.0", "avgpool.0"),
    ),
    "timm-vit": (lambda: timm_vit(12), lambda: timm_vit(16), pixels, ("head.0", "head_drop")),
    "vit-to-cnn": (lambda: cifar((4, 4, 8, 12)), lambda: timm_vit(16), pixels, ("fc.0", "head_drop")),
    "hub-vit": (lambda: hub_vit(12), lambda: hub_vit(16), pixels, ("classifier.0", "classifier.0")),
    "bert": (lambda: bert(12), lambda: bert(16), texts, ("classifier.0", "dropout")),
    "gpt2": (lambda: gpt2(12), lambda: gpt2(16), texts, ("lm_head.0", "lm_head.0")),
    "dense": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 4)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), nn.Linear(16, 4, bias=False)), pixels,
        ("3.0", "2"),
    ),
}  # fmt: skip


def pair(name: str) -> tuple[nn.Module, nn.Module, Any]:
    student, teacher, batch, _ = PAIRS[name]
    torch.manual_seed(0)
    models = student(), teacher()
    return *models, batch


def statistics(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """Moves BatchNorm's statistics away from where they start."""
    with torch.no_grad():
        forward_of(model.train())(batch)
    model.eval()


def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return forward_of(model.eval())(batch)["logits"]


@pytest.mark.parametrize("name", PAIRS)
def test_the_head_is_the_teacher_s_to_the_bit(name: str) -> None:
    """A head of its own, one that forgets the bias, a tap in the wrong place, or a teacher changed by being tapped."""
    student, teacher, batch = pair(name)
    statistics(teacher, batch())
    before = copy.deepcopy(teacher.state_dict()), copy.deepcopy(student.state_dict())
    theirs = logits(teacher, batch())
    reused = reuse_head(student, teacher, batch())
    assert (reused.student_tap, reused.teacher_tap) == PAIRS[name][3]
    for model, state in ((teacher, before[0]), (student, before[1])):
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    torch.testing.assert_close(logits(reused.teacher, batch()), theirs)
    with torch.no_grad():
        taught = SignalReader(reused.teacher, [reused.teacher_tap], "teacher")(batch())
        mine = SignalReader(reused.student.eval(), [reused.student_tap], "student")(batch())
    assert mine[reused.student_tap].shape == taught[reused.teacher_tap].shape
    # What the teacher's tap gives, through the student's head, are the teacher's logits.
    reused.student.get_submodule(reused.student_tap).register_forward_hook(
        lambda _module, _inputs, _output: taught[reused.teacher_tap]
    )
    torch.testing.assert_close(logits(reused.student, batch()), theirs)


@pytest.mark.parametrize("name", PAIRS)
def test_features_come_nearer_and_the_head_stays(name: str) -> None:
    """A head that trains, a projector that does not, or a term that the Distiller cannot compute."""
    student, teacher, batch = pair(name)
    statistics(teacher, batch())
    reused = reuse_head(student, teacher, batch())
    frozen = {key for key, value in reused.student.named_parameters() if not value.requires_grad}
    projector = next(module for module in reused.student.modules() if isinstance(module, HeadProjector))
    head = projector.plan.head if projector.plan.pool else f"{projector.plan.head}.1"
    assert {key.rpartition(".")[0] for key in frozen} == {head}
    before = copy.deepcopy(reused.student.state_dict())
    distiller = Distiller(reused.student, reused.teacher, [reused.term()], example=batch())
    assert len(distiller.objective.projectors) == 0
    distiller.train()
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=3e-3, weight_decay=0.1)
    losses = []
    for step in range(16):
        loss = distiller(batch(8, step % 2)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    after = reused.student.state_dict()
    for key, value in before.items():
        if key in frozen:
            assert torch.equal(after[key], value), key
    assert all(parameter.grad is not None for parameter in projector.parameters())
    trained = [key for key in reused.student.state_dict() if not torch.equal(after[key], before[key])]
    assert any(not key.startswith((*frozen, reused.student_tap)) for key in trained)


def test_the_projector_of_maps_is_the_paper_s() -> None:
    """Another bottleneck, a bias beside BatchNorm, or a ReLU that is missing; sizes aligned after the projection."""
    student, teacher, batch = pair("to-a-smaller-map")
    reused = reuse_head(student, teacher, batch())
    layers = list(reused.student.get_submodule(reused.student_tap))  # type: ignore[arg-type]
    assert [type(layer) for layer in layers] == [nn.AdaptiveAvgPool2d, *[nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3]
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [tuple(each.weight.shape) for each in convolutions] == [(256, 12, 1, 1), (256, 256, 3, 3), (512, 256, 1, 1)]
    assert [each.bias for each in convolutions] == [None] * 3
    narrow = reuse_head(student, teacher, batch(), factor=8).student.get_submodule(reused.student_tap)
    assert [tuple(each.weight.shape) for each in narrow if isinstance(each, nn.Conv2d)][1] == (64, 64, 3, 3)  # type: ignore[arg-type]


def test_maps_with_negative_values_are_in_reach() -> None:
    """A last ReLU in front of a teacher's features that go below 0, which the student could never match."""
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    reused = reuse_head(cifar((4, 4, 8, 12)), teacher, pixels())
    layers = list(reused.student.get_submodule(reused.student_tap))  # type: ignore[arg-type]
    assert isinstance(layers[-1], nn.BatchNorm2d)
    assert (reused.student_tap, reused.teacher_tap) == ("avgpool.0", "2.0")


def test_form_and_errors() -> None:
    """A form that is silently another, and models whose head is out of reach."""
    student, teacher, batch = pair("cifar")
    assert reuse_head(student, teacher, batch(), form="vector").student_tap == "fc.0"
    reused = reuse_head(student, teacher, batch(), form="map")
    assert (reused.student_tap, reused.teacher) == ("avgpool.0", teacher)
    with pytest.raises(LimbeckError, match="the teacher takes the mean of a map just before its head"):
        reuse_head(student, timm_vit(16), batch(), form="map")
    with pytest.raises(LimbeckError, match="a reused one already"):
        reuse_head(reused.student, teacher, batch())
    with pytest.raises(LimbeckError, match="the student SqueezeNet has no linear layer whose output is its logits"):
        reuse_head(torchvision.models.squeezenet1_1(num_classes=4), teacher, batch())
    with pytest.raises(LimbeckError, match="all but the width must be equal"):
        reuse_head(gpt2(12), bert(16), texts())
    with pytest.raises(LimbeckError, match="factor: expected 1 or more"):
        reuse_head(student, teacher, batch(), factor=0)


def test_a_pooling_used_elsewhere_is_left_alone() -> None:
    """A projector in front of a pooling that a student shares with its inner layers, which breaks those."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 10, 3)
            self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(10, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden = self.first(inputs).relu()
            hidden = self.second(hidden * self.pool(hidden).sigmoid()).relu()
            logits: Tensor = self.head(self.pool(hidden).flatten(1))
            return logits

    assert reuse_head(Shared(), cifar((8, 8, 16, 20)), pixels()).student_tap == "head.0"


def test_a_teacher_of_other_classes() -> None:
    """A student that keeps its own number of classes, so that the copied head does not fit."""
    reused = reuse_head(cifar((4, 4, 8, 12), classes=2), cifar((8, 8, 16, 20), classes=7), pixels())
    assert logits(reused.student, pixels()).shape == (6, 7)


@pytest.mark.parametrize("name", ["cifar", "to-a-smaller-map", "bert", "hub-vit", "gpt2"])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """A projector or head that is not saved, or a folder that nothing can build again."""
    student, teacher, batch = pair(name)
    statistics(teacher, batch())
    reused = reuse_head(student, teacher, batch())
    if name not in ("bert", "gpt2", "hub-vit"):
        statistics(reused.student, batch())
    expected = logits(reused.student, batch())
    save(reused.student, tmp_path / "m", spec=None, classes=(), preprocessing=None)
    other = reuse_head(pair(name)[0], teacher, batch()).student
    torch.testing.assert_close(logits(load(tmp_path / "m", into=other), batch()), expected, rtol=0, atol=0)
    if name in ("bert", "gpt2", "hub-vit"):
        loaded = load(tmp_path / "m")
        torch.testing.assert_close(logits(loaded, batch()), expected, rtol=0, atol=0)
        assert [key for key, value in loaded.named_parameters() if not value.requires_grad]


@pytest.mark.parametrize("teacher", ["resnet8x4", "vgg8", "timm:vit_tiny"])
def test_a_saved_student_is_built_again_from_its_name(teacher: str, tmp_path: Path) -> None:
    """A recipe's student that needs its teacher, or code of one's own, to be loaded; also where it goes on training."""
    torch.manual_seed(0)
    teaching = timm_vit(16, classes=3) if teacher == "timm:vit_tiny" else build(
        ModelSpec(teacher), Shape(3, 3, (32, 32))
    )  # fmt: skip
    student = build(ModelSpec("resnet8"), Shape(3, 3, (32, 32)))
    reused = reuse_head(student, teaching, pixels())
    statistics(reused.student, pixels())
    expected = logits(reused.student, pixels())
    save(reused.student, tmp_path / "m", spec=ModelSpec("resnet8"), classes=tuple("abc"), preprocessing=SMALL)
    assert read_card(tmp_path / "m").reused_head is not None
    again = build(ModelSpec(str(tmp_path / "m")), Shape(3, 3, (32, 32)))
    torch.testing.assert_close(logits(again, pixels()), expected, rtol=0, atol=0)
    save(again, tmp_path / "n", spec=ModelSpec(str(tmp_path / "m")), classes=tuple("abc"), preprocessing=SMALL)
    torch.testing.assert_close(logits(load(tmp_path / "n"), pixels()), expected, rtol=0, atol=0)


def test_cards_without_and_with_a_broken_plan(tmp_path: Path) -> None:
    """A folder of an earlier version that no longer loads; a plan for other paths that fails far from its cause."""
    model = build(ModelSpec("resnet8"), Shape(3, 3, (32, 32)))
    save(model, tmp_path / "m", spec=ModelSpec("resnet8"), classes=tuple("abc"), preprocessing=SMALL)
    card = json.loads((tmp_path / "m" / "limbeck.json").read_text())
    assert card.pop("reused_head") is None
    (tmp_path / "m" / "limbeck.json").write_text(json.dumps(card))
    load(tmp_path / "m")
    plan = {"head": "head", "pool": "", "width": 4, "hidden": 4, "head_width": 4, "classes": 3, "bias": True}
    (tmp_path / "m" / "limbeck.json").write_text(json.dumps({**card, "reused_head": plan}))
    with pytest.raises(LimbeckError, match="CifarResNet has no module 'head', where its head was replaced"):
        load(tmp_path / "m")
    (tmp_path / "m" / "limbeck.json").write_text(json.dumps({**card, "reused_head": {"head": "fc"}}))
    with pytest.raises(LimbeckError, match="not a whole model card"):
        load(tmp_path / "m")
