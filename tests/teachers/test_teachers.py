"""Teachers: what they give, and that they stay what they are."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.models import conv_teacher
from limbeck.teachers import Ema, Ensemble, InputAdapter, Live, Onnx, as_teacher, fingerprint
from limbeck.types import Preprocessing


def net(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, classes)
    )


BATCH = {"inputs": torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))}


def test_live_is_in_eval_mode_even_if_somebody_trains_it() -> None:
    """A teacher in train mode drops units at random and drifts its BatchNorm statistics."""
    model = net()
    teacher = Live(model)
    model.train()
    before = fingerprint([model])
    first, second = teacher(BATCH)["logits"], teacher(BATCH)["logits"]
    assert torch.equal(first, second)
    torch.testing.assert_close(first, model.eval()(BATCH["inputs"]).detach())
    assert fingerprint([model]) == before


def test_live_signals_can_enter_a_backward_pass() -> None:
    """Tensors made in inference mode raise when autograd saves them."""
    student = torch.randn(5, 3, requires_grad=True)
    nn.functional.mse_loss(student, Live(net())(BATCH)["logits"]).backward()
    assert student.grad is not None


def test_live_runs_in_its_own_dtype() -> None:
    """The batch must be cast with the model, and labels must not."""
    teacher = Live(net(), dtype=torch.bfloat16)
    logits = teacher({**BATCH, "labels": torch.arange(5)})["logits"]
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), net().eval()(BATCH["inputs"]), atol=0.05, rtol=0.05)


def test_adapter_gives_the_teacher_its_own_normalisation() -> None:
    """Pixels normalised for the student must reach the teacher as (pixels - mean) / std of the teacher's own."""
    pixels = torch.rand(2, 1, 4, 4)
    given = Preprocessing((4, 4), 1, (0.3,), (0.2,))
    expected = Preprocessing((4, 4), 3, (0.5, 0.4, 0.1), (0.1, 0.2, 0.4))
    adapted = InputAdapter(given, expected)({"inputs": (pixels - 0.3) / 0.2})["inputs"]
    mean, std = torch.tensor(expected.mean).view(3, 1, 1), torch.tensor(expected.std).view(3, 1, 1)
    torch.testing.assert_close(adapted, (pixels.expand(-1, 3, -1, -1) - mean) / std)


def test_adapter_resizes_and_refuses_colour_to_grey() -> None:
    small = Preprocessing((4, 4), 1, (0.0,), (1.0,))
    large = Preprocessing((8, 6), 1, (0.0,), (1.0,))
    assert InputAdapter(small, large)(BATCH)["inputs"].shape == (5, 1, 8, 6)
    colour = Preprocessing((4, 4), 3, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(LimbeckError, match="3 channels, the teacher expects 1"):
        InputAdapter(colour, small)


def test_ensemble_is_the_weighted_mean_of_logits() -> None:
    """Weights that are not normalised would raise the ensemble's temperature unseen."""
    models = [net(0).eval(), net(1).eval()]
    mean = Ensemble(models, weights=[1, 3])(BATCH)["logits"]
    expected = 0.25 * models[0](BATCH["inputs"]) + 0.75 * models[1](BATCH["inputs"])
    torch.testing.assert_close(mean, expected.detach())


def test_ensemble_refuses_other_classes_and_bad_weights() -> None:
    with pytest.raises(LimbeckError, match="same classes"):
        Ensemble([net(), net(classes=4)])(BATCH)
    with pytest.raises(LimbeckError, match="as many weights"):
        Ensemble([net()], weights=[1.0, 2.0])


def test_ema_follows_by_its_decay() -> None:
    """decay · average + (1 - decay) · student, buffers too, computed by hand; the student is not touched."""
    student = net()
    teacher = Ema(student, decay=0.9)
    start = copy.deepcopy(student.state_dict())
    with torch.no_grad():
        for tensor in student.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(1.0)
    teacher.update(student)
    for name, tensor in teacher.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, start[name] + 0.1)


def test_ema_state_restores() -> None:
    student = net()
    first, second = Ema(student, decay=0.5), Ema(net(7), decay=0.5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(BATCH)["logits"], second(BATCH)["logits"])
    with pytest.raises(LimbeckError, match="decay"):
        Ema(student, decay=1.0)


@pytest.mark.parametrize("fixed", [False, True])
def test_onnx_file_teaches_as_its_module_does(tmp_path: Path, fixed: bool) -> None:
    """A file with a fixed batch is run in pieces; logits must equal PyTorch's."""
    pytest.importorskip("onnxruntime")
    model = conv_teacher(image_size=(8, 8)).eval()
    inputs = torch.randn(4, 1, 8, 8)
    path = tmp_path / "teacher.onnx"
    shapes = None if fixed else ({0: torch.export.Dim("batch")},)
    example = inputs[:2]
    torch.onnx.export(model, (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    teacher = as_teacher(str(path))
    torch.testing.assert_close(teacher({"inputs": inputs})["logits"], model(inputs).detach(), atol=1e-4, rtol=1e-4)
    with pytest.raises(LimbeckError, match="no modules to tap"):
        teacher.require(["layer1"])
    if fixed:
        with pytest.raises(LimbeckError, match="batches of exactly 2"):
            teacher({"inputs": inputs[:3]})


def test_onnx_errors_name_the_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(LimbeckError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        Onnx(broken)
    with pytest.raises(LimbeckError, match="no such"):
        Onnx(tmp_path / "absent.onnx")


def test_fingerprint_sees_one_changed_weight() -> None:
    """The guard against a drifting teacher rests on this."""
    model = net()
    before = fingerprint([model])
    with torch.no_grad():
        model[1].weight[3, 2] += 1e-6
    assert fingerprint([model]) != before


def test_teacher_is_no_part_of_the_distiller() -> None:
    """A registered teacher would be saved, optimized, synchronised by DDP, and put in train mode."""
    teacher = net(1)
    distiller = Distiller(net(0), teacher)
    distiller.train()
    assert not teacher.training
    owned = {id(parameter) for parameter in distiller.parameters()}
    assert owned.isdisjoint(id(parameter) for parameter in teacher.parameters())
    assert all(name.startswith("student.") for name in distiller.state_dict())
