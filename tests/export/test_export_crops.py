"""Models of joints and of faces, exported: the same places and the same embeddings as PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.export.students import opened, trained
from tests.sources.drawn_people import write_people
from tests.sources.test_faces import write
from torch.nn import functional as F
from typer.testing import CliRunner

from limbeck.artifact import open_artifact
from limbeck.cli import app
from limbeck.export import export
from limbeck.tasks.posed import Posed

BACKBONE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": [8, 8]}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("heatmaps:timm:test_resnet", {"stride": 8, "deconvolution": [8]}),
        ("hf:vitpose", {"pretrained": False, "config": {"backbone_config": BACKBONE}}),
    ],
)
def test_joints_are_where_pytorch_finds_them(tmp_path: Path, name: str, options: Any) -> None:
    """Crops without the padding, joints of the crop instead of the picture, a flip test that swaps no sides."""
    people = write_people(tmp_path / "people", {"train": 24, "val": 6, "test": 10})
    settings = {"source": f"coco-keypoints:{people}", "size": [48, 64], "sigma": 1.5, "flip_test": True}
    known = opened("pose-estimation", settings)
    model = trained(tmp_path / "student", known, name, options, steps=60)
    export(tmp_path / "student", tmp_path / "artifact")
    test = known.data.test
    expected = known.task.predict(model, test, label="test", settings=known.settings)
    assert isinstance(expected, Posed)
    asked = [
        {"picture": test.picture(index), "box": test.poses.boxes[test.at[index]].tolist()} for index in range(len(test))
    ]
    answers = open_artifact(tmp_path / "artifact", threads=1).predict(asked, batch_size=4)
    found = np.array([[[each["x"], each["y"]] for each in answer["joints"].values()] for answer in answers])
    assert found == pytest.approx(expected.joints, abs=0.02)
    sure = [[each["score"] for each in answer["joints"].values()] for answer in answers]
    assert np.array(sure) == pytest.approx(expected.confidence, abs=1e-5)
    assert [*answers[0]["joints"]] == ["nose", "left_hand", "right_hand", "tail"]
    assert expected.joints.std(0).max() > 1


def test_faces_have_the_same_embeddings(tmp_path: Path) -> None:
    """A cosine of normalised pixels, an embedding of another size."""
    root = write(tmp_path / "faces")
    known = opened("face-recognition", {"source": f"folder:{root}", "validation": 0.3})
    model = trained(tmp_path / "student", known, "embedding:conv-student", {"width": 8}, steps=20)
    export(tmp_path / "student", tmp_path / "artifact")
    files = sorted(path for path in root.rglob("*.*") if path.is_file())[:6]
    answers = open_artifact(tmp_path / "artifact", threads=1).predict([*files, (files[0], files[-1])])
    test = known.data.test
    with torch.inference_mode():
        own = model(test.__getitems__(list(range(len(test))))["inputs"])["embedding"]
    assert answers[0]["embedding"] != pytest.approx(answers[5]["embedding"], abs=1e-2)
    cosine = F.cosine_similarity(*(torch.tensor([answers[at]["embedding"]]) for at in (0, 5)))
    assert answers[6]["cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert answers[6]["embedding"] == pytest.approx(answers[0]["embedding"], abs=1e-5)
    assert own.shape[1] == len(answers[0]["embedding"]) == 8
    known_rows = torch.tensor([each["embedding"] for each in open_artifact(tmp_path / "artifact").predict(
        sorted(path for path in root.rglob("*.*") if path.is_file()))])  # fmt: skip
    nearest = torch.cdist(own, known_rows, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    assert nearest.max() < 1e-4
    line = CliRunner().invoke(app, ["predict", str(tmp_path / "artifact"), str(files[0]), str(files[-1])])
    assert f"cosine {answers[6]['cosine']:.4f}" in line.stdout
