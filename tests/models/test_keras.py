from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import KerasModule, as_module, forward_of, is_keras, load, save

os.environ.setdefault("KERAS_BACKEND", "torch")
keras: Any = pytest.importorskip("keras", exc_type=ImportError)
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend: set KERAS_BACKEND=torch", allow_module_level=True)


def conv(activation: str | None = None, channels: int = 1) -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 6, channels)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5, seed=7),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation=activation),
        ]
    )


def test_as_module() -> None:
    """Whatever is not a model must be said at once, with the way to one."""
    plain = nn.Linear(1, 1)
    assert as_module(plain) is plain
    assert not is_keras(plain)
    assert isinstance(as_module(conv()), KerasModule)
    for wrong, hint in (
        ("resnet20", r"got str; .*build\(ModelSpec"),
        (nn.Linear, r"call it: Linear\("),
        (3, "got int"),
    ):
        with pytest.raises(LimbeckError, match=hint):
            as_module(wrong)


def test_equal_to_keras_itself() -> None:
    """Channels moved wrongly give a model that runs and is wrong."""
    model, images = conv(channels=2), torch.randn(5, 2, 8, 6)
    module = as_module(model).eval()
    expected = torch.from_numpy(model.predict(images.permute(0, 2, 3, 1).numpy(), verbose=0))
    torch.testing.assert_close(module(images).detach(), expected)
    torch.testing.assert_close(forward_of(module)({"inputs": images})["logits"].detach(), expected)


def test_inputs_that_keras_shapes_otherwise() -> None:
    """Dense Keras models take vectors ordered (height, width, channels), or images without channels."""
    dense = keras.Sequential([keras.Input((8 * 6 * 2,)), keras.layers.Dense(3)])
    images = torch.randn(4, 2, 8, 6)
    expected = dense(images.permute(0, 2, 3, 1).reshape(4, -1), training=False)
    assert torch.equal(as_module(dense).eval()(images), expected)
    flat = keras.Sequential([keras.Input((8, 6)), keras.layers.Flatten(), keras.layers.Dense(3)])
    grey = images[:, :1]
    assert torch.equal(as_module(flat).eval()(grey), flat(grey[:, 0], training=False))
    with pytest.raises(LimbeckError, match=r"takes inputs of shape \(batch, 8, 6\), got \(4, 2, 8, 6\)"):
        as_module(flat)(images)


def test_softmax_outputs_become_logits() -> None:
    """Probabilities taken for logits make a KD loss that is finite, smooth and wrong."""
    model, images = conv("softmax"), torch.randn(5, 1, 8, 6)
    probabilities = model(images.permute(0, 2, 3, 1), training=False)
    logits = as_module(model).eval()(images)
    torch.testing.assert_close(logits.softmax(-1), probabilities)
    assert not torch.allclose(logits, probabilities)


def test_modes_follow_train_and_eval() -> None:
    """A Keras student left in inference mode trains without dropout and with frozen BatchNorm statistics."""
    model = as_module(conv())
    images = torch.randn(16, 1, 8, 6)
    statistics = _moving_mean(model)
    model.eval()
    before = statistics.clone()
    assert torch.equal(model(images), model(images))
    assert torch.equal(statistics, before)
    model.train()
    assert not torch.equal(model(images), model(images))
    assert not torch.equal(statistics, before)


def _moving_mean(model: nn.Module) -> torch.Tensor:
    return next(value for name, value in model.named_parameters() if name.endswith("moving_mean"))


def test_runs_where_the_batch_is() -> None:
    """Keras moves inputs to the GPU by default; a model that PyTorch keeps on the CPU then meets tensors from
    there.
    """
    model, images = as_module(conv()).eval(), torch.randn(2, 1, 8, 6)
    with keras.device("meta"):
        assert model(images).device == torch.device("cpu")


def test_trains_in_pytorch() -> None:
    """Parameters that the optimizer does not see, or that Keras copied, never learn."""
    torch.manual_seed(0)
    model = as_module(conv()).train()
    images = torch.randn(64, 1, 8, 6)
    labels = (images.mean((1, 2, 3)) > 0).long()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 6
    optimizer = torch.optim.Adam(trained, lr=0.01)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    dense = model.keras_model.layers[-1].kernel.value
    assert any(parameter is dense for parameter in trained)


def test_a_copy_has_weights_of_its_own() -> None:
    """The model alone and the distilled one begin as copies: training one must not move the other."""
    model = as_module(conv()).train()
    images = torch.randn(8, 1, 8, 6)
    twin = copy.deepcopy(nn.ModuleList([model]))[0]
    assert torch.equal(twin(images), model(images))  # the same dropout too
    assert list(twin.state_dict()) == list(model.state_dict())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    model.eval(), twin.eval()
    assert not torch.allclose(twin(images), model(images))
    assert torch.equal(twin(images), twin.keras_model(images.permute(0, 2, 3, 1), training=False))


def test_save_and_load(tmp_path: Path) -> None:
    """Keras names its weights anew in every copy, so a state dict by those names fits nothing."""
    model = as_module(conv("softmax"))
    model.train()(torch.randn(16, 1, 8, 6))
    save(model, tmp_path / "m", spec=None, classes=tuple("abc"), preprocessing=None)
    loaded, images = load(tmp_path / "m"), torch.randn(5, 1, 8, 6)
    assert torch.equal(loaded(images), model.eval()(images))
    save(model.keras_model, tmp_path / "k", spec=None, classes=tuple("abc"), preprocessing=None)
    assert torch.equal(load(tmp_path / "k")(images), model(images))


def test_nested_models_of_equal_names(tmp_path: Path) -> None:
    """Two parts with layers of one name must not share a name in the state dict."""
    parts = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="d")]) for _ in range(2)]
    inputs = keras.Input((4,))
    model = as_module(keras.Model(inputs, keras.layers.Dense(2, name="d")(parts[1](parts[0](inputs)))))
    assert len(model.state_dict()) == 7
    save(model, tmp_path / "m", spec=None, classes=("a", "b"), preprocessing=None)
    assert torch.equal(load(tmp_path / "m")(torch.ones(1, 4)), model.eval()(torch.ones(1, 4)))


def test_loading_runs_no_code(tmp_path: Path) -> None:
    """A Keras configuration can name functions and modules, and Keras would import and call them."""
    save(as_module(conv()), tmp_path / "m", spec=None, classes=tuple("abc"), preprocessing=None)
    path = tmp_path / "m" / "limbeck.json"
    whole = json.loads(path.read_text())
    for module, name in (
        ("os", "system"),
        ("keras.layers", "Lambda"),
        ("keras.utils", "function"),
        ("keras.layers", "TorchModuleWrapper"),
    ):
        changed = copy.deepcopy(whole)
        changed["keras"]["config"]["layers"][1] |= {"module": module, "class_name": name}
        path.write_text(json.dumps(changed))
        with pytest.raises(LimbeckError, match=rf"names '{name}' of '{module}', which can run code; give --trust-code"):
            load(tmp_path / "m")


def test_models_that_cannot_be_used_say_why() -> None:
    """A model without weights yet has nothing to train; found in the optimizer it is a riddle."""
    with pytest.raises(LimbeckError, match=r"has no weights yet; start it with keras\.Input"):
        as_module(keras.Sequential([keras.layers.Dense(3)]))
    two = [keras.Input((2,)), keras.Input((2,))]
    with pytest.raises(LimbeckError, match="expected one declared input, got 2"):
        as_module(keras.Model(two, keras.layers.Add()(two)))


def test_a_fresh_process_loads_without_being_told_the_backend(tmp_path: Path) -> None:
    """`limbeck eval FOLDER` starts without KERAS_BACKEND, and Keras would choose TensorFlow."""
    model, images = as_module(conv()).eval(), torch.ones(1, 1, 8, 6)
    save(model, tmp_path / "m", spec=None, classes=tuple("abc"), preprocessing=None)
    code = (
        "import sys, torch; from pathlib import Path; from limbeck.models import load\n"
        "assert 'keras' not in sys.modules\n"
        f"print(load(Path({str(tmp_path / 'm')!r}))(torch.ones(1, 1, 8, 6)).tolist())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), model(images).detach())


def test_another_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the JAX or TensorFlow backend the weights are no PyTorch tensors, and nothing could train them."""
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(LimbeckError, match="expected the torch backend, got jax; set KERAS_BACKEND=torch"):
        as_module(conv())
