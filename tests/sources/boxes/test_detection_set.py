"""limbeck.sources.boxes.DetectionSet: batches, hidden annotations, what a teacher found, and the way back."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.sources.boxes.painted import detection_set, regions_of
from torch.utils.data import DataLoader

from limbeck.errors import LimbeckError
from limbeck.models.detection import Detections
from limbeck.pictures import fitted
from limbeck.sources import collate_samples
from limbeck.sources.boxes import DetectionSet, Found, build_box_view
from limbeck.sources.boxes.canvas import scales_of
from limbeck.sources.pixels import InMemory
from limbeck.types import Preprocessing

SIZE = (32, 48)
OBJECTS = [
    ((0, (2, 2, 12, 12)), (1, (20, 5, 40, 30))),
    (),
    ((2, (0, 0, 48, 32)),),
    ((1, (1, 1, 5, 5)),) * 3,
]


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_batch_is_padded(pictures: torch.Tensor) -> None:
    """Padding that is a box of class 0, or a batch without any box that has no room for one."""
    batch = detection_set(pictures, OBJECTS).__getitems__([0, 1, 3])
    assert batch["boxes"].shape == (3, 3, 4)
    assert batch["box_classes"].tolist() == [[0, 1, -1], [-1, -1, -1], [1, 1, 1]]
    assert batch["labels"].tolist() == [2, 0, 3]
    assert batch["boxes"][1].abs().sum() == 0
    assert batch["box_scores"].tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert torch.allclose(batch["inputs"][0], pictures[0].float() / 255)
    empty = detection_set(pictures, OBJECTS).__getitems__([1])
    assert empty["boxes"].shape == (1, 1, 4)
    assert empty["box_classes"].tolist() == [[-1]]


def test_hidden_annotations_are_told_nobody(pictures: torch.Tensor) -> None:
    """A picture without annotation whose boxes are in the batch; or one that has none, taken for hidden."""
    split = detection_set(pictures, OBJECTS).with_labels(np.array([True, True, False, False]))
    batch = split.__getitems__([0, 1, 2, 3])
    assert batch["labels"].tolist() == [2, 0, -1, -1]
    assert (batch["box_classes"][2:] == -1).all()
    assert len(split.truth(3).boxes) == 3  # to measure with
    augmented = split.with_view(build_box_view("flip-crop", SIZE, "x"), 0).__getitems__([0, 1, 2, 3])
    assert augmented["labels"].tolist()[2:] == [-1, -1]


def test_a_loader_gives_the_same_batches_in_workers(pictures: torch.Tensor) -> None:
    """Workers that see other views than the main process, or an epoch that does not reach them."""
    split = detection_set(pictures, OBJECTS).with_view(build_box_view("flip-crop", SIZE, "x"), 0)
    split.set_epoch(4)
    here = next(iter(DataLoader(split, 4, collate_fn=collate_samples)))
    there = next(iter(DataLoader(split, 4, collate_fn=collate_samples, num_workers=1)))
    sent = pickle.loads(pickle.dumps(split.in_view(4))).__getitems__(range(4))
    for name in here:
        assert torch.equal(here[name], there[name]), name
        assert torch.equal(here[name], sent[name]), name


def found_in(ids: list[int], threshold: float = 0.3) -> Found:
    objects = [
        Detections(
            torch.tensor([[1.0, 2, 10, 20], [5, 5, 6, 6]]),
            torch.tensor([0.9, 0.2 + 0.1 * (each % 2)]),
            torch.tensor([each % 3, 1]),
        )
        for each in ids
    ]
    return Found.of(torch.tensor(ids), objects, threshold)


def test_what_a_teacher_found_becomes_the_boxes_of_unlabelled_pictures(pictures: torch.Tensor, tmp_path: Path) -> None:
    """Boxes of the picture beside it, boxes below the threshold, or annotations of people that are replaced."""
    found = found_in([3, 2, 1, 0])
    found.write(tmp_path / "found.safetensors")
    found = Found.read(tmp_path / "found.safetensors")
    split = detection_set(pictures, OBJECTS).with_labels(np.array([True, True, False, False])).with_found(found)
    batch = split.__getitems__([0, 2, 3])
    assert batch["labels"].tolist() == [2, 1, 2]
    assert batch["box_classes"].tolist() == [[0, 1], [2, -1], [0, 1]]
    assert batch["box_scores"][1:].flatten().tolist() == pytest.approx([0.9, 0, 0.9, 0.3])
    assert batch["boxes"][1, 0].tolist() == [1, 2, 10, 20]
    flipped = split.with_view(build_box_view([{"RandomHorizontalFlip": {"p": 1}}], SIZE, "x"), 0).__getitems__([2])
    assert flipped["boxes"][0, 0].tolist() == [38, 2, 47, 20]
    everywhere = split.with_found(found, "all").subset([3, 0]).__getitems__([0, 1])
    assert everywhere["labels"].tolist() == [2, 1]
    with pytest.raises(LimbeckError, match="let the teacher look again"):
        detection_set(pictures, OBJECTS).with_found(found_in([2]), "all")
    (tmp_path / "broken").write_bytes(b"no")
    with pytest.raises(LimbeckError, match="the teacher looks again"):
        Found.read(tmp_path / "broken")


def test_the_way_back_to_the_picture_on_disk() -> None:
    """AP that is measured in pixels of the input, in which a large object may be a small one."""
    sizes = torch.tensor([[480, 640], [200, 50], [7, 1000]])
    canvas = (192, 256)
    for fit in ("letterbox", "stretch"):
        scales = scales_of(sizes, canvas, fit)
        for (height, width), (x, y) in zip(sizes.tolist(), scales.tolist(), strict=True):
            high, wide = fitted((height, width), canvas, fit)
            assert x * width == pytest.approx(wide)
            assert y * height == pytest.approx(high)
            assert high <= canvas[0]
            assert wide <= canvas[1]
            if fit == "letterbox" and min(high, wide) > 10:
                assert x == pytest.approx(y, rel=0.05)


def test_what_is_found_goes_back_to_where_it_is(pictures: torch.Tensor) -> None:
    """x by the scale of y, or what lies in the filling."""
    sizes = torch.tensor([[320, 240], [64, 96], [8, 480], [32, 48]])
    for fit, scales in (
        ("stretch", [(48 / 240, 32 / 320), (0.5, 0.5), (48 / 480, 32 / 8), (1, 1)]),
        ("letterbox", [(24 / 240, 32 / 320), (0.5, 0.5), (48 / 480, 1 / 8), (1, 1)]),
    ):
        split = DetectionSet(
            InMemory(pictures), regions_of(OBJECTS, sizes), sizes, torch.arange(4), ("a", "b", "c"),
            Preprocessing(SIZE, 3, (0.0,) * 3, (1.0,) * 3), fit=fit,
        )  # fmt: skip
        for index, (across, down) in enumerate(scales):
            height, width = sizes[index].tolist()
            on_disk = torch.tensor([[1.0, 2, 3, 4], [-5, -5, 5000, 5000]])
            inputs = on_disk * torch.tensor([across, down, across, down])
            expected = torch.tensor([[1.0, 2, 3, 4], [0, 0, width, height]])
            torch.testing.assert_close(split.restored(index, inputs), expected)
            torch.testing.assert_close(split.placed_box(index, on_disk), inputs)


def test_a_set_that_does_not_go_together(pictures: torch.Tensor) -> None:
    """A picture with another's annotation."""
    split = detection_set(pictures, OBJECTS)
    regions = regions_of(OBJECTS[:3], split.sizes[:3])
    with pytest.raises(LimbeckError, match="as many pictures as annotations"):
        DetectionSet(InMemory(pictures), regions, split.sizes, split.ids, split.classes, split.preprocessing)
    with pytest.raises(LimbeckError, match="the split is empty"):
        detection_set(pictures, OBJECTS).subset([])
