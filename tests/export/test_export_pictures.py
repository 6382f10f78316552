"""Classifiers of pictures, exported: the same answers as PyTorch, on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tests.export.students import opened, trained
from typer.testing import CliRunner

from limbeck.artifact import open_artifact, read_artifact_card
from limbeck.cli import app
from limbeck.errors import LimbeckError
from limbeck.export import export
from limbeck.export.checking import LARGEST, LEAST
from limbeck.models import load, save
from limbeck.results import Results, Row

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def digits() -> Any:
    return opened("image-classification", {"source": "digits"})


def answers_as_pytorch(artifact: Path, model: torch.nn.Module, split: Any, folder: Path, count: int = 40) -> None:
    """Compares answers to PNG files with the PyTorch model's to the split's own samples."""
    places = list(range(count))
    with torch.inference_mode():
        shares = model(split.__getitems__(places)["inputs"]).softmax(-1)
    files = []
    for place, pixels in zip(places, split.pixels(np.array(places)), strict=True):
        files.append(folder / f"{place}.png")
        Image.fromarray(pixels[0].numpy()).save(files[-1])
    answers = open_artifact(artifact, threads=1).predict(files, batch_size=7)
    assert [each["class"] for each in answers] == [split.classes[at] for at in shares.argmax(-1).tolist()]
    assert [each["probability"] for each in answers] == pytest.approx(shares.amax(-1).tolist(), abs=1e-5)
    assert len({each["class"] for each in answers}) > 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("conv-student", {}),
        ("timm:test_resnet", {}),
        ("timm:vit_tiny_patch16_224", VIT),
    ],
)
def test_classifiers_answer_as_in_pytorch(digits: Any, tmp_path: Path, name: str, options: Any) -> None:
    """A batch that is frozen, BatchNorm that learns on, classes in another order."""
    model = trained(tmp_path / "student", digits, name, options, steps=40)
    card = export(tmp_path / "student", tmp_path / "artifact", samples=120)
    assert card == read_artifact_card(tmp_path / "artifact")
    assert card.batch is None
    assert card.parity is not None
    assert (card.parity.data, card.parity.samples) == ("digits test", 120)
    assert {1, 2, 5, 16} <= set(card.parity.batches)
    assert card.parity.relative <= LARGEST
    assert card.parity.agreement >= LEAST
    [inputs] = onnx.load(tmp_path / "artifact" / "model.onnx").graph.input
    assert inputs.type.tensor_type.shape.dim[0].dim_param == "batch"
    answers_as_pytorch(tmp_path / "artifact", model, digits.data.test, tmp_path)


def test_the_command_exports_one_sample_at_a_time_with_a_model_card(digits: Any, tmp_path: Path) -> None:
    """An artifact that takes larger batches for granted, a card without the teacher or the numbers of the run."""
    run = tmp_path / "runs" / "tiny"
    trained(run / "student", digits, "conv-student", steps=3)
    (run / "recipe.yaml").write_text("name: tiny\ntask: image-classification\nteacher: [{model: big-teacher}]\n")
    rows = [Row("alone", 0, "last", {"accuracy": 0.5}), Row("distilled", 0, "last", {"accuracy": 0.987, "nll": 0.25})]
    Results({}, {}, rows).write(run / "results.json")
    result = CliRunner().invoke(app, ["export", str(run / "student"), "--static-batch"])
    assert result.exit_code == 0, (result.stderr, result.exception)
    place = run / "student-onnx"
    assert "the same as PyTorch on 256 inputs of digits test" in result.stdout
    assert f"artifact {place}" in result.stdout
    card = read_artifact_card(place)
    assert card.batch == 1
    assert card.graphs["model"].inputs[0].shape == (1, 1, 8, 8)
    page = (place / "README.md").read_text(encoding="utf-8")
    said = ("`big-teacher`", "`tiny`, distilled, seed 0 (last)", "`digits`", "| Accuracy | 98.70 % |", "| NLL | 0.25 |")
    for part in (*said, "batches of 1 alone", "limbeck predict student-onnx picture.png", "license: # choose one"):
        assert part in page, part
    pixels = digits.data.test.pixels(np.arange(3))
    for number in range(3):
        Image.fromarray(pixels[number, 0].numpy()).save(tmp_path / f"{number}.png")
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    together = CliRunner().invoke(app, ["predict", str(place), *files, "--json"]).stdout.splitlines()
    alone = [CliRunner().invoke(app, ["predict", str(place), file, "--json"]).stdout.strip() for file in files]
    assert together == alone
    assert len({json.loads(line)["probability"] for line in together}) == 3
    again = CliRunner().invoke(app, ["export", str(tmp_path)])
    assert again.exit_code == 2
    assert "no limbeck.json in it" in again.stderr


class Noisy(torch.nn.Module):
    """Gives something else in another batch: no export can be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(64, 10))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            inputs = inputs.flip(-1)
        found: torch.Tensor = inputs.flatten(1) @ self.weight
        return found


def test_what_differs_is_refused_with_the_numbers(digits: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """An artifact that is kept although it answers otherwise, or half of one that is left behind."""
    torch.manual_seed(0)
    model = Noisy()
    save(model, tmp_path / "student", spec=None, classes=digits.data.classes, preprocessing=digits.data.preprocessing)
    monkeypatch.setattr("limbeck.export.exporting.load", lambda folder, **_options: model.eval())
    with pytest.raises(
        LimbeckError, match=r"was not kept: on 40 inputs of digits test .* relative error is .*% of 40 classes"
    ):
        export(tmp_path / "student", tmp_path / "artifact", samples=40)
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_what_nobody_can_prepare_is_refused(digits: Any, tmp_path: Path) -> None:
    """An artifact without its preprocessing, checked on no data at all, or in the place of something else."""
    model = trained(tmp_path / "student", digits, "conv-student", steps=1)
    save(model, tmp_path / "bare", spec=None, classes=(), preprocessing=None)
    with pytest.raises(LimbeckError, match="saved without its preprocessing"):
        export(tmp_path / "bare", tmp_path / "artifact")
    with pytest.raises(LimbeckError, match="is there, and is no artifact"):
        export(tmp_path / "student", tmp_path / "bare")
    with pytest.raises(LimbeckError, match=r"the data 'nothing' cannot be had .* --data"):
        export(tmp_path / "student", tmp_path / "artifact", data="nothing")
    assert load(tmp_path / "student") is not None
