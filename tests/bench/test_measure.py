"""Real models on real runtimes: right answers first, then rows that say what they are of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import limbeck.bench.measure
from limbeck.artifact import ArtifactCard, GraphCard, write_artifact_card
from limbeck.bench import Subject, Target, bench, eager, latency, open_subject
from limbeck.bench.exported import to_onnx
from limbeck.bench.inputs import pixels
from limbeck.bench.measure import refusals
from limbeck.bench.memory import memory_of
from limbeck.bench.parity import difference, tolerance
from limbeck.bench.prepared import runner_of
from limbeck.bench.runners import precision_of
from limbeck.bench.subjects import Asked, revive
from limbeck.errors import LimbeckError
from limbeck.models import ModelSpec, TextShape, build, save
from limbeck.results import Row

TEXTS = TextShape(3, 50, 16, 0, "classification")
QUICK = {"seconds": 0.2}


def runs_on(runtime: str) -> str:
    """The runtime, where it is installed."""
    package = runtime.partition("-")[0]
    if package in ("onnxruntime", "openvino"):
        pytest.importorskip(package, reason=f"needs limbeck[{package}]")
        pytest.importorskip("onnxscript", reason="needs limbeck[onnx]")
    return runtime


def images(seed: int = 0) -> Subject:
    """A tiny net for pictures of 8 × 8, whose logits are no zeros."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[4].weight.mul_(10)
    return Subject("net", lambda batch: pixels(batch, (1, 8, 8)), module=net, precision="fp32")


def exported(subject: Subject, path: Path, batch: int = 2) -> Path:
    """The subject's .onnx file for a batch size."""
    runs_on("onnxruntime")
    assert subject.module is not None
    return to_onnx(subject.module, subject.inputs(batch), path, subject.name)


def never() -> Path:
    """The file of a runtime that reads none."""
    raise AssertionError


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime", "openvino", "openvino-fp32"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_runner_gives_pytorchs_answers(tmp_path: Path, runtime: str, threads: int) -> None:
    """A time of another model, of another batch, or of inputs that never arrived; a precision that is not told."""
    subject = images()
    assert subject.module is not None
    if runs_on(runtime) == "eager":
        runner = runner_of(subject, Target(runtime), 2, threads, never)
    else:
        file = exported(subject, tmp_path / "net.onnx")
        runner = runner_of(subject, Target(runtime), 2, threads, lambda: file)
    with torch.no_grad():
        expected = subject.module(subject.inputs(2)["inputs"]).numpy()
    [found] = runner.read(runner.run())
    [again] = runner.read(runner.run())
    np.testing.assert_array_equal(found, again)
    assert (runner.batch, runner.threads) == (2, threads)
    assert runtime.partition("-")[0] in runner.runtime
    if runner.precision == "bf16":  # OpenVINO's own choice where the processor has it
        assert runtime == "openvino"
        np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
        assert np.abs(found - expected).max() > 1e-4
    else:
        assert runner.precision == "fp32"
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.timeout(300)
def test_compiled_gives_pytorchs_answers() -> None:
    """What torch.compile runs in the place of the model."""
    subject = images()
    assert subject.module is not None
    runner = runner_of(subject, Target("compiled"), 2, 1, never)
    with torch.no_grad():
        expected = subject.module(subject.inputs(2)["inputs"]).numpy()
    try:
        found = runner.read(runner.run())
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"no compiler here: {error}")
    np.testing.assert_allclose(found[0], expected, atol=1e-4, rtol=1e-4)
    assert runner.runtime.endswith("compiled")


def test_rows_say_what_they_are_of() -> None:
    """A number without its runtime, precision or processor; keys that the report does not find."""
    targets = [Target("eager"), Target(runs_on("onnxruntime"), "cpu", 1)]
    rows = bench([images()], targets, batches=[1, 3], threads=[1], **QUICK)
    assert [(row.latency["batch"], row.latency["target"]) for row in rows] == [
        (1, "eager:cpu:1"), (1, "onnxruntime:cpu:1"), (3, "eager:cpu:1"), (3, "onnxruntime:cpu:1"),
    ]  # fmt: skip
    for row in rows:
        found = row.latency
        assert isinstance(row, Row)
        assert found.keys() >= {"runtime", "device", "flags", "precision", "threads", "batch", "rounds", "spread"}
        assert found["precision"] == "fp32"
        assert found["difference"] <= 1e-4
        # Another program may disturb it; then there is no number, and a reason.
        numbers = {"p50", "p95", "p99", "min", "throughput"}
        assert found.keys() & numbers == (numbers if found["stable"] else set())
        assert ("refused" in found) is not found["stable"]
    assert len(list(refusals(rows))) == sum(not row.latency["stable"] for row in rows)


def test_threads_of_a_target_are_its_own() -> None:
    """`eager:cpu:2` measured with the one thread of the others."""
    seen: list[int] = []

    class Counts(nn.Module):
        """Notes PyTorch's threads."""

        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return inputs.flatten(1).sum(1, keepdim=True)

    before = torch.get_num_threads()
    subject = Subject("counts", lambda batch: pixels(batch, (1, 4, 4)), module=Counts())
    rows = bench([subject], [Target("eager"), Target("eager", "cpu", 2)], threads=[1], seconds=0.05)
    assert [row.latency["threads"] for row in rows] == [1, 2]
    assert set(seen[-20:]) == {2}
    assert torch.get_num_threads() == before


def test_other_answers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that went wrong is fast, and worth nothing: it must not be in the table with a time."""
    runs_on("onnxruntime")
    wrong = images(seed=1).module
    assert wrong is not None

    def exports_another(_module: nn.Module, *rest: Any) -> Path:
        return to_onnx(wrong, *rest)

    monkeypatch.setattr(limbeck.bench.measure, "to_onnx", exports_another)
    right, refused = bench([images()], [Target("eager"), Target("onnxruntime")], **QUICK)
    assert right.latency["rounds"] > 0
    assert "p50" not in refused.latency
    assert "rounds" not in refused.latency
    assert "answers differ from PyTorch's" in refused.latency["refused"]


def test_what_cannot_be_exported_is_said() -> None:
    """A traceback of torch's exporter, or the other rows lost."""

    class Chooses(nn.Module):
        """Branches on its values."""

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1) if float(inputs.sum()) > 1e9 else inputs.flatten(1) * 2

    subject = Subject("chooses", lambda batch: pixels(batch, (1, 4, 4)), module=Chooses())
    right, refused = bench([subject], [Target("eager"), Target(runs_on("onnxruntime"))], **QUICK)
    assert right.latency["rounds"] > 0
    assert "cannot be exported" in refused.latency["refused"]
    assert "measure it with eager or compiled" in refused.latency["refused"]
    assert "\n" not in refused.latency["refused"]


def test_what_fails_while_it_runs_is_said() -> None:
    """A file that loads and cannot run, as some quantized ones, must not lose the other rows in a traceback."""

    class Fails(nn.Module):
        """Runs in a batch of one only."""

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.reshape(1, 16)

    subject = Subject("fails", lambda batch: pixels(batch, (1, 4, 4)), module=Fails())
    right, refused = bench([subject], batches=[1, 2], **QUICK)
    assert right.latency["rounds"] > 0
    assert "fails while it runs it" in refused.latency["refused"]
    assert refused.latency["precision"] == ""


def test_onnx_files(tmp_path: Path) -> None:
    """A file is measured as it is: in its precision, with its inputs, and not in a batch that it does not take."""
    path = exported(images(), tmp_path / "net.onnx")
    subject = open_subject(str(path))
    assert subject.size["bytes"] == sum(each.stat().st_size for each in tmp_path.iterdir())  # weights lie beside it
    fits, refused = bench([subject], [Target("onnxruntime")], batches=[2, 5], **QUICK)
    assert fits.latency["difference"] == 0
    assert "takes batches of exactly 2, not 5" in refused.latency["refused"]
    with pytest.raises(LimbeckError, match=r"runs on onnxruntime or openvino, not on eager:cpu"):
        bench([subject], [Target("eager")], **QUICK)


def test_int8_is_named_in_its_row(tmp_path: Path) -> None:
    """int8 beside fp32 in one table, without a word of which is which."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs limbeck[onnx]")
    source = exported(images(), tmp_path / "net.onnx")
    folder = tmp_path / "artifact"
    folder.mkdir()
    quantization.quantize_dynamic(source, folder / "model.onnx", weight_type=quantization.QuantType.QUInt8)
    subjects = [open_subject(str(each)) for each in (source, folder / "model.onnx")]
    rows = bench(subjects, [Target("onnxruntime")], batches=[2], **QUICK)
    assert [row.latency["precision"] for row in rows] == ["fp32", "int8"]
    graph = GraphCard("model.onnx", (), ())
    card = ArtifactCard("image-classification", (), {"model": graph}, None, None, {}, precision="int8, weights only")
    write_artifact_card(folder, card)
    subject = open_subject(str(folder))
    assert subject.precision == "int8, weights only"
    assert subject.file == folder / "model.onnx"
    write_artifact_card(folder, replace(card, graphs={"encoder": graph, "decoder": GraphCard("decoder.onnx", (), ())}))
    with pytest.raises(LimbeckError, match=r"several graphs.*model\.onnx, .*decoder\.onnx"):
        open_subject(str(folder))


def test_texts(tmp_path: Path) -> None:
    """A saved model of texts needs tokens of its vocabulary, as many as are asked for."""
    model = build(ModelSpec("text-static", {"width": 8, "hidden": 8}), TEXTS)
    save(model, tmp_path / "texts", spec=ModelSpec("text-static", {"width": 8, "hidden": 8}), classes=list("abc"),
         preprocessing=None, shape=TEXTS, task="text-classification")  # fmt: skip
    subject = open_subject(str(tmp_path / "texts"), Asked(length=7))
    made = subject.inputs(2)
    assert made["input_ids"].shape == (2, 7)
    assert 0 < int(made["input_ids"].min()) <= int(made["input_ids"].max()) < 50
    rows = bench([subject], [Target("eager"), Target(runs_on("onnxruntime"))], batches=[2], **QUICK)
    assert all(row.latency["difference"] <= 1e-4 for row in rows)
    assert open_subject(str(tmp_path / "texts")).inputs(1)["input_ids"].shape == (1, 16)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda _folder: "resnt20", "unknown model 'resnt20'; did you mean 'resnet20'"),
        (lambda folder: str(folder), "a folder without a model"),
        (lambda folder: str(folder / "gone" / "student"), "no such folder or file"),
        (lambda folder: str(folder / "gone.onnx"), "no such .onnx file"),
    ],
)
def test_mistakes_in_names(tmp_path: Path, make: Callable[[Path], str], part: str) -> None:
    """A name that is nearly right, and a folder that is none."""
    with pytest.raises(LimbeckError) as caught:
        open_subject(make(tmp_path))
    assert part in str(caught.value)


def test_a_missing_runtime_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After minutes of measuring others."""
    monkeypatch.setattr(limbeck.bench.measure.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(LimbeckError, match=r'pip install "limbeck\[openvino\]"'):
        bench([images()], [Target("openvino")])


def test_branches_that_begin_with_zero_are_alive() -> None:
    """An untrained ResNet of timm, whose last norms are 0, would be measured without its branches."""
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet10t", num_classes=3)
    dead = [name for name, weight in net.named_parameters() if name.endswith("weight") and not bool(weight.any())]
    assert dead
    revive(net)
    assert all(bool(weight.any()) for name, weight in net.named_parameters() if name.endswith("weight"))


def test_differences() -> None:
    """A measure of zeros, of other shapes, or of what is not finite, that says all is well."""
    one = np.array([[1.0, -4.0]])
    assert difference([one], [one]) == 0
    assert difference([one + 0.5], [one]) == pytest.approx(0.125)
    assert difference([one], [one.T]) == float("inf")
    assert difference([one, one], [one]) == float("inf")
    assert difference([one * np.nan], [one]) == float("inf")
    assert difference([np.full((1, 2), -np.inf)], [np.full((1, 2), -np.inf)]) == 0
    assert difference([np.array([1e-3])], [np.array([0.0])]) == pytest.approx(0.1)
    assert [tolerance(each) for each in ("fp32", "bf16", "int8, else bf16")] == [1e-4, 1e-1, 3e-1]


def test_precision_of_modules() -> None:
    """fp32 written on a model in half precision."""
    assert precision_of(nn.Linear(2, 2)) == "fp32"
    assert precision_of(nn.Linear(2, 2).half()) == "fp16"
    assert precision_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).bfloat16())) == "bf16+fp32"
    assert precision_of(nn.BatchNorm1d(2)) == "fp32"
    stored = nn.Linear(2, 2)
    stored.register_buffer("weights", torch.zeros(2, 2, dtype=torch.int8))
    assert precision_of(stored) == "fp32+int8"


def test_threads_do_not_mix() -> None:
    """PyTorch has one number of threads: two in one measurement would both be measured with one of them."""
    net, batch = nn.Flatten(), pixels(1, (1, 2, 2))
    runners = {str(count): eager(net, lambda each: net(each["inputs"]), batch, threads=count) for count in (1, 2)}
    with pytest.raises(LimbeckError, match="one number of threads"):
        latency(runners)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is known exactly on Linux only")
def test_memory_of_a_file_is_without_pytorch(tmp_path: Path) -> None:
    """Hundreds of megabytes of libraries that the exported model does not need, or a peak without its weights."""
    runs_on("onnxruntime")
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 160_000), nn.Linear(160_000, 4)).eval()  # 43 MB
    subject = Subject("wide", lambda batch: pixels(batch, (1, 8, 8)), module=wide)
    file = exported(subject, tmp_path / "wide.onnx", batch=1)
    found = memory_of(subject, Target("onnxruntime"), 1, 1, file)
    assert found["run_memory_model_bytes"] > 43e6
    assert found["run_memory_bytes"] < found["run_memory_model_bytes"] + 120e6
