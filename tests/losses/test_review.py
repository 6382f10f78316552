"""Knowledge review, against a loop over stages and cells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.losses.contract import PROMISES, Case, Promise, features
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck import Distiller, LimbeckError, Term
from limbeck.losses import Loss, ReviewKD, hierarchical_context
from limbeck.models import CifarResNet

STUDENT = ((3, 4, 8, 8), (3, 6, 4, 4), (3, 5, 2, 2))
TEACHER = ((3, 5, 6, 6), (3, 7, 4, 4), (3, 8, 4, 4))


def cells(image: Tensor, level: int) -> Tensor:
    """(channels, level, level): the mean of each cell of a map (channels, height, width), by slices."""
    channels, height, width = image.shape
    pooled = torch.zeros(channels, level, level, dtype=image.dtype)
    for row in range(level):
        for column in range(level):
            top, bottom = row * height // level, -((-(row + 1) * height) // level)
            left, right = column * width // level, -((-(column + 1) * width) // level)
            pooled[:, row, column] = image[:, top:bottom, left:right].mean((1, 2))
    return pooled


def context(student: Tensor, teacher: Tensor) -> float:
    """The hierarchical context loss of two maps (channels, height, width)."""
    value, weight, total = float(((student - teacher) ** 2).mean()), 1.0, 1.0
    for level in (4, 2, 1):
        if level >= student.shape[1]:
            continue
        weight /= 2
        total += weight
        value += weight * float(((cells(student, level) - cells(teacher, level)) ** 2).mean())
    return value / total


def nearest(image: Tensor, size: int) -> Tensor:
    """A map (channels, side, side) at another size, each cell that of the nearest before."""
    index = [position * image.shape[1] // size for position in range(size)]
    return image[:, index][:, :, index]


def normalised(image: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return torch.stack(
        [
            (channel - norm.running_mean[k]) / (norm.running_var[k] + norm.eps) ** 0.5 * norm.weight[k] + norm.bias[k]  # type: ignore[index]
            for k, channel in enumerate(image)
        ]
    )


def square(feature: Tensor) -> Tensor:
    """A map of one item: vectors are one cell, tokens a square after at most one class token."""
    if feature.dim() == 1:
        return feature.view(-1, 1, 1)
    if feature.dim() == 3:
        return feature
    side = int(len(feature) ** 0.5)
    tokens = feature[len(feature) - side * side :]
    return torch.stack(
        [torch.stack([tokens[row * side + column] for column in range(side)], 1) for row in range(side)], 1
    )


def naive(student: Any, teacher: Any, labels: Tensor, loss: Loss) -> list[float]:
    assert isinstance(loss, ReviewKD)
    assert loss.fusions is not None
    values = []
    for item in range(len(student[0])):
        ours, theirs = [square(each[item]) for each in student], [square(each[item]) for each in teacher]
        if len(loss.fusions) > len(ours):
            ours.append(ours[-1].mean((1, 2), keepdim=True))
            theirs.append(theirs[-1].mean((1, 2), keepdim=True))
        total, deeper = 0.0, None
        for index in reversed(range(len(ours))):
            fusion: Any = loss.fusions[index]
            fused = normalised(
                torch.einsum("oc,chw->ohw", fusion.reduce[0].weight[:, :, 0, 0], ours[index]), fusion.reduce[1]
            )
            if deeper is not None:
                deeper = nearest(deeper, fused.shape[1])
                both = torch.cat([fused, deeper])
                scores = torch.einsum("oc,chw->ohw", fusion.attention.weight[:, :, 0, 0], both)
                shares = 1 / (1 + torch.exp(-(scores + fusion.attention.bias.view(2, 1, 1))))
                fused = fused * shares[0] + deeper * shares[1]
            fused = deeper = nearest(fused, theirs[index].shape[1])
            out = normalised(F.conv2d(fused[None], fusion.expand[0].weight, padding=1)[0], fusion.expand[1])
            total += context(out, theirs[index])
        values.append(total)
    return values


def case(name: str, student: Any, teacher: Any, *, pooled: bool = True, mismatch: Any = None) -> Case:
    return Case(
        name, lambda: ReviewKD(pooled=pooled), student, teacher, naive,
        equal=False, couples=True, mismatch=mismatch, slack=1e-8,
    )  # fmt: skip


CASES = [
    case("maps", STUDENT, TEACHER, mismatch=((3, 5, 6, 6), (3, 9, 4, 4), (3, 8, 4, 4))),
    case("no-pooled-stage", STUDENT, TEACHER, pooled=False, mismatch=TEACHER[:2]),
    case("one-stage-and-a-vector", ((3, 4, 5, 5), (3, 6)), ((3, 6, 8, 8), (3, 4)), mismatch=((2, 6, 8, 8), (2, 4))),
    case("tokens", ((3, 17, 6), (3, 17, 6)), ((3, 5, 8, 8), (3, 7, 3, 3)), mismatch=((3, 8, 5), (3, 7, 3, 3))),
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    promise(case)


def test_mean_over_items_is_the_authors_loss() -> None:
    """A sum over cells, or weights that are not the authors' 1, ½, ¼, ⅛ over their sum."""
    student, teacher = features((4, 3, 8, 8), 0), features((4, 3, 8, 8), 1)
    assert isinstance(student, Tensor)
    assert isinstance(teacher, Tensor)
    expected = F.mse_loss(student, teacher)
    for level, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
        expected = expected + weight * F.mse_loss(
            F.adaptive_avg_pool2d(student, level), F.adaptive_avg_pool2d(teacher, level)
        )
    torch.testing.assert_close(hierarchical_context(student, teacher).mean(), expected / 1.875)
    small = hierarchical_context(student[..., :2, :2], teacher[..., :2, :2])
    pooled = (student - teacher)[..., :2, :2].mean((2, 3)).square().mean(1)
    torch.testing.assert_close(
        small, ((student - teacher)[..., :2, :2].square().flatten(1).mean(1) + 0.5 * pooled) / 1.5
    )


def test_what_is_left_out_is_out_of_the_batch_s_statistics() -> None:
    """BatchNorm in training that counts masked rows, so that padding moves the loss and the running statistics."""
    torch.manual_seed(0)
    student, teacher = features(STUDENT, 3, torch.float32), features(TEACHER, 4, torch.float32)
    keep = torch.tensor([True, False, True])
    loss = ReviewKD()
    loss.build(student, teacher)
    state = {name: value.clone() for name, value in loss.state_dict().items()}
    spoilt = tuple(torch.where(keep.view(-1, 1, 1, 1), each, torch.nan) for each in student)
    masked = loss(spoilt, teacher, keep)
    after = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.load_state_dict(state)
    short = loss(tuple(each[keep] for each in student), tuple(each[keep] for each in teacher))
    torch.testing.assert_close(masked[keep], short)
    assert float(masked[1].detach()) == 0.0
    torch.testing.assert_close(after, dict(loss.state_dict()))


def test_a_transformer_learns_from_a_convolutional_teacher() -> None:
    """Tokens that get a projector, or fusions that the optimizer does not see."""
    torch.manual_seed(0)
    student = VisionTransformer(img_size=16, patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=3)
    teacher = CifarResNet(depth=8, widths=(8, 8, 16, 20), num_classes=3)
    term = Term(ReviewKD(), student=("blocks.0", "blocks.1"), teacher=("layer2", "layer3"))
    batch = {"inputs": torch.randn(4, 3, 16, 16)}
    distiller = Distiller(student, teacher, [term], example=batch).train()
    distiller(batch).loss.backward()
    assert all(parameter.grad is not None for parameter in distiller.objective.parameters())
    assert len(list(distiller.objective.parameters())) == 3 * 6 + 2 * 2
    assert student.patch_embed.proj.weight.grad is not None


def test_a_batch_of_one_in_training() -> None:
    """The last batch of an epoch has one image, and BatchNorm of the pooled stage ends the run."""
    loss = ReviewKD()
    loss.build(features(STUDENT, 0, torch.float32), features(TEACHER, 1, torch.float32))
    one = tuple(each[:1] for each in features(STUDENT, 0, torch.float32))
    assert bool(loss(one, tuple(each[:1] for each in features(TEACHER, 1, torch.float32))).isfinite().all())


def test_a_shallow_stage_learns_from_the_deep_teacher() -> None:
    """A fusion that does not pass the deeper stage on: the deep stage never sees the shallow target."""
    deep = features(STUDENT, 0)[-1].requires_grad_()
    loss = ReviewKD()
    loss.build(features(STUDENT, 0), features(TEACHER, 1))
    loss.double().eval()
    shallow = features(TEACHER, 1)[0].requires_grad_()
    value = loss((*features(STUDENT, 0)[:2], deep), (shallow.detach(), *features(TEACHER, 1)[1:])).sum()
    other = loss((*features(STUDENT, 0)[:2], deep), (shallow.detach() + 1.0, *features(TEACHER, 1)[1:])).sum()
    assert bool((torch.autograd.grad(value, deep)[0] != torch.autograd.grad(other, deep)[0]).any())


def test_errors_say_what_to_do() -> None:
    """A loss that is called before it is built, and stages that cannot be maps."""
    with pytest.raises(LimbeckError, match="give the Distiller example=batch"):
        ReviewKD()(features(STUDENT, 0), features(TEACHER, 1))
    with pytest.raises(LimbeckError, match="whose number, less at most one class token, is a square"):
        ReviewKD().build((torch.zeros(2, 7, 4),), (torch.zeros(2, 4, 3, 3),))
    with pytest.raises(LimbeckError, match="tuples of features"):
        ReviewKD().build(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))
    with pytest.raises(LimbeckError, match="expected maps"):
        hierarchical_context(torch.zeros(2, 4), torch.zeros(2, 4))
