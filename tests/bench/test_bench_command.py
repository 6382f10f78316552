"""`limbeck bench`, on a saved model of digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from limbeck.cli import app
from limbeck.commands.bench import INCOMPLETE
from limbeck.models import ModelSpec, Shape, build, save
from limbeck.results import Results
from limbeck.types import Preprocessing


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its student."""
    torch.manual_seed(0)
    folder, spec = tmp_path_factory.mktemp("bench") / "digits", ModelSpec("dense-student")
    save(build(spec, Shape(10, 1, (8, 8))), folder / "student", spec=spec, classes=list("0123456789"),
         preprocessing=Preprocessing((8, 8), 1, (0.3,), (0.35,)))  # fmt: skip
    return folder


def test_a_saved_model(run: Path, tmp_path: Path) -> None:
    """Rows that do not name what they are of, a file that the report cannot read, a refusal that no script sees."""
    result = call(run, run / "student", "--batch", "1,4", "--seconds", "0.2", "--json", tmp_path / "rows.json")
    assert result.exit_code in (0, INCOMPLETE), (result.stderr, result.exception)
    for words in ("batch 1, 1 thread", "batch 4, 1 thread", "fp32", "eager", "p50, ms", "spread"):
        assert words in result.stdout
    rows = Results.read(tmp_path / "rows.json").rows
    assert [row.name for row in rows] == [str(run), str(run / "student")] * 2
    assert {row.size["parameters"] for row in rows} == {float(64 * 64 + 64 + 64 * 10 + 10)}
    assert (result.exit_code == INCOMPLETE) == any("refused" in row.latency for row in rows)


def test_what_is_not_steady_is_not_shown(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of chance on a busy machine, and exit code 0."""
    monkeypatch.setattr("limbeck.bench.steadiness.WIDEST", -1.0)
    result = call(run, "--seconds", "0.1", "--json", tmp_path / "rows.json")
    assert result.exit_code == INCOMPLETE
    assert "close other programs" in result.stdout.replace("\n", " ")
    [row] = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    assert "p50" not in row["latency"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--on", "onnxruntme:cpu:1"], "unknown runtime 'onnxruntme'; did you mean 'onnxruntime'"),
        (["--batch", "1,x"], "--batch: expected numbers of 1 or more with commas between, got 'x'"),
        (["--threads", "0"], "--threads: expected numbers"),
    ],
)
def test_mistakes(run: Path, arguments: list[str], part: str) -> None:
    """A traceback, or a model that is loaded before a typo is found."""
    result = call(run, *arguments)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert part in line


def test_help_teaches() -> None:
    """The one page that everybody reads."""
    result = call("--help")
    assert result.exit_code == 0
    for words in ("onnxruntime", "openvino-fp32", "bf16", "Examples"):
        assert words in result.stdout
