"""limbeck.sources.boxes: COCO, VOC, YOLO and `datasets`, and what is wrong with files."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tests.sources.boxes.painted import (
    COLOURS,
    NAMES,
    PICTURES,
    coco_data,
    painted,
    write_coco,
    write_pictures,
    write_voc,
    write_yolo,
)
from torch.utils.data import DataLoader

from limbeck.errors import LimbeckError
from limbeck.sources import collate_samples
from limbeck.sources.boxes import CROWD, DetectionData, canvas, load_boxes
from limbeck.sources.ids import text_ids

WRITERS: dict[str, Callable[[Path], Path]] = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


def opened(name: str, size: tuple[int, int] = (80, 80), **options: Any) -> DetectionData:
    return load_boxes(name, size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), **options)


def assert_painted(data: DetectionData) -> None:
    """Every box is the rectangle that was painted, in its class's colour, on disk and in the input."""
    for part in (data.train, data.validation, data.test):
        for at, (size, objects) in enumerate(PICTURES):
            truth = part.truth(at)
            assert part.size(at) == size
            torch.testing.assert_close(truth.boxes, torch.tensor([box for _, box in objects]).reshape(-1, 4).float())
            assert [data.classes[kind] for kind in truth.classes] == [NAMES[kind] for kind, _ in objects]
            areas = [(right - left) * (bottom - top) for _, (left, top, right, bottom) in objects]
            assert truth.areas.tolist() == pytest.approx(areas, rel=1e-5)
    batch = data.test.__getitems__(list(range(len(PICTURES))))
    seen = 0
    for image, boxes, kinds in zip(batch["inputs"], batch["boxes"], batch["box_classes"], strict=True):
        for box, kind in zip(boxes, kinds.tolist(), strict=True):
            if kind >= 0:
                left, top, right, bottom = (round(float(edge)) for edge in box)
                inside = image[:, top + 2 : bottom - 2, left + 2 : right - 2]
                colour = torch.tensor(COLOURS[NAMES.index(data.classes[kind])]) / 255
                assert (inside - colour[:, None, None]).abs().max() < 0.2
                seen += 1
    assert seen == sum(len(objects) for _, objects in PICTURES)
    assert batch["labels"].tolist() == [len(objects) for _, objects in PICTURES]


@pytest.mark.parametrize("form", sorted(WRITERS))
@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("zipped", [False, True])
def test_each_form_gives_the_boxes_that_were_painted(form: str, fit: Any, zipped: bool, tmp_path: Path) -> None:
    """Width for right edge, width for height, a middle for a corner, a box that is not scaled with its picture."""
    root = WRITERS[form](tmp_path / "data")
    if zipped:
        root = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "data"))
    data = opened(f"{form}:{root}", fit=fit)
    assert set(data.classes) == set(NAMES)
    # VOC's are in alphabetical order.
    assert data.classes == (tuple(sorted(NAMES)) if form == "voc" else NAMES)
    assert_painted(data)


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    """Boxes of left, top, width and height taken for edges, or classes by the order in which they are met."""
    write_pictures(tmp_path / "pictures")
    rows = {
        "image": [painted(size, objects) for size, objects in PICTURES],
        "objects": [
            {"bbox": [[x0, y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1) in own], "category": [kind for kind, _ in own]}
            for _, own in PICTURES
        ],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
                "category": datasets.List(datasets.ClassLabel(names=list(NAMES))),
            },
        }
    )
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "validation": split, "test": split}).save_to_disk(str(tmp_path / "saved"))
    data = opened(f"datasets:{tmp_path / 'saved'}")
    assert data.classes == NAMES
    assert_painted(data)
    with pytest.raises(LimbeckError, match="unknown form of boxes"):
        opened(f"datasets:{tmp_path / 'saved'}", box_form="xy")  # type: ignore[arg-type]


@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_that_do_not_fit_in_memory(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that are decoded in every batch, in a worker process too, and are others than those that are kept."""
    root = write_voc(tmp_path / "data")
    if zipped:
        root = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "data"))
    kept = opened(f"voc:{root}").train
    monkeypatch.setattr(canvas, "MEMORY", 0)
    lazy = opened(f"voc:{root}").train
    mine, theirs = (next(iter(DataLoader(each, 4, collate_fn=collate_samples))) for each in (kept, lazy))
    worker = next(iter(DataLoader(lazy, 4, collate_fn=collate_samples, num_workers=1)))
    for name in mine:
        assert torch.equal(mine[name], theirs[name])
        assert torch.equal(mine[name], worker[name])


def test_one_file_is_cut(tmp_path: Path) -> None:
    """A file without splits that trains on its own test pictures."""
    pictures = PICTURES * 5
    names = write_pictures(tmp_path / "images", pictures=pictures)
    (tmp_path / "all.json").write_text(json.dumps(coco_data(names, pictures)))
    data = opened(f"coco:{tmp_path / 'all.json'}")
    ids = [set(getattr(data, part).ids.tolist()) for part in ("train", "validation", "test")]
    assert [len(each) for each in ids] == [14, 2, 4]
    assert len(set.union(*ids)) == 20


def test_coco_s_file_of_unlabelled_pictures(tmp_path: Path) -> None:
    """COCO's own file of unlabelled pictures, passed over beside those of instances, or one of test taken for it."""
    root = write_coco(tmp_path / "data", ("train", "val"))
    for part, folder in (("unlabeled2017", "unlabeled2017"), ("test2017", "test2017")):
        names = write_pictures(root / folder, 100 if part.startswith("un") else 200)
        data = {**coco_data(names), "annotations": None}
        (root / "annotations" / f"image_info_{part}.json").write_text(json.dumps(data))
    data = opened(f"coco:{root}", validation=0.3)
    assert sorted([*data.train.labels.tolist(), *data.validation.labels.tolist()]) == [-1] * 4 + [0, 1, 2, 3]
    assert (data.train.labels == -1).sum() == 4
    assert len(data.test) == 4


def saved(folder: Path, splits: dict[str, dict[str, list[Any]]], **more: Any) -> str:
    """Splits with `image`, `objects` and other columns, as `datasets` saves them."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
                "category": datasets.List(datasets.ClassLabel(names=list(NAMES))),
                "area": datasets.List(datasets.Value("float32")),
            },
            **more,
        }
    )
    made = {name: datasets.Dataset.from_dict(rows, features=features) for name, rows in splits.items()}
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return f"datasets:{folder}"


def test_rows_of_the_hub_without_objects_are_unlabelled(tmp_path: Path) -> None:
    """A picture of which nobody said anything taken for an empty one, a split of such pictures left out, or areas that
    nobody reads."""
    images = [painted(size, objects) for size, objects in PICTURES]
    one, nothing = ({"bbox": [each] * bool(each), "category": [0] * bool(each), "area": [7.0] * bool(each)}
                    for each in ([1, 1, 5, 5], []))  # fmt: skip
    rows = {"image": images, "objects": [one, None, None, nothing]}
    whole = {"image": images[:2], "objects": [one, nothing]}
    splits = {"train": rows, "validation": whole, "test": whole, "unlabeled": {**rows, "objects": [None] * 4}}
    data = opened(saved(tmp_path / "saved", splits))
    assert data.train.labels.tolist() == [1, -1, -1, 0, -1, -1, -1, -1]
    assert data.train.truth(0).areas.tolist() == [7.0]
    with pytest.raises(LimbeckError, match="only training pictures may have none"):
        opened(saved(tmp_path / "other", {"train": whole, "validation": whole, "test": rows}))


def test_sizes_of_the_hub_say_how_a_photo_was_annotated(tmp_path: Path) -> None:
    """Boxes of the picture as it is stored, put on the picture after it is turned."""
    size, objects = (40, 60), ((0, (5, 5, 25, 20)),)
    exif = Image.Exif()
    exif[0x0112] = 6
    painted(size, objects).save(tmp_path / "lying.png", exif=exif)
    told = {"bbox": [[5, 5, 20, 15]], "category": [0], "area": [300.0]}
    rows = {"image": [str(tmp_path / "lying.png")] * 2, "objects": [told] * 2, "height": [40] * 2, "width": [60] * 2}
    sides = {name: datasets.Value("int64") for name in ("height", "width")}
    name = saved(tmp_path / "saved", dict.fromkeys(("train", "validation", "test"), rows), **sides)
    data = opened(name, (60, 60))
    assert data.train.size(0) == size
    batch = data.train.__getitems__([0])
    left, top, right, bottom = (round(float(edge)) for edge in batch["boxes"][0, 0])
    inside = batch["inputs"][0][:, top + 1 : bottom - 1, left + 1 : right - 1]
    assert (inside - torch.tensor([1.0, 0, 0])[:, None, None]).abs().max() < 0.05


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_photos_of_all_orientations(stated: bool, fit: Any, tmp_path: Path) -> None:
    """One of the eight ways in which a camera stores a picture, mirrored or turned the wrong way."""
    pixels = np.full((300, 400, 3), 40, np.uint8)
    pixels[25:125, 225:375] = (255, 0, 0)
    upright, moves = Image.fromarray(pixels), Image.Transpose
    stored = {1: None, 2: moves.FLIP_LEFT_RIGHT, 3: moves.ROTATE_180, 4: moves.FLIP_TOP_BOTTOM, 5: moves.TRANSPOSE,
              6: moves.ROTATE_90, 7: moves.TRANSVERSE, 8: moves.ROTATE_270}  # fmt: skip
    (tmp_path / "images").mkdir()
    names = [f"{orientation}.jpg" for orientation in stored]
    for name, (orientation, move) in zip(names, stored.items(), strict=True):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = upright if move is None else upright.transpose(move)
        image.save(tmp_path / "images" / name, exif=exif, quality=95)
    data = coco_data(names, (((300, 400), ((0, (225, 25, 375, 125)),)),) * 8)
    if not stated:
        for entry in data["images"]:
            del entry["height"], entry["width"]
    (tmp_path / "all.json").write_text(json.dumps(data))
    found = opened(f"coco:{tmp_path / 'all.json'}", (64, 96), fit=fit, validation=0.2)
    seen = 0
    for part in (found.train, found.validation, found.test):
        batch = part.__getitems__(list(range(len(part))))
        for image, (box,) in zip(batch["inputs"], batch["boxes"], strict=True):
            red = (image[0] > 0.6) & (image[1] < 0.3)
            rows, columns = red.any(1).nonzero().flatten(), red.any(0).nonzero().flatten()
            edges = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
            assert (edges - box).abs().max() <= 1.0
            seen += 1
    assert seen == 8


def test_voc_s_list_of_both_splits(tmp_path: Path) -> None:
    """VOC2007 with its usual two lists, said to have no annotations; or its val.txt measured and learned from."""
    root = write_voc(tmp_path / "data")
    lists = root / "ImageSets" / "Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    data = opened(f"voc:{root}", validation=0.3)
    assert len(set(data.train.ids.tolist() + data.validation.ids.tolist())) == 4
    assert not set(data.train.ids.tolist()) & set(data.validation.ids.tolist())
    (lists / "trainval.txt").unlink()
    with pytest.raises(LimbeckError, match=r"Main: lists no train split; add train\.txt or trainval\.txt"):
        opened(f"voc:{root}")


def test_unlabelled_pictures_are_learned_from(tmp_path: Path) -> None:
    """Pictures without an annotation taken for pictures with nothing in them, or measured."""
    root = write_yolo(tmp_path / "data")
    write_pictures(root / "images" / "unlabelled", 100)
    data = opened(f"yolo:{root}")
    assert len(data.train) == 8
    assert data.train.labels.tolist() == [2, 1, 0, 3, -1, -1, -1, -1]
    batch = data.train.__getitems__([3, 4])
    assert batch["labels"].tolist() == [3, -1]
    assert (batch["box_classes"][1] == -1).all()


def test_pictures_without_a_file_have_nothing_in_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A picture that nobody annotated, silently left out or taken for unlabelled."""
    root = write_yolo(tmp_path / "data")
    (root / "labels" / "train" / "p0.txt").unlink()
    with caplog.at_level(logging.WARNING, "limbeck"):
        data = opened(f"yolo:{root}")
    assert data.train.labels.tolist() == [0, 1, 0, 3]
    assert "1 pictures have no annotation" in caplog.text
    assert "p0.png" in caplog.text


def test_grey_transparent_and_deep_pictures(tmp_path: Path) -> None:
    """Pictures of one, two or four channels, or 16 bits, that do not stack, or are black."""
    sources = [painted(size, objects) for size, objects in PICTURES]
    modes = ["L", "LA", "RGBA", "P"]
    (tmp_path / "images").mkdir()
    names = [f"{mode}.png" for mode in modes]
    for name, mode, image in zip(names, modes, sources, strict=True):
        image.convert(mode).save(tmp_path / "images" / name)
    deep = np.full((20, 20), 65535, np.uint16)
    Image.fromarray(deep).save(tmp_path / "images" / "deep.png")
    pictures = (*PICTURES, ((20, 20), ()))
    (tmp_path / "all.json").write_text(json.dumps(coco_data([*names, "deep.png"], pictures)))
    data = opened(f"coco:{tmp_path / 'all.json'}", validation=0.4)
    parts = (data.train, data.validation, data.test)
    pixels = {int(part.ids[at]): part.pixels(torch.tensor([at]))[0] for part in parts for at in range(len(part))}
    by_name = {name: pixels[int(text_ids([f"train/{name}"])[0])] for name in (*names, "deep.png")}
    assert {image.shape for image in pixels.values()} == {(3, 80, 80)}
    assert by_name["deep.png"].min() == 255
    assert by_name["P.png"][2].max() == 255  # something blue
    grey = by_name["L.png"]
    assert torch.equal(grey[0], grey[1])
    assert grey.max() == 76  # what red is in grey


@pytest.mark.parametrize("stated", ["as seen", "as stored", "not at all"])
def test_a_photo_that_lies_on_its_side(stated: str, tmp_path: Path) -> None:
    """Boxes on the picture before it is turned, or the reverse: who annotated it saw it upright, unless the size in the
    annotation says otherwise."""
    size, objects = (40, 60), ((0, (5, 5, 25, 20)),)
    upright = painted(size, objects)
    if stated == "as stored":  # boxes of the picture as it is stored
        image, told = upright, size
    else:
        image, told = upright.transpose(Image.Transpose.ROTATE_90), size
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png"):
        image.save(tmp_path / "images" / name, exif=exif)
    data = coco_data(["a.png", "b.png", "c.png", "d.png"], ((told, objects),) * 4)
    if stated == "not at all":
        for entry in data["images"]:
            del entry["height"], entry["width"]
    (tmp_path / "all.json").write_text(json.dumps(data))
    found = opened(f"coco:{tmp_path / 'all.json'}", (60, 60), validation=0.3).train
    batch = found.__getitems__([0])
    left, top, right, bottom = (round(float(edge)) for edge in batch["boxes"][0, 0])
    inside = batch["inputs"][0][:, top + 2 : bottom - 2, left + 2 : right - 2]
    assert inside.numel() > 0
    assert (inside - torch.tensor([1.0, 0, 0])[:, None, None]).abs().max() < 0.05
    assert found.size(0) == size


def write_one(root: Path, box: Any, **entry: Any) -> str:
    """Four pictures, the first with a box as it is given."""
    names = write_pictures(root / "images")
    data = coco_data(names)
    data["annotations"][0] |= {"bbox": box, **entry}
    (root / "all.json").write_text(json.dumps(data))
    return f"coco:{root / 'all.json'}"


def boxes_of(data: DetectionData) -> dict[int, list[list[float]]]:
    """What people drew, by the number of boxes of a picture in PICTURES and the corner of each."""
    found = {}
    for part in (data.train, data.validation, data.test):
        for at in range(len(part)):
            found[int(part.ids[at])] = part.truth(at).boxes.tolist()
    return found


@pytest.mark.parametrize(
    ("box", "kept", "said"),
    [
        ([5, 5, 0, 10], None, "no width or height"),
        ([5, 5, 10, -3], None, "no width or height"),
        ([70, 5, 10, 10], None, "outside their picture"),
        ([-20, -20, 10, 10], None, "outside their picture"),
        ([50, 30, 20, 20], [50, 30, 60, 40], "cut off"),
        ([-5, -5, 10, 10], [0, 0, 5, 5], "cut off"),
    ],
)
def test_broken_boxes_are_counted(
    box: list[int], kept: list[int] | None, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A box without area makes a NaN of GIoU; one outside is learned from."""
    with caplog.at_level(logging.WARNING, "limbeck"):
        data = opened(write_one(tmp_path, box), validation=0.3)
    assert said in caplog.text
    assert "p0.png" in caplog.text
    every = [each for boxes in boxes_of(data).values() for each in boxes]
    assert len(every) == (6 if kept else 5)
    if kept:
        assert [float(edge) for edge in kept] in every


def test_an_area_of_null_is_that_of_the_box(tmp_path: Path) -> None:
    """Exporters write null for what they do not know."""
    data = opened(write_one(tmp_path, [5, 5, 20, 15], area=None), validation=0.3)
    truths = [part.truth(at) for part in (data.train, data.validation, data.test) for at in range(len(part))]
    assert sorted(area for truth in truths for area in truth.areas.tolist())[-3:] == [400.0, 500.0, 625.0]
    assert 300.0 in [area for truth in truths for area in truth.areas.tolist()]


def test_a_crowd_is_ignored(tmp_path: Path) -> None:
    """A crowd that is learned as one large object."""
    data = opened(write_one(tmp_path, [5, 5, 20, 15], iscrowd=1, area=7.0), validation=0.3)
    for part in (data.train, data.validation, data.test):
        for at in range(len(part)):
            truth = part.truth(at)
            if truth.crowds.any():
                batch = part.__getitems__([at])
                assert batch["labels"].tolist() == [1]
                assert sorted(batch["box_classes"][0].tolist()) == [CROWD, 2]
                assert truth.areas[truth.crowds].tolist() == [7.0]
                return
    raise AssertionError("no crowd")


def _no_picture(root: Path) -> str:
    name = write_one(root, [5, 5, 5, 5])
    (root / "images" / "p2.png").unlink()
    return name


def _no_picture_of_an_xml(root: Path) -> str:
    write_voc(root / "voc")
    (root / "voc" / "JPEGImages" / "p2.png").unlink()
    return f"voc:{root / 'voc'}"


def _no_picture_of_a_text(root: Path) -> str:
    write_yolo(root / "yolo")
    (root / "yolo" / "images" / "train" / "p2.png").unlink()
    return f"yolo:{root / 'yolo'}"


def _yolo_line(line: str) -> Callable[[Path], str]:
    def write(root: Path) -> str:
        write_yolo(root / "yolo")
        (root / "yolo" / "labels" / "train" / "p1.txt").write_text(line)
        return f"yolo:{root / 'yolo'}"

    return write


def _corrupt(root: Path) -> str:
    name = write_one(root, [5, 5, 5, 5])
    path = root / "images" / "p1.png"
    path.write_bytes(path.read_bytes()[:70])
    return name


def _no_image_at_all(root: Path) -> str:
    name = write_one(root, [5, 5, 5, 5])
    (root / "images" / "p1.png").write_text("no picture")
    return name


def _xml(text: str) -> Callable[[Path], str]:
    def write(root: Path) -> str:
        write_voc(root / "voc")
        (root / "voc" / "Annotations" / "p1.xml").write_text(text)
        return f"voc:{root / 'voc'}"

    return write


def _wrong_size(root: Path) -> str:
    names = write_pictures(root / "images")
    data = coco_data(names)
    data["images"][1] |= {"width": 41}
    (root / "all.json").write_text(json.dumps(data))
    return f"coco:{root / 'all.json'}"


def _listed_twice(root: Path) -> str:
    names = write_pictures(root / "images")
    data = coco_data(names)
    data["images"].append({**data["images"][1], "id": 77})
    (root / "all.json").write_text(json.dumps(data))
    return f"coco:{root / 'all.json'}"


def _empty_line(root: Path) -> str:
    write_yolo(root / "yolo")
    (root / "yolo" / "data.yaml").unlink()
    (root / "yolo" / "classes.txt").write_text("red\n\ngreen\nblue\n")
    return f"yolo:{root / 'yolo'}"


def _val_class(root: Path) -> str:
    write_coco(root / "coco")
    path = root / "coco" / "annotations" / "instances_val.json"
    data = json.loads(path.read_text())
    data["categories"][0]["name"] = "purple"
    path.write_text(json.dumps(data))
    return f"coco:{root / 'coco'}"


FAULTS: dict[str, tuple[Callable[[Path], str], str]] = {
    "an image that is not there": (_no_picture, r"all\.json: lists p2\.png"),
    "an XML file without a picture": (_no_picture_of_an_xml, r"p2\.xml: there is no picture"),
    "labels without a picture": (_no_picture_of_a_text, r"p2\.txt: there is no picture"),
    "a class that does not exist": (_yolo_line("3 0.5 0.5 0.2 0.2"), r"p1\.txt: class 3 is out of range"),
    "a negative class": (_yolo_line("-1 0.5 0.5 0.2 0.2"), r"p1\.txt: class -1 is out of range"),
    "three numbers": (_yolo_line("1 0.5 0.5 0.2"), r"p1\.txt, line 1: expected a class and four numbers"),
    "a word": (_yolo_line("red 0.5 0.5 0.2 0.2"), r"p1\.txt, line 1: expected a class and four numbers"),
    "no number": (_yolo_line("1 nan 0.5 0.2 0.2"), r"p1\.txt: box 0 is not of finite numbers"),
    "a category that does not exist": (
        lambda root: write_one(root, [5, 5, 5, 5], category_id=99),
        r"annotation 0, of p0\.png, is of the category 99",
    ),
    "an image id that does not exist": (
        lambda root: write_one(root, [5, 5, 5, 5], image_id=99),
        r"all\.json: annotation 0 is of the image 99",
    ),
    "a box of three numbers": (lambda root: write_one(root, [5, 5, 5]), r"all\.json: annotation 0 .* four numbers"),
    "an id that is a list": (
        lambda root: write_one(root, [5, 5, 5, 5], image_id=[10]),
        r"all\.json: annotation 0 .*no id",
    ),
    "a category that is a list": (
        lambda root: write_one(root, [5, 5, 5, 5], category_id=[3]),
        r"all\.json: annotation 0 .*no id",
    ),
    "a crowd that is a word": (
        lambda root: write_one(root, [5, 5, 5, 5], iscrowd="0"),
        r"all\.json: annotation 0 has iscrowd '0'; it is 0 or 1",
    ),
    "an area below 0": (lambda root: write_one(root, [5, 5, 5, 5], area=-3), r"annotation 0 has the area -3;"),
    "an area that is no number": (
        lambda root: write_one(root, [5, 5, 5, 5], area=float("nan")),
        r"annotation 0 has the area nan;",
    ),
    "a picture that is listed twice": (_listed_twice, r"all\.json: lists p1\.png twice"),
    "a class without a name": (_empty_line, r"classes\.txt, line 2: is empty"),
    "a corrupt picture": (_corrupt, r"p1\.png: not a readable image"),
    "a text file for a picture": (_no_image_at_all, r"p1\.png: not a readable image"),
    "an XML file that breaks off": (_xml("<annotation><object>"), r"p1\.xml: not an annotation in VOC's form"),
    "an object without a name": (_xml("<annotation><object/></annotation>"), r"p1\.xml: .*an object has no name"),
    "another size": (_wrong_size, r"p1\.png: the picture is 40×60 pixels, its annotation says 41×60"),
    "a class that is in val only": (_val_class, r"class 'purple' is in validation but not in train"),
    "nothing": (lambda root: f"voc:{root / 'nowhere'}", r"nowhere: no such folder or zip"),
    "another kind": (lambda _root: "cocoa:here", r"data 'cocoa:here' is not known; did you mean 'coco:'"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_one_error_names_the_file(fault: str, tmp_path: Path) -> None:
    """A broken file that is passed over, or a traceback that names none."""
    write, said = FAULTS[fault]
    with pytest.raises(LimbeckError, match=said) as caught:
        opened(write(tmp_path), validation=0.3)
    assert "\n" not in str(caught.value)


def test_splits_of_bccd(data_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The author's splits, and the two boxes without area among 4,888."""
    path = data_root / "vision" / "bccd_voc.zip"
    if not path.exists():
        pytest.skip(f"{path} not found")
    with caplog.at_level(logging.WARNING, "limbeck"):
        data = opened(f"voc:{path}", (48, 64))
    assert [len(each) for each in (data.train, data.validation, data.test)] == [205, 87, 72]
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert [int(each.labels.sum()) for each in (data.train, data.validation, data.test)] == [2804, 1137, 945]
    assert caplog.text.count("no width or height: 1") == 2


def test_a_zip_that_is_none(tmp_path: Path) -> None:
    """A traceback for a download that broke off."""
    (tmp_path / "data.zip").write_bytes(b"PK no")
    with pytest.raises(LimbeckError, match=r"data\.zip: not a readable zip"):
        opened(f"voc:{tmp_path / 'data.zip'}")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(LimbeckError, match="no annotations of a train split"):
        opened(f"voc:{tmp_path / 'empty.zip'}")
