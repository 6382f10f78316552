"""Pictures reach an exported model as they reached the model that learned: the same numbers, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.artifact.recorded import Recorder, recording
from tests.sources.drawn_people import write_people

from limbeck.artifact import boxes, classes, faces, joints
from limbeck.sources import load
from limbeck.sources.boxes import load_boxes
from limbeck.sources.poses import load_poses
from limbeck.types import Preprocessing

TURNED = 0x0112
"""The EXIF tag of orientation."""


def pictures(folder: Path) -> list[Path]:
    """Noise in every kind of file that readers know: grey, palette, transparent, 16 bit, JPEG in every orientation."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)

    def noise(*shape: int) -> Image.Image:
        return Image.fromarray(draw.integers(0, 256, shape).astype(np.uint8))

    made: dict[str, Image.Image] = {
        "rgb.png": noise(37, 50, 3), "grey.png": noise(41, 29), "rgba.png": noise(33, 64, 4),
        "la.png": noise(30, 31, 2), "palette.png": noise(40, 40, 3).convert("P"),
        "deep.png": Image.fromarray(draw.integers(0, 65536, (36, 45)).astype(np.uint16)), "small.png": noise(5, 9, 3),
        "exact.png": noise(24, 24, 3), "big.jpg": noise(150, 211, 3),
    }  # fmt: skip
    for name, image in made.items():
        image.save(folder / name)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[TURNED] = orientation
        noise(70, 52, 3).save(folder / f"turned{orientation}.jpg", exif=exif)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("grey", [False, True])
def test_classes_and_faces_see_what_the_student_saw(tmp_path: Path, grey: bool) -> None:
    """Another resampling, a picture that lies on its side, transparency that is white here and black there."""
    for name in ("a", "b"):
        for path in pictures(tmp_path / name):
            if grey and path.stem not in ("grey", "la", "deep"):
                path.unlink()
    data = load(f"folder:{tmp_path}", size=24)
    assert data.preprocessing.channels == (1 if grey else 3)
    splits = (data.train, data.validation, data.test)
    learned = np.concatenate([split.__getitems__(list(range(len(split))))["inputs"].numpy() for split in splits])
    files = sorted(tmp_path.rglob("*.*"))
    recorder, other = Recorder(logits=np.zeros((1, 3))), Recorder(embedding=np.ones((1, 2)))
    artifact = recording("image-classification", data.preprocessing, "middle", recorder, problem="single-label")
    classes.of_pictures(artifact, [path if index % 2 else path.read_bytes() for index, path in enumerate(files)])
    assert len(recorder.seen[0]) == len(learned) == len(files)
    assert {row.tobytes() for row in recorder.seen[0]} == {row.tobytes() for row in learned}
    faces.predict(recording("face-recognition", data.preprocessing, "middle", other), files)
    assert np.array_equal(other.seen[0], recorder.seen[0])


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_detectors_see_what_the_student_saw(tmp_path: Path, fit: str) -> None:
    """A canvas of another colour, boxes that are scaled by rounded sizes, a JPEG that is decoded at its full size."""
    root = tmp_path / "data"
    for part in ("train", "val"):
        files = pictures(root / "images" / part)
        (root / "labels" / part).mkdir(parents=True)
        for path in files:
            (root / "labels" / part / f"{path.stem}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "classes.txt").write_text("cat\ndog\nowl\n")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    data = load_boxes(f"yolo:{root}", (48, 64), mean=mean, std=std, fit=fit)  # type: ignore[arg-type]
    files = sorted((root / "images" / "val").iterdir())
    expected = data.test.__getitems__(list(range(len(files))))
    box = torch.tensor([[4.0, 6.0, 30.0, 22.0]])
    recorder = Recorder(logits=np.array([[[8.0, -8.0, -8.0]]]), boxes=box.numpy()[None])
    artifact = recording("object-detection", data.train.preprocessing, fit, recorder, chosen="pairs", detections=1)
    answers = boxes.predict(artifact, files)
    assert {row.tobytes() for row in recorder.seen[0]} == {row.tobytes() for row in expected["inputs"].numpy()}
    by_pixels = {row.tobytes(): index for index, row in enumerate(expected["inputs"].numpy())}
    for row, answer in zip(recorder.seen[0], answers, strict=True):
        [found] = answer["objects"]
        assert found["class"] == "cat"
        restored = data.test.restored(by_pixels[row.tobytes()], box)[0].tolist()
        assert found["box"] == pytest.approx(restored, abs=1e-4)


def test_poses_see_what_the_student_saw(tmp_path: Path) -> None:
    """A crop around another middle, without the padding, or a way back that is half a pixel off."""
    root = write_people(tmp_path, {"train": 6, "val": 4, "test": 5}, size=(180, 150))
    pixels = Preprocessing((48, 64), 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    data = load_poses(f"coco-keypoints:{root}", pixels)
    test = data.test
    expected = test.__getitems__(list(range(len(test))))["inputs"].numpy()
    maps = np.zeros((1, 4, 12, 16))
    maps[0, range(4), [2, 5, 7, 10], [3, 8, 12, 5]] = 1.0
    recorder = Recorder(heatmaps=maps)
    artifact = recording(
        "pose-estimation",
        pixels,
        "box",
        recorder,
        padding=test.padding,
        classes=test.classes,
        decoding="cell",
        sigma=2.0,
    )
    asked = [
        {"picture": test.picture(index), "box": test.poses.boxes[test.at[index]].tolist()} for index in range(len(test))
    ]
    answers = joints.predict(artifact, asked)
    assert np.array_equal(recorder.seen[0], expected)
    inside = np.stack([[(3 + 0.5) * 4 - 0.5, (2 + 0.5) * 4 - 0.5], [33.5, 21.5], [49.5, 29.5], [21.5, 41.5]])
    places = test.in_pictures(np.repeat(inside[None], len(test), 0))
    for answer, wanted in zip(answers, places, strict=True):
        found = np.array([[each["x"], each["y"]] for each in answer["joints"].values()])
        assert found == pytest.approx(wanted, abs=1e-6)
