from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.compress.digit_networks import batches, digits, small, trained_network
from torch import Tensor, nn

from limbeck import Distiller, Term
from limbeck.compress import quantization_aware
from limbeck.compress.captured import capture, kind_of
from limbeck.compress.rounding import ActivationRange
from limbeck.errors import LimbeckError
from limbeck.export.plans import of_signals
from limbeck.losses import FeatureMSE
from limbeck.models import ModelSpec, Shape, build
from limbeck.models.forward import evaluating

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FREE = {"inputs": {0: "batch"}}


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return trained_network()


def test_ranges_are_known_before_the_first_step(trained: nn.Module) -> None:
    """A student that begins with ranges of nothing is ruined by its first steps."""
    aware = quantization_aware(trained, batches()[0], calibration=batches())
    ranges = {each.name: each for each in aware.modules() if isinstance(each, ActivationRange)}
    largest = []
    handle = trained.layer1[0].register_forward_hook(lambda _module, _inputs, output: largest.append(output.max()))
    inputs = torch.cat([batch["inputs"] for batch in batches()])
    with torch.no_grad(), evaluating(trained):
        plain = trained(inputs)
    handle.remove()
    assert not any(each.observes for each in ranges.values())
    assert all(float(each.scale) > 1e-6 for each in ranges.values())
    assert float(max(largest)) / 255 in [pytest.approx(float(each.scale), rel=0.02) for each in ranges.values()]
    with torch.no_grad():
        got = aware(inputs)["logits"]
    assert ((got - plain) ** 2).mean() < 0.02 * plain.var()


def test_norms_are_folded_and_nothing_else_changes(trained: nn.Module) -> None:
    inputs = digits()[0][:16]
    graph = capture(of_signals(trained, FREE, ["logits"]), {"inputs": inputs})
    assert not any("batch_norm" in str(kind_of(node)) for node in graph.graph.nodes)
    with torch.no_grad():
        assert torch.allclose(graph(inputs)[0], trained(inputs), atol=1e-4)
    assert all(each.requires_grad for each in graph.parameters())


def test_state_and_copies(trained: nn.Module) -> None:
    """A checkpoint that leaves out the ranges."""
    inputs = digits()[0][:40]
    distilled = quantization_aware(trained, batches()[0], calibration=batches())
    for name, each in distilled.named_parameters():
        each.data += 0.1 if name.endswith("log_factor") else 0.01
    other = quantization_aware(small("resnet8x4"), batches()[0], calibration=batches(1))
    other.load_state_dict(distilled.state_dict())
    copied = copy.deepcopy(distilled)
    with torch.no_grad():
        expected = distilled(inputs)["logits"]
        assert torch.equal(other(inputs)["logits"], expected)
        for each in copied.parameters():
            each.mul_(0.5)
        assert not torch.equal(copied(inputs)["logits"], expected)
        assert torch.equal(distilled(inputs)["logits"], expected)


def test_dropout_drops_in_training_only() -> None:
    """Modules of torch.export refuse to change their mode, and their dropout is as it was exported."""
    student = small(dropout=0.5).train()
    aware = quantization_aware(student, batches()[0], calibration=batches(1))
    assert aware.training
    inputs = digits()[0][:20]
    with torch.no_grad():
        assert not torch.equal(aware(inputs)["logits"], aware(inputs)["logits"])
        with evaluating(aware):
            assert torch.equal(aware(inputs)["logits"], aware(inputs)["logits"])
        assert not torch.equal(aware(inputs)["logits"], aware(inputs)["logits"])
        aware.eval()
        assert torch.equal(aware(inputs)["logits"], aware(inputs)["logits"])


def test_features_are_signals(trained: nn.Module, tmp_path: Path) -> None:
    """The modules of the student are gone from the graph; a term on features needs them."""
    aware = quantization_aware(trained, batches()[0], calibration=batches(1), signals=["layer2"])
    inputs = digits()[0][:8]
    term = Term(FeatureMSE(), student="layer2", teacher="layer2")
    distiller = Distiller(aware, trained, [term], example={"inputs": inputs})
    loss = distiller({"inputs": inputs}).loss
    loss.backward()
    hidden = []
    handle = trained.layer2.register_forward_hook(lambda _module, _inputs, output: hidden.append(output))
    with torch.no_grad():
        trained(inputs)
        expected = ((aware(inputs)["layer2"] - hidden[0]) ** 2).mean()
    handle.remove()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert float(expected) > 0
    path = aware.write(tmp_path / "int8.onnx")
    assert [each.name for each in onnx.load(path).graph.output] == ["logits"]
    with pytest.raises(LimbeckError, match="gives logits, layer2, not 'layer9'"):
        aware.write(path, ["layer9"])


def test_mistakes_are_one_line(trained: nn.Module) -> None:
    example = batches()[0]
    with pytest.raises(LimbeckError, match="calibration has no batch in it"):
        quantization_aware(trained, example, calibration=[])
    with pytest.raises(LimbeckError, match="a calibration batch has pixels, but not 'inputs'"):
        quantization_aware(trained, example, calibration=[{"pixels": example["inputs"]}])
    with pytest.raises(LimbeckError, match="numbers that are not finite"):
        quantization_aware(trained, example, calibration=[{"inputs": example["inputs"] * float("nan")}])
    with pytest.raises(LimbeckError, match="no module 'layer9'"):
        quantization_aware(trained, example, calibration=[example], signals=["layer9"])
    with pytest.raises(LimbeckError, match="no convolution, linear layer or embedding"):
        quantization_aware(nn.Sequential(nn.Flatten(), nn.LayerNorm(64)), example, calibration=[example])
    aware = quantization_aware(trained, example, calibration=[example])
    with pytest.raises(LimbeckError, match="Aware learns as int8 already"):
        quantization_aware(aware, example, calibration=[example])
    with pytest.raises(LimbeckError, match="give 'inputs' or 'input_ids'"):
        quantization_aware(trained, {"labels": torch.zeros(2)}, calibration=[example])

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.layer(inputs.flatten(1))
            return logits if float(logits.sum()) > 0 else -logits

    with pytest.raises(LimbeckError, match=r"torch\.export cannot follow the model"):
        quantization_aware(Branching(), example, calibration=[example])
    detector = build(
        ModelSpec("fcos:timm:test_efficientnet"),
        Shape(num_classes=3, in_channels=3, image_size=(64, 64), head="detection"),
    )
    with pytest.raises(LimbeckError, match=r"detects objects, .*quantize_onnx"):
        quantization_aware(detector, {"inputs": torch.zeros(1, 3, 64, 64)}, calibration=[])
