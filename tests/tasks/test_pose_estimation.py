"""Pose estimation as a task: from drawn people to results, report, label store and artifact."""

from __future__ import annotations

import base64
import colorsys
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
from tests.sources.drawn_people import write_people

from limbeck.errors import LimbeckError
from limbeck.losses.heatmaps import gaussian_heatmaps
from limbeck.metrics import decode_heatmaps
from limbeck.models import ModelSpec, Shape, build, load, read_card
from limbeck.recipe import Recipe, read_recipe
from limbeck.run import run
from limbeck.session import Session, open_data, preview_teacher
from limbeck.sources.poses import PoseData, PoseSet
from limbeck.stores import inspect_store, label_recipe
from limbeck.students import build_student, distiller_of
from limbeck.tasks import POSE_ESTIMATION
from limbeck.tasks.drawn_poses import compared_poses
from limbeck.tasks.pose_estimation import CornersAligned, PoseSettings
from limbeck.tasks.posed import Posed, predict
from limbeck.teachers import Live, Stored
from limbeck.types import Batch

SIZE = [48, 64]
NET: dict[str, Any] = {"model": "heatmaps:timm:test_resnet", "options": {"stride": 8, "deconvolution": [8]}}
SIMCC: dict[str, Any] = {"model": "simcc:timm:test_resnet", "options": {"stride": 8, "split": 1}}
TRAIN = {"steps": 6, "batch_size": 8, "learning_rate": 0.003, "evaluations": 2}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"), {"train": 24, "val": 6, "test": 10})


def recipe(people: Path, folder: Path, **changes: Any) -> Recipe:
    data = {"source": f"coco-keypoints:{people}", "size": SIZE, "labelled": 10, "sigma": 1.5}
    plain = {
        "name": "tiny-poses", "task": "pose-estimation", "data": {**data, **changes.pop("data", {})},
        "teacher": {**NET, "train": TRAIN}, "student": NET, "train": TRAIN, "seeds": 1, **changes,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return read_recipe(str(path))


def quiet(_line: str) -> None:
    pass


def test_from_pictures_to_report_and_artifact(people: Path, tmp_path: Path) -> None:
    """A run that measures crops instead of pictures, or shows no skeletons, or cannot be opened again."""
    folder = tmp_path / "run"
    wanted = recipe(people, tmp_path, data={"augment": "pose-flip", "flip_test": True})
    results = run(wanted, folder, say=quiet)
    for row in results.rows:
        assert {"pck05", "pck10", "pck20", "joint_error", "joint_error_share", "oks_ap50"} <= row.metrics.keys()
        assert row.metrics["pck05"] <= row.metrics["pck10"] <= row.metrics["pck20"]
        if row.name != "teacher":
            assert {"agreement", "teacher_distance"} <= row.metrics.keys()
    assert {claim.metric for claim in results.claims} == {"pck10", "oks_ap", "joint_error_share"}
    details = json.loads((folder / results.rows[0].details).read_text(encoding="utf-8"))
    assert [each["joint"] for each in details["joints"]] == ["nose", "left_hand", "right_hand", "tail"]
    assert all(each["annotated"] == 10 for each in details["joints"])
    shown = json.loads((folder / "details" / "examples.json").read_text(encoding="utf-8"))["compared"]
    assert len(shown) == 8
    assert [panel["title"] for panel in shown[0]["panels"]] == ["truth", "teacher", "alone", "distilled"]
    assert shown[0]["panels"][0]["png"] != shown[0]["panels"][1]["png"]
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "PCK@0.1 by joint" in report
    assert '<tr><th scope="row">left_hand</th><td>10</td>' in report
    assert "Test samples on which student and teacher differ most" in report
    assert shown[0]["panels"][0]["png"] in report
    card = read_card(folder / "student")
    assert card.classes == ("nose", "left_hand", "right_hand", "tail")
    assert card.shape == Shape(4, 3, (48, 64), "keypoints")
    assert load(folder / "student")(torch.zeros(1, 3, 48, 64))["heatmaps"].shape == (1, 4, 12, 16)
    # A run goes on where it stopped, and a student that is trained again sees the same views.
    before = {(row.name, row.checkpoint): row.metrics for row in results.rows}
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "models" / "distilled-0")
    for row in run(wanted, folder, say=quiet).rows:
        assert row.metrics == pytest.approx(before[row.name, row.checkpoint], abs=1e-6)


def test_labels_are_stored_with_their_views(people: Path, tmp_path: Path) -> None:
    """Heatmaps of another crop than the one the student sees, or a store that keeps four bytes a cell."""
    wanted = recipe(
        people, tmp_path, data={"augment": "pose-flip"},
        label={"signals": {"heatmaps": {"codec": "features", "bits": 8}}, "views": 2},
    )  # fmt: skip
    folder = tmp_path / "run"
    store = label_recipe(wanted, folder, say=quiet)[0]
    assert store.manifest.records == 24 * 2 + 10
    cells = 4 * 12 * 16
    assert store.manifest.bytes < store.manifest.records * (cells + 120)
    assert all(finding.ok for finding in inspect_store(store))
    stored = recipe(
        people, tmp_path, data={"augment": "pose-flip"},
        teacher={**NET, "train": TRAIN, "store": str(store.folder)}, label=wanted.label.model_dump(),
    )  # fmt: skip
    data = open_data(stored, quiet)
    split = POSE_ESTIMATION.training(stored.data, data, 3, store)
    assert isinstance(split, PoseSet)
    split.set_epoch(5)
    batch = split.__getitems__([4, 0, 7])
    assert batch["views"].tolist() == [1, 1, 1]
    teacher = Stored(store)
    teacher.require(["heatmaps"])
    live = Live(load(folder / "teacher" / "last"))
    live.require(["heatmaps"])
    expected = live(batch)["heatmaps"]
    kept = teacher(batch)["heatmaps"]
    assert (kept - expected).abs().max() <= expected.abs().max() / 200
    results = run(stored, folder, say=quiet)
    assert {"teacher", "alone", "distilled"} == {row.name for row in results.rows}
    alone = predict(teacher, data.test, label="stored", reading=PoseSettings(source=""))
    assert isinstance(alone, Posed)
    assert "pck10" in alone.metrics()
    other = stored.model_copy(update={"data": stored.data.model_copy(update={"augment": "pose"})})
    with pytest.raises(LimbeckError, match="the recipe asks for PoseView"):
        POSE_ESTIMATION.training(other.data, data, 0, store)


def test_classified_coordinates(people: Path, tmp_path: Path) -> None:
    """A teacher of SimCC trained by losses on heatmaps, a student alone that learns nothing, signals that a recipe
    would have to name."""
    terms = [{"loss": "supervised-simcc", "weight": 0.5, "sigma": 3}, {"loss": "simcc-kd", "weight": 0.5}]
    wanted = recipe(
        people, tmp_path, terms=terms, student=SIMCC, teacher={**SIMCC, "train": TRAIN, "terms": terms[:1]},
    )  # fmt: skip
    data = open_data(wanted, quiet)
    session = Session(wanted, data, tmp_path / "run", say=quiet)
    taught = preview_teacher(session).teacher
    split = POSE_ESTIMATION.training(wanted.data, data, 0, None)
    for teacher, names in ((taught, ["supervised-simcc", "simcc-kd"]), (None, ["supervised-simcc"])):
        student = build_student(session, wanted.student, lambda: taught)
        output = distiller_of(student, teacher, wanted, split)(split.__getitems__(range(8)))
        output.loss.backward()
        assert list(output.terms) == names
        assert all(float(value) > 0 for value in output.terms.values())
    mine, theirs = (POSE_ESTIMATION.predict(each, data.test, label="test") for each in (student, taught))
    assert "pck10" in mine.metrics()
    assert "teacher_distance" in mine.fidelity(theirs)


def test_a_few_steps_learn(people: Path, tmp_path: Path) -> None:
    """Targets that lie elsewhere than what is measured: no training would ever show it."""
    train = {"steps": 70, "batch_size": 8, "learning_rate": 0.01, "evaluations": 1}
    wanted = recipe(people, tmp_path, data={"labelled": "all"}, train=train)
    data = open_data(wanted, quiet)
    torch.manual_seed(0)
    session = Session(wanted, data, tmp_path / "run", say=quiet)
    student = build_student(session, wanted.student, lambda: pytest.fail("no teacher is asked for"))
    split = POSE_ESTIMATION.training(wanted.data, data, 0, None)
    trained = session.train("student", distiller_of(student, None, wanted, split), split, wanted.train, 0, "student")
    found = POSE_ESTIMATION.predict(trained.module, data.test, label="test", settings=wanted.data)
    assert found.metrics()["pck10"] > 0.8
    assert found.metrics()["joint_error"] < 1.5  # pixels; a cell has five


class Lopsided(torch.nn.Module):
    """Heatmaps that a mirrored picture does not mirror."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(4, 3, 7, 7, generator=torch.Generator().manual_seed(0))
        self.weight = torch.nn.Parameter(weight)

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"heatmaps": torch.nn.functional.conv2d(inputs, self.weight, stride=4, padding=3)}


def test_the_flip_test_is_the_mean_of_both(people: Path, tmp_path: Path) -> None:
    """A flip test that is asked for and not made, turns no map back, or leaves left on the right."""
    data: PoseData = open_data(recipe(people, tmp_path), quiet)  # type: ignore[assignment]
    model = Lopsided()
    found = {
        flips: POSE_ESTIMATION.predict(
            model, data.test, label="test", settings=PoseSettings(source="", flip_test=flips, decoding="quarter")
        )
        for flips in (False, True)
    }
    inputs = data.test.__getitems__(range(len(data.test)))["inputs"]
    with torch.no_grad():
        plain, mirrored = model(inputs)["heatmaps"], model(inputs.flip(-1))["heatmaps"]
    both = torch.stack([plain, mirrored[:, [0, 2, 1, 3]].flip(-1)]).mean(0)
    for flips, maps in ((False, plain), (True, both)):
        inside, sure = decode_heatmaps(maps, (48, 64), decoding="quarter")
        np.testing.assert_allclose(found[flips].joints, data.test.in_pictures(inside.numpy()), atol=1e-4)
        np.testing.assert_allclose(found[flips].confidence, sure.numpy(), rtol=1e-5)
    assert np.abs(found[True].joints - found[False].joints).max() > 5


def test_a_model_that_diverged_is_not_measured(people: Path, tmp_path: Path) -> None:
    """NaN read off as the first cell, a joint like any other."""
    data: PoseData = open_data(recipe(people, tmp_path), quiet)  # type: ignore[assignment]
    for bad in (float("nan"), float("inf"), float("-inf")):
        for names in (("heatmaps",), ("simcc_x", "simcc_y")):

            class Diverged(torch.nn.Module):
                def forward(self, inputs: torch.Tensor, bad: float = bad, names: Any = names) -> Any:
                    shape = (len(inputs), 4, 12, 16) if len(names) == 1 else (len(inputs), 4, 64)
                    signal = {name: torch.zeros(shape) for name in names}
                    signal[names[0]][-1, 2] = bad
                    return signal

            with pytest.raises(LimbeckError, match="keypoints are NaN or infinite; training diverged"):
                POSE_ESTIMATION.predict(Diverged(), data.test, label="test")


def test_the_poses_that_differ_most_are_drawn_where_they_are(people: Path, tmp_path: Path) -> None:
    """Those that differ least, or joints at the places of the whole picture in a part of it."""
    data: PoseData = open_data(recipe(people, tmp_path), quiet)  # type: ignore[assignment]
    test = data.test
    truth = test.references()["joints"][: len(test), :, :2]
    apart = 1.0 + np.random.default_rng(0).permutation(len(test))
    sure = np.ones(truth.shape[:2])
    teacher = Posed(truth, sure, test)
    student = Posed(truth + apart[:, None, None] * [0.0, 0.5], sure, test)
    shown = compared_poses(test, teacher, {"distilled": student})
    order = np.argsort(-apart)[:8].tolist()
    assert [each["caption"] for each in shown] == [
        f"{Path(test.picture(at)).name}: student and teacher are {apart[at]:.0f} % of the size apart" for at in order
    ]
    for each, at in zip(shown, order, strict=True):
        panels = {panel["title"]: Image.open(io.BytesIO(base64.b64decode(panel["png"]))) for panel in each["panels"]}
        place = test.shown(at, 256)[1]
        for title, joints in (("truth", truth), ("teacher", truth), ("distilled", student.joints)):
            for joint, (x, y) in enumerate(place.to_crop(joints[at][None])[0].round().astype(int).tolist()):
                colour = tuple(round(255 * value) for value in colorsys.hsv_to_rgb(joint / 4, 0.85, 0.95))
                assert panels[title].convert("RGB").getpixel((x, y)) == colour


@pytest.mark.parametrize(
    "changes",
    [{"augment": "pose-flip"}, {"augment": {"flip": 0.5}}, {"flip_test": True}],
    ids=["named", "bounds", "flip test"],
)
def test_mirrored_pictures_need_to_know_left_and_right(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A flip that averages a left hand with a right one, without a word."""

    def rename(content: dict[str, Any]) -> None:
        content["categories"][0]["keypoints"] = ["nose", "hand 1", "hand 2", "tail"]

    people = write_people(tmp_path / "people", {"train": 8, "val": 2, "test": 2}, change=rename)
    with pytest.raises(LimbeckError, match=r"no left-right pairs are known of nose, hand 1, .*data\.skeleton\.pairs"):
        open_data(recipe(people, tmp_path, data={**changes, "labelled": "all"}), quiet)
    for pairs in ([], [["hand 1", "hand 2"]]):
        said = {**changes, "labelled": "all", "skeleton": {"pairs": pairs}}
        data: PoseData = open_data(recipe(people, tmp_path, data=said), quiet)  # type: ignore[assignment]
        assert len(data.skeleton.pairs) == len(pairs)
    plain = recipe(people, tmp_path, data={"labelled": "all"})
    data = open_data(plain, quiet)  # type: ignore[assignment]
    with pytest.raises(LimbeckError, match=r"teacher\.augment: pictures are mirrored, and no left-right pairs"):
        POSE_ESTIMATION.teaching(plain.data, data, "pose-flip")


def test_what_is_drawn_from_the_truth_is_perfect(people: Path, tmp_path: Path) -> None:
    """Joints measured against another sample's, or in pixels of the crop."""
    data: PoseData = open_data(recipe(people, tmp_path), quiet)  # type: ignore[assignment]
    truth = iter(data.test.__getitems__(range(len(data.test)))["keypoints"].split(1))

    class Knows(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            points = torch.cat([next(truth) for _ in inputs])
            return {"heatmaps": gaussian_heatmaps(points, (24, 32), (48, 64))}

    found = POSE_ESTIMATION.predict(Knows(), data.test, label="test")
    assert found.metrics()["pck05"] == 1.0
    assert found.metrics()["oks_ap"] == 1.0
    assert found.metrics()["joint_error"] < 0.3
    same = found.fidelity(found)
    assert same == {"agreement": 1.0, "teacher_distance": 0.0}


def test_a_ready_vitpose_sees_what_its_heatmaps_mean(people: Path, tmp_path: Path) -> None:
    """A teacher of other authors whose corner cells are at the corner pixels, taken for one of ours: joints at the edge
    would be taught a cell and a half from where they are."""
    data: PoseData = open_data(recipe(people, tmp_path, data={"size": [64, 48]}), quiet)  # type: ignore[assignment]
    vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": [128, 96]}
    options = {"pretrained": False, "config": {"backbone_config": vit}}
    model = build(ModelSpec("hf:vitpose", options), Shape(4, 3, (64, 48), "keypoints"))
    adapt = POSE_ESTIMATION.adapter(data, model, {"model": "hf:some/vitpose"})
    assert isinstance(adapt, CornersAligned)
    assert adapt.stride == 4
    assert "InputAdapter" not in repr(CornersAligned(4))
    batch: Batch = {"inputs": torch.zeros(1, 3, 64, 48)}
    assert adapt(batch)["inputs"].shape == (1, 3, 128, 96)
    # A ramp: the value of a pixel is its place, so what the teacher sees at a place is where that is in the student's.
    ramp = torch.arange(96.0).expand(1, 3, 128, 96)
    seen = CornersAligned(4)({"inputs": ramp})["inputs"][0, 0, 64]
    for cell in (0, 11, 23):
        place = cell * 95 / 23  # of the cell in the teacher's input, by corners
        low = int(place)
        value = seen[low] if low == 95 else seen[low] + (place - low) * (seen[low + 1] - seen[low])
        assert value.item() == pytest.approx((cell + 0.5) * 4 - 0.5, abs=1e-3)
    # One that was trained in a run, or saved by limbeck, speaks as all others do.
    assert POSE_ESTIMATION.adapter(data, model, {"model": "runs/x/teacher/last"}) is None
    assert POSE_ESTIMATION.adapter(data, model, {"model": "hf:vitpose", "pretrained": False}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"size": [8, 8]}}, r"data\.size: expected a height and a width of 16 pixels or more"),
        ({"data": {"augment": "crop"}}, "data.augment: expected a name or"),
        ({"data": {"decoding": "soft"}}, "data.decoding"),
        ({"data": {"size": [50, 64]}}, "50×64 are no multiples of the stride 8"),
        ({"data": {"normalize": {"mean": [0.5], "std": [0.5]}}}, "1 values for 3 channels"),
        ({"student": {"model": "timm:resnet18"}}, "gives no keypoints; take heatmaps:timm:resnet18"),
        ({"student": SIMCC}, "gives simcc_x, simcc_y, but not 'heatmaps'|no module 'heatmaps' to tap"),
    ],
)
def test_mistakes_are_named_before_training(
    people: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """A mistake in the student that shows after the teacher's training."""
    with pytest.raises(LimbeckError, match=message):
        run(recipe(people, tmp_path, **changes), tmp_path / "run", say=quiet)
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.parametrize("name", ["openfield-mouse", "lspet", "coco-vitpose"])
def test_shipped_recipes_are_read(name: str) -> None:
    """A recipe with a key that there is not."""
    shipped = read_recipe(name)
    assert shipped.task == "pose-estimation"
