from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from limbeck.compress import findings, layers_of, quantize_onnx, sensitivity
from limbeck.errors import LimbeckError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX export.*:DeprecationWarning")

Array = np.ndarray


def digits() -> tuple[Array, Array]:
    data = load_digits()
    return (data.images[:, None] / 16.0).astype(np.float32), data.target


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A small network that knows digits, with most of its weights in two linear layers."""
    torch.manual_seed(0)
    inputs, labels = (torch.from_numpy(each) for each in digits())
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(4):
        for rows in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def export(model: nn.Module, path: Path, example: torch.Tensor) -> Path:
    torch.onnx.export(
        model, (example,), str(path), input_names=["inputs"], output_names=["logits"],
        dynamic_axes={"inputs": {0: "batch"}, "logits": {0: "batch"}}, dynamo=False,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def file(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(trained, tmp_path_factory.mktemp("onnx") / "digits.onnx", torch.zeros(2, 1, 8, 8))


def run(path: Path, inputs: Array) -> Array:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"inputs": inputs})[0]


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_int8_is_four_times_smaller_and_as_good(file: Path, tmp_path: Path, kind: str) -> None:
    """A scale for the whole weight, or ranges from inputs unlike the real ones, lose digits."""
    inputs, labels = digits()
    calibration = [{"inputs": inputs[start : start + 50]} for start in range(0, 200, 50)]
    made = quantize_onnx(file, tmp_path / "int8.onnx", kind=kind, calibration=calibration)  # type: ignore[arg-type]
    assert made.bytes == (file.stat().st_size, (tmp_path / "int8.onnx").stat().st_size)
    assert made.smaller > 3.4
    assert len(made.layers) == 4
    before, after = (run(path, inputs[1400:]).argmax(1) for path in (file, made.path))
    held = labels[1400:]
    assert (before == held).mean() > 0.9
    assert (after == held).mean() >= (before == held).mean() - 0.01
    # Each channel of a weight has a scale of its own.
    model = onnx.load(made.path)
    floats = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert [256] in [list(each.dims) for each in floats]


def test_excluded_layers_keep_their_weights(file: Path, tmp_path: Path) -> None:
    """An exclusion that is ignored leaves the most sensitive layer broken."""
    inputs, _ = digits()
    calibration = [{"inputs": inputs[:50]}]
    known = layers_of(file)
    assert sorted(known.values()) == ["Conv", "Conv", "Gemm", "Gemm"]
    largest = next(name for name, operator in known.items() if operator == "Gemm")
    made = quantize_onnx(file, tmp_path / "int8.onnx", calibration=calibration, exclude=[largest])
    assert largest not in made.layers
    floats = [each for each in onnx.load(made.path).graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(each.dims)) for each in floats) == 512 * 256
    with pytest.raises(LimbeckError, match="no layer 'nothing' to exclude"):
        quantize_onnx(file, tmp_path / "x.onnx", calibration=calibration, exclude=["nothing"])
    with pytest.raises(LimbeckError, match="exclude fewer"):
        quantize_onnx(file, tmp_path / "x.onnx", calibration=calibration, exclude=list(known))
    assert not (tmp_path / "x.onnx").exists()


def test_the_layer_that_int8_breaks_is_named(trained: nn.Module, tmp_path: Path) -> None:
    """Without its name nobody knows what to leave in fp32."""
    inputs, _ = digits()
    odd = nn.Sequential(*trained)
    # One value between the last two layers is a thousand times larger than the others, and what reads it as much
    # smaller: in fp32 the same function, in int8 all other values there are rounded to nothing.
    hidden, last = nn.Linear(512, 256), nn.Linear(256, 10)
    with torch.no_grad():
        hidden.load_state_dict(trained[8].state_dict())
        last.load_state_dict(trained[10].state_dict())
        hidden.weight[0], hidden.bias[0] = 0, 3000.0
        last.weight[:, 0] = 1e-6
    odd[8], odd[10] = hidden, last
    path = export(odd.eval(), tmp_path / "odd.onnx", torch.zeros(2, 1, 8, 8))
    calibration = [{"inputs": inputs[:32]}]
    found = sensitivity(path, calibration)
    assert {each.operator for each in found} == {"Conv", "Gemm"}
    assert {each.name for each in found[:2]} == set(list(layers_of(path))[-2:])
    assert found[1].error > 10 * found[2].error
    # What it says of a layer is what comes of leaving all others alone.
    others = [name for name in layers_of(path) if name != found[0].name]
    one = quantize_onnx(path, tmp_path / "one.onnx", calibration=calibration, exclude=others).path
    expected, got = run(path, inputs[:32]).astype(float), run(one, inputs[:32]).astype(float)
    error = ((got - expected) ** 2).sum() / (expected**2).sum()
    assert error / 3 < found[0].error < error * 3
    assert len(sensitivity(path, calibration, seconds=0.0)) == 1

    flagged, fine = findings(
        {"accuracy": 0.98, "nll": 0.20, "only": 1.0}, {"accuracy": 0.90, "nll": 0.19}, tolerance=0.01, layers=found
    )
    assert (flagged.metric, flagged.flagged, flagged.sensitive[0]) == ("accuracy", True, found[0].name)
    assert flagged.lost == pytest.approx(0.08)
    assert f"most sensitive: {found[0].name}" in flagged.sentence()
    assert (fine.metric, fine.flagged, fine.sensitive) == ("nll", False, ())
    assert fine.sentence() == "nll 0.2 in fp32, 0.19 in int8: within tolerance."


def test_a_number_that_is_lost_is_flagged() -> None:
    """A model that gives NaN in int8 is not within tolerance."""
    assert findings({"accuracy": 0.9}, {"accuracy": float("nan")})[0].flagged
    assert not findings({"accuracy": 0.9}, {"accuracy": 0.89}, tolerance=0.01)[0].flagged
    assert findings({"nll": 0.20}, {"nll": 0.25})[0].flagged


def test_mistakes_are_one_line(file: Path, tmp_path: Path) -> None:
    inputs, _ = digits()
    target = tmp_path / "int8.onnx"
    with pytest.raises(LimbeckError, match=r"missing\.onnx: no such \.onnx file"):
        quantize_onnx(tmp_path / "missing.onnx", target)
    with pytest.raises(LimbeckError, match="static int8 needs calibration=, batches of real inputs"):
        quantize_onnx(file, target)
    with pytest.raises(LimbeckError, match="calibration has no batch in it"):
        quantize_onnx(file, target, calibration=[])
    with pytest.raises(LimbeckError, match="a calibration batch has pixels, the model takes inputs"):
        quantize_onnx(file, target, calibration=[{"pixels": inputs[:2]}])
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:100])
    with pytest.raises(LimbeckError, match=r"broken\.onnx: cannot be prepared for int8"):
        quantize_onnx(tmp_path / "broken.onnx", target, kind="dynamic")
    made = quantize_onnx(file, target, kind="dynamic")
    with pytest.raises(LimbeckError, match="is quantized already"):
        quantize_onnx(made.path, tmp_path / "twice.onnx", kind="dynamic")
