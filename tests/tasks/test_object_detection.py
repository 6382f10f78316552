"""Object detection as a task: from painted pictures to results, report and artifact."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.models.detection.scenes import detector as set_detector
from tests.sources.boxes.painted import COLOURS
from typer.testing import CliRunner

from limbeck.cli import app
from limbeck.doctor import examine
from limbeck.errors import LimbeckError
from limbeck.files import read_json
from limbeck.models import load
from limbeck.recipe import Recipe, read_recipe
from limbeck.results import Results
from limbeck.run import run
from limbeck.session import Session, open_data, open_teacher
from limbeck.sources.boxes import DetectionSet, Found
from limbeck.stores import compare_with_teacher, label_recipe
from limbeck.tasks import OBJECT_DETECTION
from limbeck.tasks.object_detection import Detected, predict
from limbeck.teachers import Stored

SIDE = 64
DETECTOR = {"model": "fcos:timm:test_efficientnet", "options": {"channels": 16, "blocks": 1, "strides": [8, 16]}}


def pictures(root: Path, counts: dict[str, int]) -> Path:
    """Squares in three colours, in YOLO's form."""
    draw = np.random.default_rng(0)
    for part, count in counts.items():
        images, labels = root / "images" / part, root / "labels" / part
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 50, (SIDE, SIDE, 3)).astype(np.uint8)
            lines = []
            for left in (2, 34):
                kind, side = int(draw.integers(0, 3)), int(draw.integers(14, 26))
                top = int(draw.integers(0, SIDE - side))
                pixels[top : top + side, left : left + side] = COLOURS[kind]
                middle = ((left + side / 2) / SIDE, (top + side / 2) / SIDE)
                lines.append(f"{kind} {middle[0]} {middle[1]} {side / SIDE} {side / SIDE}")
            Image.fromarray(pixels).save(images / f"{number}.png")
            (labels / f"{number}.txt").write_text("\n".join(lines))
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"yolo:{pictures(tmp_path_factory.mktemp('painted') / 'data', {'train': 32, 'val': 8, 'test': 10})}"


def recipe(folder: Path, source: str, **changes: Any) -> Recipe:
    train = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "evaluations": 1, "clip": 5.0}
    plain = {
        "name": "tiny-detection", "task": "object-detection",
        "data": {"source": source, "size": SIDE, "labelled": 8, "augment": "flip"},
        "teacher": {**DETECTOR, "train": {**train, "steps": 80}},
        "student": DETECTOR, "terms": [{"loss": "model-loss"}],
        "pseudo_boxes": {"threshold": 0.3}, "train": train, "seeds": 1, **changes,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return read_recipe(str(path))


@pytest.fixture(scope="module")
def finished(source: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results, list[str]]:
    folder = tmp_path_factory.mktemp("run")
    said: list[str] = []
    return folder, run(recipe(folder, source), folder / "run", say=said.append), said


def test_from_pictures_to_report_and_artifact(finished: tuple[Path, Results, list[str]], source: str) -> None:
    """Rows of another task, a latency without the choice of boxes, a report without pictures, a student that finds
    something else once it is loaded."""
    folder, results, said = finished
    assert [row.name for row in results.rows] == ["teacher", "alone", "alone", "distilled", "distilled"]
    teacher = results.rows[0].metrics
    assert teacher["ap50"] > 0.3
    for row in results.rows:
        assert {"ap", "ap50", "ap75", "ap_small", "ar"} <= row.metrics.keys()
        assert row.size["flops"] > 0
        assert row.latency["p50"] > 0
        if row.name != "teacher":
            assert {"teacher_ap50", "missed"} <= row.metrics.keys()
    assert {claim.metric for claim in results.claims} == {"ap50", "ap", "ap75"}
    assert any("32 pictures, 8 of them annotated, with 16 boxes of 3 classes" in line for line in said)
    details = read_json(folder / "run" / results.rows[0].details)
    assert details["pr_curves"]["per_class"].keys() == {"red", "green", "blue"}
    assert sum(details["per_class"]["support"]) == 20
    precision = details["average_precision"]
    assert [(each["name"], each["share"]) for each in details["breakdown"]["parts"]] == [
        (name, precision[name]["ap50"] if name in precision else None) for name in details["classes"]
    ]
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "AP50" in page
    shown = read_json(folder / "run" / "details" / "examples.json")["compared"]
    assert 0 < len(shown) <= 8
    for each in shown:
        assert [panel["title"] for panel in each["panels"]] == ["truth", "teacher", "alone", "distilled"]
        image = Image.open(io.BytesIO(base64.b64decode(each["panels"][0]["png"])))
        assert image.size == (320, 320)
        assert each["panels"][0]["text"]
    student, data = load(folder / "run" / "student"), open_data(recipe(folder, source), lambda _line: None)
    again = predict(student, data.test, label="again")
    assert isinstance(again, Detected)
    measured = [
        row.metrics["ap"] for row in results.named("distilled", "last") + results.named("distilled", "selected")
    ]
    assert any(again.metrics()["ap"] == pytest.approx(each) for each in measured)


def test_pseudo_boxes_are_of_unlabelled_pictures(finished: tuple[Path, Results, list[str]], source: str) -> None:
    """A teacher that looks in every seed anew, or whose boxes the student alone sees too."""
    folder, _, said = finished
    (place,) = (folder / "run").glob("pseudo-boxes-*.safetensors")
    assert sum("pseudo-boxes: the teacher finds" in line for line in said) == 1
    found = Found.read(place)
    wanted = recipe(folder, source)
    data = open_data(wanted, lambda _line: None)
    split = OBJECT_DETECTION.training(wanted.data, data, 0, None)
    assert (split.labels >= 0).sum() == 8
    taught = split.with_found(found)
    assert (taught.labels >= 0).all()
    batch = taught.__getitems__(list(range(32)))
    scores = batch["box_scores"][batch["box_classes"] >= 0]
    assert scores.min() >= 0.3
    assert (batch["box_scores"].amax(1)[split.labels >= 0] == 1).all()


def test_alone_has_whole_batches_and_as_many_steps(finished: tuple[Path, Results, list[str]], source: str) -> None:
    """A student alone in whose batches one picture of four counts, or that learns a quarter as long."""
    folder, _, _ = finished
    wanted = recipe(folder, source)
    data = open_data(wanted, lambda _line: None)
    split = OBJECT_DETECTION.training(wanted.data, data, 0, None)
    alone = OBJECT_DETECTION.alone(split)
    assert len(split) == 32
    assert alone.labels.tolist() == [2] * 8
    for name in ("alone-0", "distilled-0"):
        history = read_json(folder / "run" / "models" / name / "record.json")["history"]
        assert max(entry["step"] for entry in history) == 12


def test_a_run_goes_on(finished: tuple[Path, Results, list[str]], source: str) -> None:
    """A second run that trains again, or finds other pictures."""
    folder, results, _ = finished
    copy = folder / "copy"
    shutil.copytree(folder / "run", copy)
    (copy / "results.json").unlink()
    shutil.rmtree(copy / "models" / "distilled-0")
    again = run(recipe(folder, source), copy, say=lambda _line: None)
    for name in ("teacher", "alone", "distilled"):
        mine, theirs = (each.named(name, "last")[0].metrics for each in (again, results))
        assert mine == pytest.approx(theirs), name


def test_from_a_label_store(finished: tuple[Path, Results, list[str]], source: str, tmp_path: Path) -> None:
    """Boxes of a view beside another's pixels, or that are rounded to whole pixels."""
    saved = str(finished[0] / "run" / "teacher" / "last")
    terms = [{"loss": "model-loss"}, {"loss": "soft-boxes"}]
    plain: dict[str, Any] = {"terms": terms, "pseudo_boxes": None, "label": {
        "signals": {"logits": {"codec": "dense"}, "boxes": {"codec": "features"},
        "quality": {"codec": "features"}}, "views": 2}}  # fmt: skip
    wanted = recipe(tmp_path, source, teacher={"model": saved, "store": str(tmp_path / "labels")}, **plain)
    (store,) = label_recipe(wanted, tmp_path / "labelling", say=lambda _line: None)
    assert len(store.ids) == 2 * 32 + 10
    found = compare_with_teacher(wanted, tmp_path / "labelling", store)
    assert found
    assert all(each.ok for each in found), found
    results = run(wanted, tmp_path / "stored", say=lambda _line: None)
    assert results.rows[0].metrics["ap50"] > 0.3  # by the live teacher beside the store
    said = predict(Stored(store), open_data(wanted, lambda _line: None).test, label="teacher")
    assert said.metrics() == {}
    assert "runs as no single detector" in said.why


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"terms": [{"loss": "supervised"}]}, "takes? .*model-loss"),
        ({"teacher": {"model": "timm:resnet18"}}, "did you mean fcos:timm:resnet18"),
        ({"data": {"source": "", "size": [64]}}, "data.size: expected a height and width"),
        ({"data": {"source": "", "augment": "crop"}}, "data.augment: unknown augmentation 'crop'"),
        ({"teacher": {**DETECTOR, "augment": "crop"}}, "teacher.0.augment: unknown augmentation 'crop'"),
        ({"teacher": {**DETECTOR, "size": 64}}, "teacher.0.size: is not of the task"),
        ({"data": {"source": "", "normalize": "imagnet"}}, "did you mean 'imagenet'"),
        ({"pseudo_boxes": {"treshold": 0.2}}, "did you mean 'threshold'"),
        ({"pseudo_boxes": {"threshold": 1.5}}, "pseudo_boxes.threshold"),
    ],
)
def test_mistakes_in_a_recipe(changes: dict[str, Any], said: str, source: str, tmp_path: Path) -> None:
    """A mistake that shows after the teacher was trained, or trains on something else."""
    changes = {key: {**value, "source": source} if key == "data" else value for key, value in changes.items()}
    with pytest.raises(LimbeckError, match=said):
        run(recipe(tmp_path, source, **changes), tmp_path / "run", say=lambda _line: None)


def test_pseudo_boxes_are_of_detection() -> None:
    """A key that does nothing in another task."""
    with pytest.raises(LimbeckError, match="pseudo_boxes: is of object detection"):
        read_recipe("digits", ["pseudo_boxes={threshold: 0.3}"])


class Fixed(torch.nn.Module):
    """A detector that finds the box that it is given in every picture."""

    def __init__(self, box: list[float]) -> None:
        super().__init__()
        self.box = torch.nn.Parameter(torch.tensor([box]))

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": torch.zeros(len(inputs), 1, 1)}

    def detections(self, signal: Any) -> list[Any]:
        from limbeck.models.detection import Detections

        one = Detections(self.box.detach(), torch.ones(1), torch.zeros(1, dtype=torch.int64))
        return [one] * len(signal["logits"])


def test_what_is_found_is_measured_on_the_picture_on_disk(tmp_path: Path) -> None:
    """An object that is large on disk and small in the input, counted among the small; or one beside a picture that is
    not square."""
    (tmp_path / "images").mkdir()
    for number in range(12):
        Image.new("RGB", (400, 200)).save(tmp_path / "images" / f"{number}.png")
    images = [{"id": at, "file_name": f"{at}.png", "height": 200, "width": 400} for at in range(12)]
    boxes = [{"image_id": at, "category_id": 1, "bbox": [100, 50, 200, 120]} for at in range(12)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    settings = OBJECT_DETECTION.settings.model_validate({"source": f"coco:{tmp_path / 'all.json'}", "size": 64})
    from limbeck.tasks import Opening

    data = OBJECT_DETECTION.load(settings, Opening())
    test: DetectionSet = data.test
    assert test.__getitems__([0])["boxes"][0, 0].tolist() == pytest.approx([16, 8, 48, 27.2])
    found = predict(Fixed([16, 8, 48, 27.2]), test, label="fixed")
    assert found.metrics() == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1, "ap_large": 1, "ar": 1})
    with pytest.raises(LimbeckError, match="finds no objects"):
        predict(torch.nn.Flatten(), test, label="none")


def test_doctor_and_eval(finished: tuple[Path, Results, list[str]], source: str) -> None:
    """Numbers of boxes taken for classes, or a saved student that is measured at another size."""
    folder, results, _ = finished
    findings = {each.topic: each for each in examine(recipe(folder, source), folder / "run")}
    assert "AP50" in findings["teacher"].text
    assert "16 boxes of 3 classes" in findings["labels"].text
    assert findings["term model-loss"].level == "ok"
    done = CliRunner().invoke(app, ["eval", str(folder / "run" / "student"), source])
    assert done.exit_code == 0, done.output
    rows = [*results.named("distilled", "last"), *results.named("distilled", "selected")]
    assert any(f"{row.metrics['ap']:.4f}" in done.output for row in rows)


def test_a_teacher_of_the_hub_with_classes_in_another_order(source: str, tmp_path: Path) -> None:
    """Reds taught as greens, or a refusal of names in other words."""
    model = set_detector("rt_detr").network
    for names, refused in (("green red blue", True), ("Red Green Blue", False), ("rot green bleu", False)):
        model.config.id2label = dict(enumerate(names.split()))
        model.save_pretrained(tmp_path / "hub")
        wanted = recipe(tmp_path, source, teacher={"model": f"hf:{tmp_path / 'hub'}"})
        session = Session(wanted, open_data(wanted, lambda _line: None), tmp_path, False, lambda _line: None)
        if refused:
            with pytest.raises(LimbeckError, match="'red' is its class 1 and class 0 of the data"):
                open_teacher(session)
        else:
            open_teacher(session)
