"""Models that see their pictures smaller: what they compute, what they refuse, and that they are saved so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from limbeck.errors import LimbeckError
from limbeck.metrics import size_of
from limbeck.models import ModelSpec, Shape, TextShape, build, load, save
from limbeck.types import Preprocessing

SHAPE = Shape(10, 1, (16, 16))


def test_it_gives_what_the_inner_model_gives_for_the_smaller_pictures() -> None:
    model = build(ModelSpec("conv-student", {"resolution": 8}), SHAPE).eval()
    inputs = torch.rand(3, 1, 16, 16)
    smaller = functional.interpolate(inputs, (8, 8), mode="bilinear")
    assert torch.equal(model(inputs), model.model(smaller))
    whole = build(ModelSpec("conv-student"), SHAPE)
    assert size_of(model, inputs)["flops"] < 0.3 * size_of(whole, inputs)["flops"]


def test_a_saved_one_gives_the_same(tmp_path: Path) -> None:
    spec = ModelSpec("conv-student", {"resolution": 8, "widths": [4, 8]})
    model = build(spec, SHAPE).eval()
    pixels = Preprocessing(size=(16, 16), channels=1, mean=(0.0,), std=(1.0,))
    save(model, tmp_path, spec=spec, classes=[str(digit) for digit in range(10)], preprocessing=pixels)
    inputs = torch.rand(2, 1, 16, 16)
    assert torch.equal(load(tmp_path)(inputs), model(inputs))


@pytest.mark.parametrize(
    ("shape", "side", "message"),
    [
        (SHAPE, 17, "at most the data's 16"),
        (SHAPE, 0, "at most"),
        (Shape(10, 3, (16, 16), "detection"), 8, "classify or embed"),
        (TextShape(2, 100, 16, 0, "classification"), 8, "classify or embed"),
    ],
)
def test_what_cannot_be_is_refused(shape: Shape | TextShape, side: int, message: str) -> None:
    with pytest.raises(LimbeckError, match=message):
        build(ModelSpec("conv-student", {"resolution": side}), shape)
