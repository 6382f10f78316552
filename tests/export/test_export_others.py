"""The same model for other runtimes: the files, opened by their own libraries, give what PyTorch gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from tests.export.students import opened, trained
from tests.tasks.test_text_classification import written

from limbeck.artifact import open_artifact
from limbeck.artifact.card import check_files
from limbeck.compress.artifacts import quantize_artifact
from limbeck.errors import LimbeckError
from limbeck.export import export
from limbeck.export.data import Known

BERT = {
    "pretrained": False,
    "config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Known, Any, Path]:
    folder = tmp_path_factory.mktemp("others")
    known = opened("image-classification", {"source": "digits"})
    model = trained(folder / "student", known, "conv-student", {}, steps=60, learning_rate=3e-3)
    export(folder / "student", folder / "artifact", also=("torch", "openvino"))
    return known, model, folder


def test_both_files_are_what_pytorch_is_in_any_batch(digits: tuple[Known, Any, Path]) -> None:
    known, model, folder = digits
    program = torch.export.load(folder / "artifact" / "model.pt2").module()
    compiled = openvino.Core().compile_model(
        str(folder / "artifact" / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for count in (1, 7):
        inputs = known.data.test.__getitems__(list(range(count)))["inputs"]
        expected = model.eval()(inputs).detach()
        torch.testing.assert_close(program(inputs)[0], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(compiled({"inputs": inputs.numpy()})["logits"], expected, rtol=1e-3, atol=1e-4)


def test_the_card_names_them_and_a_changed_one_is_noticed(digits: tuple[Known, Any, Path], tmp_path: Path) -> None:
    known, _, folder = digits
    card = open_artifact(folder / "artifact").card
    assert card.others == ("model.pt2", "model.xml", "model.bin")
    small = quantize_artifact(folder / "artifact", tmp_path / "int8", folder / "student", known, calibration=32)
    assert small.others == ()
    assert sorted(path.name for path in (tmp_path / "int8").iterdir()) == ["README.md", "artifact.json", "model.onnx"]
    broken = folder / "artifact" / "model.bin"
    kept = broken.read_bytes()
    broken.write_bytes(kept[:-1])
    with pytest.raises(LimbeckError, match=r"model\.bin"):
        check_files(folder / "artifact", card)
    broken.write_bytes(kept)


def test_texts_have_any_length(tmp_path: Path) -> None:
    settings = {"source": str(written(tmp_path, "single-label")), "max_length": 24, "vocabulary": 200}
    known = opened("text-classification", settings)
    model = trained(tmp_path / "student", known, "hf:bert", BERT, steps=10)
    export(tmp_path / "student", tmp_path / "artifact", also=("torch",), samples=40)
    program = torch.export.load(tmp_path / "artifact" / "model.pt2").module()
    for length in (5, 11):
        ids = torch.randint(5, 50, (3, length))
        mask = torch.ones_like(ids)
        expected = model.eval()(input_ids=ids, attention_mask=mask).logits.detach()
        torch.testing.assert_close(program(ids, mask, torch.zeros_like(ids))[0], expected, rtol=1e-4, atol=1e-5)


def test_executorch_gives_what_pytorch_gives(digits: tuple[Known, Any, Path], tmp_path: Path) -> None:
    runtime = pytest.importorskip("executorch.runtime", reason="executorch is not installed")
    known, model, folder = digits
    export(folder / "student", tmp_path / "artifact", also=("executorch",), samples=20)
    method = runtime.Runtime.get().load_program(tmp_path / "artifact" / "model.pte").load_method("forward")
    inputs = known.data.test.__getitems__([3])["inputs"]
    torch.testing.assert_close(method.execute([inputs])[0], model.eval()(inputs).detach(), rtol=1e-4, atol=1e-5)


def test_an_unknown_runtime_is_named(tmp_path: Path) -> None:
    with pytest.raises(LimbeckError, match="did you mean 'openvino'"):
        export(tmp_path, tmp_path / "to", also=("openvio",))
