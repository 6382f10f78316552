"""Artifacts as files: a broken one is one clear line, and none of them needs torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.artifact.recorded import CLASSES, linear_artifact
from typer.testing import CliRunner, Result

from limbeck.artifact import ARTIFACT, open_artifact, read_artifact_card, write_artifact_card
from limbeck.artifact.card import checksum
from limbeck.cli import app
from limbeck.errors import LimbeckError

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
from limbeck.cli import main
sys.argv = ["limbeck", *{arguments!r}]
main()
"""
MISSING = (
    "torch", "torchvision", "transformers", "timm", "safetensors", "yaml", "sklearn", "scipy", "datasets",
    "accelerate", "onnx", "onnxscript", "matplotlib", "pandas", "jinja2", "torchmetrics", "tqdm", "psutil",
)  # fmt: skip
"""What a machine that only predicts does not have."""


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def refused(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    [line] = result.stderr.splitlines()
    assert line.startswith("limbeck: ")
    return line


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return linear_artifact(tmp_path / "linear")


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    path = tmp_path / "bright.png"
    Image.fromarray(np.full((8, 8), 230, np.uint8)).save(path)
    return path


def test_a_classifier_answers(artifact: Path, bright: Path) -> None:
    """Another order of classes, shares that are logits, a batch that is answered for one."""
    dark = bright.with_name("dark.png")
    Image.fromarray(np.full((12, 9, 3), 10, np.uint8)).save(dark)
    value = (230 / 255 - 0.5) / 0.25
    shares = np.exp([-value, 0.0, value]) / np.exp([-value, 0.0, value]).sum()
    first, second, third = open_artifact(artifact, threads=1).predict([bright, dark, bright.read_bytes()], batch_size=2)
    assert first == third
    assert [each["class"] for each in first["top"]] == ["owl", "dog", "cat"]
    assert [each["probability"] for each in first["top"]] == pytest.approx(shares[::-1].tolist(), abs=1e-5)
    assert second["class"] == "cat"
    printed = call("predict", artifact, bright, "--json", "--threads", 1)
    assert json.loads(printed.stdout)["class"] == "owl"
    plain = call("predict", artifact, bright, dark).stdout.splitlines()
    assert plain[0].startswith(f"{bright}\towl\t0.8")
    assert len(plain) == 2


def test_lines_of_the_standard_input_are_inputs(artifact: Path, bright: Path) -> None:
    """A line with its line break, or JSON that is taken for the name of a file."""
    lines = f"{bright}\n" + json.dumps({"picture": str(bright)}) + "\n"
    result = CliRunner().invoke(app, ["predict", str(artifact), "-", "--json"], input=lines)
    assert [json.loads(line)["class"] for line in result.stdout.splitlines()] == ["owl", "owl"]


def test_a_machine_without_torch_predicts(artifact: Path, bright: Path) -> None:
    """One import too many, of a library that such a machine does not have."""
    script = BLOCKED.format(missing=MISSING, arguments=["predict", str(artifact), str(bright), "--json"])
    source = Path(__file__).parents[2] / "src"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(source)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["class"] == "owl"


def changed(folder: Path, **values: Any) -> None:
    """Changes the card."""
    content = json.loads((folder / ARTIFACT).read_text())
    (folder / ARTIFACT).write_text(json.dumps(content | values))


def test_broken_artifacts_are_refused(artifact: Path, bright: Path, tmp_path: Path) -> None:
    """A traceback, or a wrong answer, of a file that was cut off, exchanged, forgotten or made by another version."""
    model = artifact / "model.onnx"
    whole, card = model.read_bytes(), (artifact / ARTIFACT).read_text()
    model.write_bytes(whole[:-20])
    assert "model.onnx: is not the file that was exported" in refused("predict", artifact, bright)
    changed(artifact, sha256={"model.onnx": checksum(model)})
    assert "ONNX Runtime cannot load it" in refused("predict", artifact, bright)
    model.unlink()
    assert "model.onnx: missing; copy the whole folder" in refused("predict", artifact, bright)
    model.write_bytes(whole)
    changed(artifact, sha256={"../model.onnx": ""})
    assert "outside of the artifact" in refused("predict", artifact, bright)
    for values, message in (
        ({"format": "limbeck-artifact/9"}, "expected format 'limbeck-artifact/1'"),
        ({"task": "cooking"}, "knows no task 'cooking'"),
        ({"graphs": {}}, "not a whole artifact card"),
        ({"pixels": {"size": 3}}, "not a whole artifact card"),
        ({"surprise": 1}, "not a whole artifact card"),
    ):
        (artifact / ARTIFACT).write_text(card)
        changed(artifact, **values)
        assert message in refused("predict", artifact, bright)
    (artifact / ARTIFACT).write_text(card[:40])
    assert "not valid JSON" in refused("predict", artifact, bright)
    assert "no such folder" in refused("predict", tmp_path / "nowhere", bright)
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "limbeck.json").write_text("{}")
    assert "`limbeck export` makes an artifact of" in refused("predict", saved, bright)


def test_broken_inputs_are_refused(artifact: Path, bright: Path, tmp_path: Path) -> None:
    """A picture that is none, an option of another task, JSON that is none, no input at all."""
    text = tmp_path / "text.png"
    text.write_text("no picture")
    assert "not a readable image" in refused("predict", artifact, text)
    assert "no such image file" in refused("predict", artifact, tmp_path / "nowhere.png")
    assert "begins as JSON and is not valid" in refused("predict", artifact, "{oops")
    assert "no input; give some" in refused("predict", artifact)
    assert "--context is for question answering" in refused("predict", artifact, bright, "--context", "a")
    assert "--box is for pose estimation" in refused("predict", artifact, bright, "--box", "1,2,3,4")
    assert "expected a picture" in refused("predict", artifact, '{"text": "a"}')
    with pytest.raises(LimbeckError, match="got one; give"):
        open_artifact(artifact).predict(str(bright))


def test_a_card_comes_back_as_it_was_written(artifact: Path) -> None:
    """A tuple that comes back as a list, a setting that is lost."""
    card = read_artifact_card(artifact)
    assert card.classes == CLASSES
    write_artifact_card(artifact, card)
    assert read_artifact_card(artifact) == card
