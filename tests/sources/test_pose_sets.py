"""Poses: read, cut out, augmented with their pixels, and what is wrong in a data set said in one line."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.sources.drawn_people import COLOURS, JOINTS, draw, write_people
from torch.utils.data import DataLoader

from limbeck.errors import LimbeckError
from limbeck.sources import ViewedSet, collate_samples
from limbeck.sources.poses import PoseSet, PoseView, Skeleton, load_poses, pose_view, skeleton_of
from limbeck.sources.poses.views import placed
from limbeck.sources.views import keys
from limbeck.types import Preprocessing

PLAIN = Preprocessing((64, 80), 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Inputs from 0 to 1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"), {"train": 20, "val": 4, "test": 5})


@pytest.fixture(scope="module")
def train(folder: Path) -> PoseSet:
    return load_poses(f"coco-keypoints:{folder}", PLAIN).train


def colour_at(inputs: torch.Tensor, joint: int) -> tuple[float, float] | None:
    """The middle (x, y) of the pixels that have nearly a joint's colour; None where there are few."""
    wanted = torch.tensor(COLOURS[joint]).view(3, 1, 1) / 255
    near = (inputs - wanted).abs().amax(0) < 0.25
    if int(near.sum()) < 6:
        return None
    y, x = near.nonzero().double().mean(0).tolist()
    return x, y


def test_a_coco_folder(folder: Path) -> None:
    """Splits of the wrong file, edges counted from 1, left and right that are not found."""
    data = load_poses(f"coco-keypoints:{folder}", PLAIN)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 5)
    assert data.skeleton == Skeleton(JOINTS, ((0, 1), (0, 2), (0, 3)), ((1, 2),))
    assert data.classes == JOINTS
    batch = data.train.__getitems__([3, 1])
    assert isinstance(data.train, ViewedSet)
    assert batch["inputs"].shape == (2, 3, 64, 80)
    assert batch["keypoints"].shape == (2, 4, 3)
    assert batch["keypoints"].dtype is torch.float32
    assert batch["labels"].tolist() == [1, 1]
    assert batch["ids"].tolist() == data.train.ids[[3, 1]].tolist()
    one = data.train[3]
    assert all(torch.equal(one[name], batch[name][0]) for name in batch)


def test_a_single_file_is_cut_by_pictures(folder: Path) -> None:
    """Two people of one picture in train and test; a cut that another order changes."""
    path = folder / "annotations" / "person_keypoints_train.json"
    data = load_poses(f"coco-keypoints:{path}", PLAIN, validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (13, 3, 4)
    assert len(set(torch.cat([data.train.ids, data.validation.ids, data.test.ids]).tolist())) == 20
    other = load_poses(f"coco-keypoints:{path}", PLAIN, test=str(folder / "annotations" / "person_keypoints_val.json"))
    assert (len(other.test), len(other.train), len(other.validation)) == (4, 18, 2)


def test_joints_lie_on_their_pixels(train: PoseSet) -> None:
    """Half a pixel, a stretched axis, or padding on the wrong side."""
    batch = train.__getitems__(range(len(train)))
    for inputs, keypoints in zip(batch["inputs"], batch["keypoints"], strict=True):
        for joint, (x, y, seen) in enumerate(keypoints.tolist()):
            found = colour_at(inputs, joint)
            assert seen == 1.0
            assert found == pytest.approx((x, y), abs=0.5)


@settings(max_examples=200, deadline=None)
@given(
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    rotate=st.floats(0, 180),
    scale=st.floats(0, 0.4),
    shift=st.floats(0.01, 0.3),
    epoch=st.integers(0, 10**6),
    shape=st.sampled_from([(64, 80), (80, 48), (64, 64)]),
)
def test_joints_move_with_their_pixels(
    train: PoseSet, flip: float, rotate: float, scale: float, shift: float, epoch: int, shape: tuple[int, int]
) -> None:
    """A thousand crops in which a joint is not where its pixels are, is called left and is right, or is said to be in
    the crop and is not."""
    split = train.with_preprocessing(Preprocessing(shape, 3, (0.0,) * 3, (1.0,) * 3))
    split = split.with_view(PoseView(flip, rotate, scale, shift), seed=1)
    split.set_epoch(epoch)
    at = [epoch % 20, *range(4)]
    batch = split.__getitems__(at)
    drawn = keys(1, epoch, batch["ids"].numpy())
    place = placed(split.poses.boxes[split.at[at]], shape, split.padding, split.view, drawn)
    assert flip == 0.5 or bool((place.mirrored == bool(flip)).all())
    height, width = shape
    for inputs, keypoints, mirrored in zip(batch["inputs"], batch["keypoints"], place.mirrored, strict=True):
        for joint, (x, y, seen) in enumerate(keypoints.tolist()):
            found = colour_at(inputs, {1: 2, 2: 1}.get(joint, joint) if mirrored else joint)
            if not seen:
                assert (x, y) == (0.0, 0.0)
                if found is not None:  # what is left of its square is at the edge
                    assert min(found[0], found[1], width - 1 - found[0], height - 1 - found[1]) < 4
                continue
            assert -0.5 <= x <= width - 0.5
            assert -0.5 <= y <= height - 0.5
            if found is not None and 6 <= x <= width - 7 and 6 <= y <= height - 7:
                assert found == pytest.approx((x, y), abs=1.0)


def test_mirrored_joints_change_their_names(train: PoseSet) -> None:
    """A left hand that is learned on the right."""
    plain, mirrored = train.__getitems__([0]), train.with_view(PoseView(flip=1.0)).__getitems__([0])
    torch.testing.assert_close(mirrored["inputs"], plain["inputs"].flip(-1), atol=2 / 255, rtol=0)
    xy = plain["keypoints"][0, [0, 2, 1, 3], :2]
    torch.testing.assert_close(mirrored["keypoints"][0, :, :2], torch.stack([79 - xy[:, 0], xy[:, 1]], -1))


def test_a_view_is_the_same_however_it_is_asked_for(train: PoseSet) -> None:
    """A pixel that hangs on the batch or the process would pair a stored heatmap with a crop the teacher never saw."""
    split = train.with_view(pose_view("pose-flip", "augment"), seed=5, count=3)
    split.set_epoch(4)
    whole = split.__getitems__(range(20))
    assert whole["views"].unique().tolist() == [1]
    loader = DataLoader(split, 7, shuffle=True, num_workers=2, collate_fn=collate_samples)
    places = {int(name): at for at, name in enumerate(whole["ids"])}
    for batch in loader:
        at = [places[int(name)] for name in batch["ids"]]
        assert all(torch.equal(batch[name], whole[name][at]) for name in batch)
    part = split.subset([11, 3]).in_view(1)
    assert torch.equal(part.__getitems__([0, 1])["inputs"], whole["inputs"][[11, 3]])
    assert not torch.equal(split.in_view(2).__getitems__([0])["inputs"], whole["inputs"][:1])
    other = train.with_view(pose_view("pose-flip", "augment"), seed=6).in_view(1)
    assert not torch.equal(other.__getitems__([0])["inputs"], whole["inputs"][:1])
    with pytest.raises(LimbeckError, match="expected a view from 0 to 2"):
        split.in_view(3)


def test_pictures_that_do_not_fit_into_memory_are_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops that depend on how much memory there is."""
    kept = load_poses(f"coco-keypoints:{folder}", PLAIN).train.__getitems__(range(20))
    monkeypatch.setattr("limbeck.sources.poses.pictures.MEMORY_LIMIT", 0)
    lazy = load_poses(f"coco-keypoints:{folder}", PLAIN).train.__getitems__(range(20))
    assert all(torch.equal(kept[name], lazy[name]) for name in kept)


def test_hidden_labels_hide_all_joints(train: PoseSet) -> None:
    """Joints that the supervised loss still sees; boxes that go with them."""
    mask = np.arange(20) % 2 == 0
    batch = train.with_labels(mask).__getitems__([0, 1])
    assert batch["labels"].tolist() == [1, -1]
    assert bool((batch["keypoints"][1] == 0).all())
    assert bool((batch["keypoints"][0, :, 2] == 1).all())
    assert torch.equal(batch["inputs"], train.__getitems__([0, 1])["inputs"])


def test_back_in_the_picture(folder: Path) -> None:
    """A test measured in pixels of the crop, or of another size."""
    test = load_poses(f"coco-keypoints:{folder}", PLAIN).test
    batch = test.__getitems__(range(5))
    again = test.in_pictures(batch["keypoints"][..., :2].numpy())
    truth = test.references()
    np.testing.assert_allclose(again, truth["joints"][..., :2], atol=1e-4)
    assert truth["areas"].tolist() == [50 * 46] * 5
    pixels, place = test.shown(2, side=160)
    assert pixels.shape == (128, 160, 3)
    inside = place.to_crop(truth["joints"][2:3, :, :2])[0]
    found = colour_at(torch.from_numpy(pixels).permute(2, 0, 1) / 255, 0)
    assert found == pytest.approx(tuple(inside[0]), abs=0.7)


def test_a_large_picture_is_not_skipped_through(tmp_path: Path) -> None:
    """A crop a tenth as large that takes every tenth pixel, so that noise stays noise."""

    def noise(content: dict[str, Any]) -> None:
        if "val" in content["images"][0]["file_name"]:
            return
        pixels = np.random.default_rng(0).integers(0, 256, (600, 720, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train" / content["images"][0]["file_name"])
        content["images"][0] |= {"width": 720, "height": 600}
        content["annotations"][0] |= {"bbox": [0, 0, 720, 600], "keypoints": [300, 300, 2] * 4}

    write_people(tmp_path, {"train": 6, "val": 2}, change=noise)
    data = load_poses(f"coco-keypoints:{tmp_path}", PLAIN, padding=1.0)
    ids = data.train.poses.ids[0]
    inputs = data.train.__getitems__([int((data.train.ids == ids).nonzero()[0])])["inputs"]
    assert inputs[..., 8:-8].std() < 0.06  # 0.29 of single pixels; the sides are black


# ---------------------------------------------------------------------------------------------- what is wrong


def read(root: Path, change: Any = None, **options: Any) -> Any:
    write_people(root, {"train": 6, "val": 2}, change=change)
    return load_poses(f"coco-keypoints:{root}", PLAIN, **options)


def first(**changes: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= changes

    return change


def test_joints_outside_the_picture_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A joint beyond the edge that a heatmap cannot show, learned as one at the edge."""
    with caplog.at_level(logging.WARNING):
        data = read(tmp_path, first(keypoints=[5, 5, 2, 90, 5, 2, 10, -3, 1, 20, 20, 1]))
    said = "2 of 24 annotated joints lie outside their pictures and count as not annotated; first annotation 600 in "
    assert said in caplog.text
    assert "train-000.png" in caplog.text
    at = int((data.train.ids == data.train.poses.ids[0]).nonzero()[0])
    assert data.train.__getitems__([at])["keypoints"][0, :, 2].tolist() == [1, 0, 0, 1]


def test_crowds_and_people_without_joints_are_ignored(tmp_path: Path) -> None:
    """A crowd learned as a person; a test that counts what nobody annotated as missed."""

    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"keypoints": [0] * 12, "num_keypoints": 0}
        crowd = {**content["annotations"][1], "id": 9000, "iscrowd": 1}
        crowd.pop("keypoints")
        content["annotations"].append(crowd)

    data = read(tmp_path, change)
    assert len(data.train) + len(data.validation) + len(data.test) == 5 + 1
    truth = data.test.references()
    assert truth["ignored"].tolist() == [False, True]
    assert truth["crowds"].tolist() == [False, True]


def test_boxes_and_areas_that_are_missing(tmp_path: Path) -> None:
    """A pose without a box that is left out, or whose box cuts its joints off."""

    def change(content: dict[str, Any]) -> None:
        for each in content["annotations"]:
            each.pop("bbox")
            each.pop("area")

    data = read(tmp_path, change)
    batch = data.train.__getitems__(range(len(data.train)))
    assert bool((batch["keypoints"][..., 2] == 1).all())
    assert bool((data.train.poses.areas > 500).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first(image_id=77), r"annotation 600 is of picture 77, which `images` does not list"),
        (first(keypoints=[1, 2, 2]), r"annotation 600: expected keypoints as 12 numbers .*, got 3 numbers"),
        (first(keypoints=None), r"annotation 600: expected keypoints as 12 numbers .*, got none"),
        (first(bbox=[1, 2, 3]), r"annotation 600: expected a bbox of left, top, width and height"),
        (first(bbox=[10, 10, 0, 5]), r"annotation 600 in .*train-000.png \(72×60 pixels\) has an empty box"),
        (first(bbox=[80, 10, 9, 5]), r"annotation 600 in .*train-000.png .* has a box outside of it"),
        (first(bbox=["a", 1, 2, 3]), r"annotation 600: keypoints, bbox and area must be numbers"),
        (lambda content: content["images"][0].update(file_name="gone.png"), r"picture 1 \(gone.png\) is not in"),
        (lambda content: content["images"][0].update(width=99), r"train-000.png: is 72×60 pixels, and its annotation"),
        (lambda content: content["categories"][0].pop("keypoints"), "no category has `keypoints`"),
        (lambda content: content.pop("images"), "not a COCO keypoints file: no list 'images'"),
        (lambda content: content["images"][0].update(width="x"), r"picture 1 \(train-000.png\): expected width and"),
        (lambda content: content["images"][0].update(height=0), r"picture 1 \(train-000.png\): expected width and"),
        (lambda content: content["categories"][0].update(skeleton=[["a", "b"]]), r"train.json: category person: expec"),
        (lambda content: content["categories"][0].update(keypoints=3), r"train.json: category person: expected keyp"),
        (
            lambda content: content["annotations"].insert(1, 7),
            r"annotations\[1\]: expected an object, got 7",
        ),
        (lambda content: content["images"].append("a"), r"train.json: images\[6\]: expected an object, got 'a'"),
        (first(area=0), r"annotation 600 in .*train-000.png .* has an area that is not above 0"),
        (
            lambda content: content["images"].append({**content["images"][1], "file_name": "other.png"}),
            r"the picture id 2 is there twice",
        ),
        (lambda content: content["images"][1].update(file_name="train-000.png"), "the file 'train-000.png' is there"),
        (lambda content: content["annotations"][1].update(id=600), "the annotation id 600 is there twice"),
        (lambda content: content["annotations"][1].pop("id"), "the annotation id None is no number"),
    ],
)
def test_a_broken_annotation_is_named(tmp_path: Path, change: Any, message: str) -> None:
    """A KeyError, or joints of another picture."""
    with pytest.raises(LimbeckError, match=message):
        read(tmp_path, change)


def test_a_picture_without_a_size_is_looked_into(tmp_path: Path) -> None:
    """One such picture, for which all others are no longer compared with what their annotations say."""

    def change(content: dict[str, Any]) -> None:
        content["images"][0].pop("width")
        content["images"][-1]["height"] = None

    assert read(tmp_path, change).train.poses.sizes.tolist() == [[72, 60]] * 6

    def wrong(content: dict[str, Any]) -> None:
        change(content)
        content["images"][1]["width"] = 99

    with pytest.raises(LimbeckError, match=r"train-001.png: is 72×60 pixels, and its annotation is of 99×60"):
        read(tmp_path, wrong)


def test_a_picture_of_two_splits_is_named(tmp_path: Path) -> None:
    """A test on what was trained on, as the annotation has another number; a picture of the same name refused."""
    write_people(tmp_path, {"train": 6, "val": 2, "test": 3})
    path = tmp_path / "annotations" / "person_keypoints_test.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    (tmp_path / "test" / "test-001.png").rename(tmp_path / "test" / "val-001.png")
    content["images"][1]["file_name"] = "val-001.png"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert len(load_poses(f"coco-keypoints:{tmp_path}", PLAIN).test) == 3
    (tmp_path / "test" / "val-001.png").write_bytes((tmp_path / "val" / "val-001.png").read_bytes())
    with pytest.raises(LimbeckError, match=r"val-001.png is in validation and in test|in test and in validation"):
        load_poses(f"coco-keypoints:{tmp_path}", PLAIN)
    Image.new("RGB", (72, 60)).save(tmp_path / "test" / "val-001.png")
    content["annotations"][1]["id"] = 401
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(LimbeckError, match="have one file name and one annotation's id"):
        load_poses(f"coco-keypoints:{tmp_path}", PLAIN)


def test_a_picture_without_an_annotation_is_no_sample(tmp_path: Path) -> None:
    """A picture of nobody read, and missed where it is not there."""

    def change(content: dict[str, Any]) -> None:
        content["images"].append({"id": 500, "file_name": "nobody.png", "width": 5, "height": 5})

    data = read(tmp_path, change)
    assert len(data.train) + len(data.validation) == 6


def test_a_corrupt_picture_is_named(tmp_path: Path) -> None:
    """A crop of noise, or an error of a library that names no file."""

    def change(content: dict[str, Any]) -> None:
        path = tmp_path / "train" / content["images"][0]["file_name"]
        if path.exists():
            path.write_bytes(path.read_bytes()[:60])

    with pytest.raises(LimbeckError, match=r"train-000.png: not a readable image"):
        read(tmp_path, change)


def test_grey_transparent_and_turned_pictures(tmp_path: Path) -> None:
    """Grey taken for red, transparency for a fourth channel, joints on a photo as the camera lay; and joints that were
    annotated before it was turned."""
    write_people(tmp_path, {"train": 6, "val": 2})
    path = tmp_path / "annotations" / "person_keypoints_train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    expected = load_poses(f"coco-keypoints:{tmp_path}", PLAIN, validation=0.2)
    pictures = [tmp_path / "train" / each["file_name"] for each in content["images"]]
    upright = [Image.open(each).convert("RGB") for each in pictures]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it
    turned = upright[0].transpose(Image.Transpose.ROTATE_90)
    turned.save(pictures[0], exif=exif)
    upright[1].convert("RGBA").save(pictures[1])
    upright[2].convert("L").save(pictures[2])
    # Annotated on the pixels as they lie in the file, (height, width) of the upright picture.
    lying = upright[3].transpose(Image.Transpose.ROTATE_90)
    lying.save(pictures[3], exif=exif)
    content["images"][3] |= {"width": 60, "height": 72}
    flat = np.array(content["annotations"][3]["keypoints"]).reshape(4, 3)
    flat[:, 0], flat[:, 1] = flat[:, 1].copy(), 71 - flat[:, 0]
    content["annotations"][3] |= {"keypoints": flat.flatten().tolist(), "bbox": [2, 2, 56, 68]}
    path.write_text(json.dumps(content), encoding="utf-8")
    found = load_poses(f"coco-keypoints:{tmp_path}", PLAIN, validation=0.2)
    before, after = (
        PoseSet(each.train.poses, np.arange(6), each.train.pictures, each.skeleton, PLAIN).__getitems__(range(6))
        for each in (expected, found)
    )
    for same in (0, 1, 4, 5):
        torch.testing.assert_close(after["inputs"][same], before["inputs"][same], atol=2 / 255, rtol=0)
    grey = after["inputs"][2]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    for joint in range(4):
        x, y, seen = after["keypoints"][3, joint].tolist()
        assert seen == 1
        assert colour_at(after["inputs"][3], joint) == pytest.approx((x, y), abs=0.5)


def test_one_channel(folder: Path) -> None:
    """Grey crops of three equal channels, which cost three times as much."""
    grey = Preprocessing((64, 80), 1, (0.5,), (0.5,))
    batch = load_poses(f"coco-keypoints:{folder}", grey).train.with_view(PoseView(colour=0.3)).__getitems__([0, 1])
    assert batch["inputs"].shape == (2, 1, 64, 80)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skeleton": {"pairs": [["nose", "hand"]]}}, "no joint 'hand'"),
        ({"skeleton": {"sigmas": [0.1, 0.2]}}, "expected a sigma above 0 for each of the 4 joints"),
        ({"skeleton": {"bones": []}}, "unknown key 'bones'"),
        ({"skeleton": {"joints": ["a", "b", "c", "d"]}}, r"data\.skeleton\.joints: the data names its joints itself"),
        ({"normaliser": "head"}, "expected `box`, `joints` or two joints, got 'head'"),
        ({"normaliser": ("nose", "tale")}, "no joint 'tale'; did you mean 'tail'"),
        ({"padding": 0.1}, r"data\.padding: expected a number from 0\.5"),
        ({"category": "dog"}, "no category 'dog' with keypoints"),
        ({"images": "/nowhere"}, "is not in /nowhere"),
    ],
)
def test_settings_that_do_not_fit_are_named(folder: Path, options: dict[str, Any], message: str) -> None:
    """A normaliser of joints that there are not, or sigmas of another skeleton."""
    with pytest.raises(LimbeckError, match=message):
        load_poses(f"coco-keypoints:{folder}", PLAIN, **options)


def test_a_skeleton_of_one_s_own(folder: Path) -> None:
    """What a recipe says of joints left out."""
    said = {"edges": [["nose", "tail"]], "pairs": [], "sigmas": [0.02, 0.03, 0.04, 0.05]}
    data = load_poses(f"coco-keypoints:{folder}", PLAIN, skeleton=said, normaliser=("nose", "tail"))
    assert data.skeleton == Skeleton(JOINTS, ((0, 3),), (), (0.02, 0.03, 0.04, 0.05))
    assert data.test.measured_by == (0, 3)


def test_left_and_right_by_name() -> None:
    """Ears that a mirror leaves where they are; a `tail` or an `elbow` taken for a side."""
    coco = skeleton_of(["nose", "left_eye", "right_eye", "left_hip", "right_hip"])
    assert coco.pairs == ((1, 2), (3, 4))
    assert coco.sigmas == (0.026, 0.025, 0.025, 0.107, 0.107)
    assert skeleton_of(["snout", "leftear", "rightear", "tailbase"]).mirrored == (0, 2, 1, 3)
    assert skeleton_of(["r_ankle", "L_ankle", "elbow", "tail"]).pairs == ((0, 1),)
    assert skeleton_of(["Front Left Paw", "Front Right Paw"]).pairs == ((0, 1),)
    for left, right in (("LShoulder", "RShoulder"), ("lshoulder", "rshoulder"), ("LSHOULDER", "RSHOULDER"),
                        ("shoulderL", "shoulderR"), ("L_Shoulder", "R_Shoulder")):  # fmt: skip
        one = skeleton_of(["nose", right, left])
        assert (one.pairs, one.sigmas) == (((1, 2),), (0.026, 0.079, 0.079))
    names = ["Nose", "LEye", "REye", "LAnkle", "RAnkle", "frontLPaw", "frontRPaw", "tailL", "tailR"]
    assert skeleton_of(names).pairs == ((1, 2), (3, 4), (5, 6), (7, 8))
    # No side: the other does not exist, or the letter is of the word.
    for alone in (["lip", "nose"], ["LEye", "nose"], ["Lip", "Nose", "rear"], ["COR", "COL"], ["tail", "tair"]):
        assert skeleton_of(alone).pairs == ()
    assert skeleton_of(["a", "b"]).sigmas == (0.1, 0.1)
    with pytest.raises(LimbeckError, match="'b' is in two left-right pairs"):
        Skeleton(("a", "b", "c"), pairs=((0, 1), (1, 2)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("posed", "expected a name or .* did you mean 'pose'"),
        ({"turn": 3}, "unknown key 'turn'"),
        ({"rotate": 200}, "augment.rotate: expected a number from 0 to 180, got 200"),
        ({}, "nothing to augment"),
    ],
)
def test_an_augmentation_that_there_is_not_is_named(given: Any, message: str) -> None:
    """A mistyped bound that does nothing."""
    with pytest.raises(LimbeckError, match=message):
        pose_view(given, "data.augment")


# ------------------------------------------------------------------------------------------- other sources


def test_hugging_face_data(tmp_path: Path) -> None:
    """Flat keypoints read as one joint, boxes as corners, people of one picture as one."""
    image = Image.new("RGB", (72, 60))
    joints = [(30, 10), (8, 30), (60, 30), (30, 50)]
    draw(image, joints)
    flat = [value for x, y in joints for value in (x, y, 1)]
    columns = {
        "single": {"keypoints": [[list(each) for each in joints]] * 8, "bbox": [[2, 2, 60, 54]] * 8},
        "several": {"objects": [{"keypoints": [flat, flat], "bbox": [[2, 2, 60, 54]] * 2}] * 8},
    }
    for name, column in columns.items():
        data = datasets.Dataset.from_dict({"image": [image] * 8, **column}).cast_column("image", datasets.Image())
        data.save_to_disk(str(tmp_path / name))
        found = load_poses(f"datasets:{tmp_path / name}", PLAIN, padding=1.0)
        total = len(found.train) + len(found.validation) + len(found.test)
        assert total == (8 if name == "single" else 16)
        batch = found.train.__getitems__([0])
        for joint in range(4):
            assert colour_at(batch["inputs"][0], joint) == pytest.approx(
                tuple(batch["keypoints"][0, joint, :2].tolist()), abs=0.6
            )
    with pytest.raises(LimbeckError, match="no column of keypoints"):
        load_poses(f"datasets:{tmp_path / 'single'}", PLAIN, keypoints_column="joint")
    assert load_poses(f"datasets:{tmp_path / 'single'}", PLAIN).classes[3] == "joint_3"
    said: dict[str, Any] = {"joints": list(JOINTS), "edges": [["nose", "tail"]]}
    named = load_poses(f"datasets:{tmp_path / 'single'}", PLAIN, skeleton=said)
    assert named.skeleton == Skeleton(JOINTS, ((0, 3),), ((1, 2),))
    with pytest.raises(LimbeckError, match="expected the names of the 4 joints, in order"):
        load_poses(f"datasets:{tmp_path / 'single'}", PLAIN, skeleton={"joints": ["nose"]})


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        ([[30.0], [10.0], [8.0]], r"train row 0, column 'keypoints': expected \(joints, 2 or 3\) a pose"),
        ([30.0, 10.0, 8.0, 30.0, 60.0, 30.0], "visible a joint the third must be 0, 1 or 2, got 8; where there are x"),
        ([[30.0, 10.0, 8.0, 30.0, 60.0, 30.0]], "visible a joint the third must be 0, 1 or 2, got 8"),
        ([30.0, 10.0, 8.0, 30.0], "4 numbers are not x, y, visible a joint"),
    ],
)
def test_keypoints_of_another_form_are_named(tmp_path: Path, keypoints: list[Any], message: str) -> None:
    """Six numbers of three joints read as two joints, the third of which is a place; an IndexError."""
    image = Image.new("RGB", (72, 60))
    data = datasets.Dataset.from_dict({"image": [image] * 4, "keypoints": [keypoints] * 4})
    data.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "odd"))
    with pytest.raises(LimbeckError, match=message):
        load_poses(f"datasets:{tmp_path / 'odd'}", PLAIN)


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that nobody asked for, or an archive of something else."""
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(LimbeckError, match=r"lspet400.zip is neither in .*; put it there, or set LIMBECK_DATA"):
        load_poses("lspet", PLAIN)
    with zipfile.ZipFile(tmp_path / "openfield_mouse.zip", "w") as archive:
        archive.writestr("meta.json", "{}")
    with pytest.raises(LimbeckError, match="not a whole archive of openfield-mouse"):
        load_poses("openfield-mouse", PLAIN)
    with pytest.raises(LimbeckError, match="'lsp' is not known; did you mean 'lspet'"):
        load_poses("lsp", PLAIN)
    with pytest.raises(LimbeckError, match="no such file or folder"):
        load_poses("coco-keypoints:/nowhere", PLAIN)
    with pytest.raises(LimbeckError, match="no JSON file of a training split"):
        load_poses(f"coco-keypoints:{tmp_path}", PLAIN)


@pytest.mark.parametrize("name", ["lspet", "openfield-mouse"])
def test_the_real_archives(name: str, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another split than the one that results are told of, joints without sides, NaN as a place."""
    if not any((data_root / "vision").glob("lspet400.zip")):
        pytest.skip(f"lspet400.zip not found in {data_root}")
    monkeypatch.setenv("LIMBECK_DATA", str(data_root))
    # A crop of a few pixels: all of these are decoded anyway.
    data = load_poses(name, Preprocessing((16, 16), 1, (0.5,), (0.5,)))
    sizes = (len(data.train), len(data.validation), len(data.test))
    assert sizes == ((288, 32, 80) if name == "lspet" else (81, 9, 26))
    if name == "openfield-mouse":
        assert data.validation.ids.tolist() == list(range(81, 90))
        assert data.skeleton.pairs == ((1, 2),)
    else:
        assert len(data.skeleton.pairs) == 6
    batch = data.test.__getitems__(range(8))
    assert bool(batch["keypoints"].isfinite().all())
    assert float(batch["keypoints"][..., 2].mean()) > 0.7
