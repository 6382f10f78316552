from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from tests.compress.digit_networks import batches, digits, trained_network
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from limbeck import Distiller, TrainConfig, train
from limbeck.bench.sessions import openvino_session
from limbeck.compress import Aware, quantization_aware, quantize_onnx
from limbeck.errors import LimbeckError
from limbeck.export.graphs import write_graph
from limbeck.export.plans import of_signals
from limbeck.models import forward_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

FREE = {"inputs": {0: "batch"}}


def run(path: Path, **feeds: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {name: tensor.numpy() for name, tensor in feeds.items()})[0])


def operators(path: Path, folder: Path) -> list[str]:
    """What ONNX Runtime makes of the file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return trained_network()


@pytest.fixture(scope="module")
def distilled(trained: nn.Module) -> Aware:
    """The network, trained some steps more as an int8 model, by itself as it was."""
    inputs, labels = digits()
    aware = quantization_aware(trained, batches()[0], calibration=batches())
    before = {name: tensor.clone() for name, tensor in aware.state_dict().items()}
    config = TrainConfig(steps=15, learning_rate=1e-4, evaluations=1)
    done = train(Distiller(aware, trained), (inputs[:1400], labels[:1400]), config=config).module
    assert done is aware
    after = aware.state_dict()
    learned = {name.rpartition(".")[2] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {"weight", "bias", "log_factor"} <= learned
    return aware


def test_the_file_is_what_was_trained(distilled: Aware, trained: nn.Module, tmp_path: Path) -> None:
    """A file of other scales, of a batch of one size, or with weights of 32 bits."""
    inputs, labels = digits()
    path = distilled.write(tmp_path / "int8.onnx")
    held = inputs[1400:]
    with torch.no_grad():
        learned, whole, plain = (forward_of(each)({"inputs": held})["logits"]
                                 for each in (distilled, distilled.integers(), trained))  # fmt: skip
    got = run(path, inputs=held)
    spread = float(plain.std())
    assert (got - whole).abs().max() < 0.05 * spread
    assert (got - learned).abs().max() < 0.1 * spread
    assert (got.argmax(1) == whole.argmax(1)).float().mean() >= 0.99
    assert (got.argmax(1) == learned.argmax(1)).float().mean() >= 0.99
    assert (got.argmax(1) == labels[1400:]).float().mean() >= (plain.argmax(1) == labels[1400:]).float().mean() - 0.01
    for count in (1, 7):
        assert torch.allclose(run(path, inputs=held[:count]), got[:count], atol=0.02 * spread)
    model = onnx.load(path)
    sizes: dict[int, int] = {}
    for each in model.graph.initializer:
        sizes[each.data_type] = sizes.get(each.data_type, 0) + int(np.prod(each.dims))
    weights = sum(each.numel() for each in trained.parameters() if each.dim() > 1)
    assert sizes[onnx.TensorProto.INT8] >= weights
    assert sizes[onnx.TensorProto.FLOAT] < 0.02 * weights
    write_graph(of_signals(trained, FREE, ["logits"]), batches()[0], tmp_path / "fp32.onnx", static=False)
    assert (tmp_path / "fp32.onnx").stat().st_size > 3.5 * path.stat().st_size
    arrays = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in batches()]
    static = quantize_onnx(tmp_path / "fp32.onnx", tmp_path / "static.onnx", calibration=arrays)
    assert path.stat().st_size < 1.05 * static.bytes[1]


def test_every_convolution_is_run_in_integers(distilled: Aware, tmp_path: Path) -> None:
    """An output that is not rounded, or a bias in fp32, and a runtime computes in fp32 what is stored as int8."""
    found = operators(distilled.write(tmp_path / "int8.onnx"), tmp_path)
    assert found.count("QLinearConv") == 10
    assert found.count("QLinearAdd") == 3
    assert found.count("QGemm") == 1
    assert not {"Conv", "FusedConv", "Gemm", "Add", "Relu"} & set(found)


@pytest.mark.parametrize("name", ["test_efficientnet", "vit"])
def test_networks_of_timm(name: str, tmp_path: Path) -> None:
    """In-place operators, gates, attention: what other libraries write."""
    torch.manual_seed(0)
    if name == "vit":
        options = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10}
        model = timm.models.VisionTransformer(**options)
    else:
        model = timm.create_model(name, num_classes=10)
        for each in model.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.reset_running_stats()
                each.momentum = None
    inputs = torch.randn(24, 3, 16, 16) if name == "vit" else torch.randn(12, 3, 64, 64)
    with torch.no_grad():
        model.train()(inputs)
        expected = model.eval()(inputs)
    aware = quantization_aware(model, {"inputs": inputs[:1]}, calibration=[{"inputs": inputs}])
    with torch.no_grad():
        got = aware(inputs)["logits"]
    if name == "vit":
        assert ((got - expected) ** 2).mean() < 0.05 * expected.var(0).mean()
    path = aware.write(tmp_path / "int8.onnx")
    whole = aware.integers()(inputs[:5])["logits"]
    assert (run(path, inputs=inputs[:5]) - whole).abs().max() < 0.3 * float(expected.std())
    found = operators(path, tmp_path)
    if name == "vit":
        assert found.count("MatMulIntegerToFloat") == 8
    else:
        assert "Conv" not in found
        assert found.count("QLinearConv") == sum(isinstance(each, nn.Conv2d) for each in model.modules())


def test_texts_of_any_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"vocab_size": 2000, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(**settings, intermediate_size=128, num_labels=3)).eval()
    for each in model.parameters():  # weights of 0.02 make every text the same
        each.data.mul_(3 if each.dim() > 1 else 1)
    ids, mask = torch.randint(5, 2000, (16, 12)), torch.ones(16, 12, dtype=torch.long)
    mask[3, 7:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(16) % 3}
    aware = quantization_aware(model, batch, calibration=[batch])
    assert aware.inputs == ("input_ids", "attention_mask")
    Distiller(aware, model)(batch).loss.backward()
    tables = [each for name, each in aware.named_parameters() if name.endswith("word_embeddings.weight")]
    assert float(tables[0].grad.abs().sum()) > 0
    path = aware.write(tmp_path / "int8.onnx")
    ids, mask = torch.randint(5, 2000, (5, 23)), torch.ones(5, 23, dtype=torch.long)
    mask[0, 20:] = 0
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=mask).logits
        whole = forward_of(aware.integers())({"input_ids": ids, "attention_mask": mask})["logits"]
    got = run(path, input_ids=ids, attention_mask=mask)
    assert (got - whole).abs().max() < 0.02 * float(plain.std())
    assert (got - plain).abs().max() < 0.5 * float(plain.std())
    floats = [each for each in onnx.load(path).graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    assert max(int(np.prod(each.dims)) for each in floats) <= 2000
    with pytest.raises(LimbeckError, match="the batch lacks 'attention_mask'"):
        aware(ids)


def test_openvino_runs_the_same_file(distilled: Aware, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = distilled.write(tmp_path / "int8.onnx")
    inputs = digits()[0][1400:1500]
    session = openvino_session(path, threads=1, precision="f32", shapes={"inputs": inputs.shape})
    given = torch.from_numpy(session.run({"inputs": inputs.numpy()})[0])
    expected = run(path, inputs=inputs)
    assert (given.argmax(1) == expected.argmax(1)).float().mean() >= 0.99
    assert (given - expected).abs().max() < 0.1 * float(expected.std())
