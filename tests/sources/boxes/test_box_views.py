"""limbeck.sources.boxes: boxes move with their pixels, and are a function of seed, view and id."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sources.boxes.painted import detection_set

from limbeck.errors import LimbeckError
from limbeck.models.detection import Detections
from limbeck.sources.boxes import DetectionSet, Found, build_box_view
from limbeck.sources.boxes.moves import VISIBLE, cut_off
from limbeck.sources.views import keys

CANVAS = (48, 64)

AUGMENTATIONS: tuple[Any, ...] = (
    "flip",
    "flip-crop",
    ["RandomHorizontalFlip", "RandomVerticalFlip", {"RandomResizedCrop": {"scale": [0.2, 1.0]}}],
    [{"RandomZoomOut": {"side_range": [1.0, 2.0], "fill": 9}}, {"Resize": {}}],
    ["RandomPhotometricDistort", "RandomIoUCrop", {"Resize": {}}, {"RandomHorizontalFlip": {"p": 0.8}}],
    [{"RandomAffine": {"degrees": 0, "translate": [0.3, 0.3], "scale": [0.6, 1.6]}}],
    [{"ColorJitter": {"brightness": 0.2}}, {"RandomCrop": {"padding": 12, "fill": 9}}],
    [{"ScaleJitter": {"target_size": [48, 64], "scale_range": [0.7, 1.4]}}, {"RandomCrop": {"pad_if_needed": True}}],
)

VIEWS = [build_box_view(each, CANVAS, "test") for each in AUGMENTATIONS]


PICTURES = 8
"""That one example augments; a thousand in all."""


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Left, top, right and bottom edge, at the border as well."""
    left, top = draw(st.integers(0, CANVAS[1] - 1)), draw(st.integers(0, CANVAS[0] - 1))
    return left, top, draw(st.integers(left + 1, CANVAS[1])), draw(st.integers(top + 1, CANVAS[0]))


@settings(max_examples=1000 // PICTURES, deadline=None)
@given(
    view=st.integers(0, len(VIEWS) - 1),
    boxes=st.lists(rectangles(), min_size=PICTURES, max_size=PICTURES),
    seed=st.integers(0, 10**9),
)
def test_boxes_stay_inside_and_on_their_pixels(view: int, boxes: list[tuple[int, int, int, int]], seed: int) -> None:
    """A box that is mirrored in one direction and its pixels in another, that lies beyond the edge, or that is kept
    after its object was cut away."""
    pixels = torch.zeros(PICTURES, 3, *CANVAS, dtype=torch.uint8)
    for image, (left, top, right, bottom) in zip(pixels, boxes, strict=True):
        image[:, top:bottom, left:right] = 255
    augment = VIEWS[view]
    assert augment is not None
    corners = [torch.tensor([box], dtype=torch.float32) for box in boxes]
    seen, moved = augment(pixels, corners, keys(seed, 0, np.arange(PICTURES)))
    assert seen.shape == pixels.shape
    for image, uncut in zip(seen, moved, strict=True):
        (corner,), (ignored,) = cut_off(uncut, CANVAS)
        low, high = corner[:2], corner[2:]
        assert (low >= 0).all()
        assert high[0] <= CANVAS[1]
        assert high[1] <= CANVAS[0]
        if not (high > low).all():
            assert corner.tolist() == [0, 0, 0, 0]
            assert bool(ignored)
            continue
        if min(high - low) < 3:  # a line of a pixel may vanish in a smaller picture
            continue
        bright = image[0] > 100
        rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
        found = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        assert (found - corner).abs().max() <= 1.6, (found, corner, AUGMENTATIONS[view])


def test_what_is_cut_away_is_ignored() -> None:
    """An object of which a corner is left, learned as a whole one or as background; or one dropped that is small, or
    that fills the picture."""
    boxes = torch.tensor(
        [[-10.0, 0, 10, 10], [-90, 0, 10, 10], [-30, 0, 9.9, 10], [0, 0, 0.5, 0.5], [63.5, 0, 66, 40], [5, 5, 5, 9],
         [-40, -40, -1, 9], [-130, -100, 80, 74], [-130, 0, 16, 48], [-130, 0, 15.9, 48]]
    )  # fmt: skip
    kept, ignored = cut_off(boxes, CANVAS)
    expected = [
        ([0, 0, 10, 10], False),
        ([0, 0, 10, 10], True),
        ([0, 0, 9.9, 10], True),  # 9.9 of 39.9 is less than VISIBLE
        ([0, 0, 0.5, 0.5], False),  # as small as it was
        ([63.5, 0, 64, 40], True),
        ([0, 0, 0, 0], True),
        ([0, 0, 0, 0], True),
        ([0, 0, 64, 48], False),  # a twelfth of it fills the picture
        ([0, 0, 16, 48], False),  # as much of the picture as VISIBLE
        ([0, 0, 15.9, 48], True),
    ]
    assert VISIBLE == 0.25
    torch.testing.assert_close(kept, torch.tensor([corners for corners, _ in expected]).float())
    assert ignored.tolist() == [each for _, each in expected]


@pytest.mark.parametrize("crop", ["RandomResizedCrop", "RandomIoUCrop"])
def test_a_crop_keeps_crowds_and_what_fills_it(crop: str, pictures: torch.Tensor) -> None:
    """A crowd, or an object larger than the crop, that becomes background."""
    options = {"scale": [0.1, 0.2], "ratio": [1, 1]} if crop == "RandomResizedCrop" else {"max_scale": 0.5}
    view = build_box_view([{crop: options}, {"Resize": {}}], CANVAS, "test")
    whole = ((1, (0, 0, *CANVAS[::-1])),)
    corner = ((1, (2, 2, 30, 24)),)
    split = detection_set(pictures[:3], [whole, whole, corner], crowds=[0]).with_view(view, 0)
    corners = set()
    for number in range(40):
        batch = split.in_view(number).__getitems__([0, 1, 2])
        assert batch["box_classes"][:2].tolist() == [[-2], [1]]
        assert (batch["boxes"][:2, 0] == torch.tensor([0, 0, *CANVAS[::-1]])).all()
        assert batch["labels"].tolist()[:2] == [0, 1]
        kind = int(batch["box_classes"][2, 0])
        assert int(batch["labels"][2]) == (kind == 1)
        corners.add(kind)
    assert corners >= {1, -2} if crop == "RandomResizedCrop" else corners >= {1}


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (8, 3, *CANVAS), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


OBJECTS = [((at % 3, (4 + at, 6, 20 + 2 * at, 30)), (1, (1, 1, 9, 9))) for at in range(7)] + [()]


def told_otherwise(split: DetectionSet) -> list[DetectionSet]:
    """The same pictures with annotations hidden, and with a teacher's boxes in their place."""
    ids = torch.arange(len(split))
    elsewhere = [Detections(torch.tensor([[40.0, 30, 60, 44]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))]
    found = Found.of(ids, elsewhere * len(ids), 0.3)
    return [split.with_labels(ids > len(ids)), split.with_found(found, "all")]


@pytest.mark.parametrize("number", range(len(VIEWS)))
def test_a_view_is_a_function_of_seed_view_and_id(number: int, pictures: torch.Tensor) -> None:
    """Teacher and student that see two pictures, or stored labels of another picture, after a resume, in another batch
    or beside dropout."""
    split = detection_set(pictures, OBJECTS).with_view(VIEWS[number], seed=3)
    split.set_epoch(2)
    batch = split.__getitems__([5, 1, 7])
    torch.manual_seed(99)
    again = detection_set(pictures, OBJECTS).with_view(VIEWS[number], seed=3).in_view(2).subset([1, 7, 5])
    before = torch.get_rng_state()
    other = again.__getitems__([0, 1, 2])
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("inputs", "boxes", "box_classes", "labels", "ids", "views"):
        assert torch.equal(batch[name], other[name][[2, 0, 1]]), name
    for told in told_otherwise(split):
        assert torch.equal(told.in_view(2).__getitems__([5, 1, 7])["inputs"], batch["inputs"])
    changed = split.in_view(3).__getitems__([5, 1, 7])
    assert not torch.equal(changed["inputs"], batch["inputs"])


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ("crop", "unknown augmentation 'crop'"),
        (["MixUp"], "no 'MixUp' for boxes"),
        (["RandomIoUCrop", "SanitizeBoundingBoxes"], "what is gone is left out anyway"),
        (["RandomHorizontalFlop"], "did you mean 'RandomHorizontalFlip'"),
        ([{"RandomHorizontalFlip": {"q": 1}}], "RandomHorizontalFlip"),
        (7, "a name or a list of transforms"),
        ([7], "a transform's name"),
    ],
)
def test_a_wrong_augmentation(augment: Any, said: str) -> None:
    """A mistake that shows in the first batch, or never."""
    with pytest.raises(LimbeckError, match=said):
        build_box_view(augment, CANVAS, "data.augment")


def test_another_size_is_an_error(pictures: torch.Tensor) -> None:
    """Batches that do not stack, far from their cause."""
    split = detection_set(pictures, OBJECTS).with_view(build_box_view(["RandomIoUCrop"], CANVAS, "x"), 1)
    with pytest.raises(LimbeckError, match="restores the size"):
        [split.in_view(epoch).__getitems__(list(range(8))) for epoch in range(20)]
