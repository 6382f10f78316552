"""Projectors: each against the same thing in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.projectors import (
    Grid,
    MapProjector,
    MapToTokens,
    PooledProjector,
    SpreadProjector,
    TokenProjector,
    TokensToMap,
    grid_of,
    projector_between,
)

SHAPES = {
    "vector": (3, 6),
    "map": (3, 5, 4, 6),
    "grid": (3, 16, 7),
    "grid with class token": (3, 17, 7),
    "small grid": (3, 9, 8),
    "small grid with class token": (3, 10, 8),
}


def feature(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def between(student: Tensor, teacher: tuple[int, ...], kind: type[nn.Module]) -> nn.Module:
    projector = projector_between(student, feature(teacher), "term x")
    assert type(projector) is kind
    return projector


def image(tokens: Tensor, side: int) -> Tensor:
    """Tokens row by row as an image, with a loop."""
    rows = [torch.stack([tokens[:, row * side + column] for column in range(side)], 2) for row in range(side)]
    return torch.stack(rows, 2)


def resized(given: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(given, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("student", SHAPES)
@pytest.mark.parametrize("teacher", SHAPES)
def test_one_leads_between_any_two_kinds(student: str, teacher: str) -> None:
    """A pair of models that pairing proposes and no projector serves; a part that does not learn."""
    here = feature(SHAPES[student]).requires_grad_()
    projector = projector_between(here, feature(SHAPES[teacher]), "term x")
    if student == teacher:
        assert projector is None
        return
    assert projector is not None
    projected = projector(here)
    assert projected.shape == SHAPES[teacher]
    projected.square().mean().backward()
    assert here.grad is not None
    assert all(parameter.grad is not None for parameter in projector.parameters())


def test_maps() -> None:
    """A convolution after the resizing, or corners aligned."""
    here = feature((3, 5, 4, 6))
    projector = between(here, (3, 8, 2, 9), MapProjector)
    weight = projector.conv.weight.flatten(1)
    expected = resized(torch.einsum("oc,bchw->bohw", weight, here), (2, 9))
    torch.testing.assert_close(projector(here), expected)


def test_tokens_of_one_number_and_vectors() -> None:
    """A text's tokens, or vectors, mixed with one another."""
    for shape, other in (((3, 5, 7), (3, 5, 4)), ((3, 7), (3, 4))):
        here = feature(shape)
        projector = between(here, other, nn.Linear)
        torch.testing.assert_close(projector(here), here @ projector.weight.t() + projector.bias)


@pytest.mark.parametrize(("mine", "theirs"), [(16, 9), (17, 9), (16, 10), (17, 10), (17, 16), (16, 17)])
def test_tokens_of_another_number(mine: int, theirs: int) -> None:
    """A class token resized as if it were a patch, or patches read column by column."""
    here = feature((3, mine, 7))
    projector = between(here, (3, theirs, 8), TokenProjector)
    linear = here @ projector.linear.weight.t() + projector.linear.bias
    side = {9: 3, 10: 3, 16: 4, 17: 4}[theirs]
    grid = resized(image(linear[:, mine - 16 :], 4), (side, side))
    patches = [grid[:, :, row, column] for row in range(side) for column in range(side)]
    got = projector(here)
    torch.testing.assert_close(got[:, theirs - side**2 :], torch.stack(patches, 1))
    if theirs in (10, 17):
        first = linear[:, 0] if mine == 17 else torch.stack(patches, 1).mean(1)
        torch.testing.assert_close(got[:, 0], first)


@pytest.mark.parametrize("tokens", [16, 17])
def test_tokens_to_a_map(tokens: int) -> None:
    """A ViT student's patches beside a CNN's map, shifted by the class token."""
    here = feature((3, tokens, 7))
    projector = between(here, (3, 5, 8, 8), TokensToMap)
    weight = projector.project.conv.weight.flatten(1)
    expected = resized(torch.einsum("oc,bchw->bohw", weight, image(here[:, tokens - 16 :], 4)), (8, 8))
    torch.testing.assert_close(projector(here), expected)


@pytest.mark.parametrize("tokens", [9, 10])
def test_a_map_to_tokens(tokens: int) -> None:
    """A CNN student's map beside a ViT's tokens, in another order."""
    here = feature((3, 5, 4, 6))
    projector = between(here, (3, tokens, 8), MapToTokens)
    weight = projector.project.conv.weight.flatten(1)
    small = resized(torch.einsum("oc,bchw->bohw", weight, here), (3, 3))
    patches = torch.stack([small[:, :, row, column] for row in range(3) for column in range(3)], 1)
    got = projector(here)
    torch.testing.assert_close(got[:, tokens - 9 :], patches)
    if tokens == 10:
        torch.testing.assert_close(got[:, 0], patches.mean(1))


def test_pooled_to_a_vector() -> None:
    """A mean over channels instead of positions."""
    for here, pooled in (
        (feature((3, 5, 4, 6)), lambda given: given.flatten(2).mean(2)),
        (feature((3, 17, 7)), lambda given: given.sum(1) / 17),
    ):
        projector = between(here, (3, 6), PooledProjector)
        torch.testing.assert_close(projector(here), F.linear(pooled(here), *projector.linear.parameters()))


def test_a_vector_at_every_position() -> None:
    """A vector spread over the batch instead of positions."""
    here = feature((3, 6))
    for shape in ((3, 5, 4, 2), (3, 7, 5)):
        projector = between(here, shape, SpreadProjector)
        row = F.linear(here, *projector.linear.parameters())
        got = projector(here)
        for item in range(3):
            places = got[item].flatten(1).t() if len(shape) == 4 else got[item]
            for place in places:
                torch.testing.assert_close(place, row[item])


def test_rows_of_one_kind_keep_their_linear_map() -> None:
    """Features of more dimensions than limbeck knows, equal but for the width."""
    assert isinstance(projector_between(torch.zeros(3, 2, 2, 2, 5), torch.zeros(3, 2, 2, 2, 6), "x"), nn.Linear)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((3, 12, 7), (3, 16, 7)),
        ((3, 16, 7), (3, 12, 7)),
        ((3, 12, 7), (3, 5, 4, 4)),
        ((3, 5, 4, 4), (3, 18, 7)),
        ((3, 6), (4, 6)),
        ((6, 8), (3, 8, 4, 4)),
        ((3, 5, 2, 2, 2), (3, 6)),
        ((3,), (3, 6)),
    ],
)
def test_no_way(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    """A guess where the tokens are no image, or the rows are not those of one batch."""
    with pytest.raises(LimbeckError, match="term x: no projector leads from the student's shape"):
        projector_between(torch.zeros(student), torch.zeros(teacher), "term x")


def test_grids() -> None:
    """49 patches and a class token taken for a row too many."""
    assert grid_of(49) == Grid(7, class_token=False)
    assert grid_of(50) == Grid(7, class_token=True)
    assert grid_of(1) == Grid(1, class_token=False)
    assert grid_of(2) == Grid(1, class_token=True)
    assert grid_of(0) is None
    assert grid_of(198) is None
