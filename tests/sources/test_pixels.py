"""limbeck.sources.pixels: images by row number, whole or resized on the way."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.sources.pixels import InMemory, Resized, normalise, resize
from limbeck.types import Preprocessing


def test_resized_equals_resizing_all_at_once() -> None:
    """Sizes too big for memory are resized a batch at a time; that must not change a pixel."""
    pixels = torch.randint(0, 256, (5, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([4, 1])
    assert torch.equal(Resized(pixels, 20).take(rows), resize(pixels, 20)[rows])
    assert resize(pixels, 20).shape == (5, 3, 20, 20)


def test_normalising_does_not_depend_on_the_place() -> None:
    """A step that rounds otherwise in the tail of a vector would give a sample other bits in another batch."""
    pixels = torch.randint(0, 256, (37, 3, 7, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    how = Preprocessing((7, 5), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    whole = normalise(pixels, how)
    for row in range(37):
        assert torch.equal(normalise(pixels[row : row + 1], how), whole[row : row + 1])


def test_floats_are_refused() -> None:
    """Pixels that are scaled already would be divided by 255 once more."""
    with pytest.raises(LimbeckError, match=r"expected uint8 .*got torch.float32"):
        InMemory(torch.zeros(2, 1, 4, 4))
