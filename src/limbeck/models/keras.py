"""A Keras 3 model on its torch backend, used as it is: a PyTorch module in channels, modes and state."""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError

# What a configuration may name without running code of its author: no functions, pickled modules or foreign
# files.
_SAFE_MODULES = (
    "keras",
    "keras.layers",
    "keras.initializers",
    "keras.regularizers",
    "keras.constraints",
    "keras.models",
)
_UNSAFE_CLASSES = (
    "function",
    "Lambda",
    "__lambda__",
    "__typespec__",
    "TorchModuleWrapper",
    "TFSMLayer",
    "JaxLayer",
)


def is_keras(model: object) -> bool:
    """Whether `model` is a Keras model, without importing Keras to find out."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(model, keras.Model)


def as_module(model: object) -> nn.Module:
    """`model` as a PyTorch module: itself, or a Keras 3 model in a KerasModule.

    Raises:
        LimbeckError: where it is neither, or a Keras model on another backend than torch.
    """
    if is_keras(model):
        return KerasModule(model)
    if isinstance(model, nn.Module):
        return model
    hint = "for a name, use build(ModelSpec(name), …)" if isinstance(model, str) else "wrap it in an nn.Module"
    if isinstance(model, type):
        hint = f"call it: {model.__name__}(…)"
    raise LimbeckError(f"expected a torch.nn.Module or a Keras 3 model, got {type(model).__name__}; {hint}")


class KerasModule(nn.Module):
    """A Keras model as a PyTorch module that takes (batch, channels, height, width) or (batch, features).

    The batch is moved to channels-last, flattened, or freed of its single channel where the Keras input asks
    for it. `.train()` and `.eval()` set the `training` flag of every call. Parameters are those of Keras,
    named `layer/variable`. A model that ends in softmax gives log-probabilities, which are logits of the same
    distribution.

    Raises:
        LimbeckError: on another backend than torch, for a model without weights yet, or for a model of
            several inputs.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        import keras

        backend = keras.backend.backend()
        if backend != "torch":
            raise LimbeckError(
                f"Keras model {model.name!r}: expected the torch backend, got {backend}; "
                "set KERAS_BACKEND=torch in the environment before Keras is imported"
            )
        if not model.built:
            raise LimbeckError(
                f"Keras model {model.name!r} has no weights yet; start it with keras.Input((height, width, channels))"
            )
        shapes = [tuple(tensor.shape) for tensor in model.inputs or []]
        if len(shapes) != 1:
            raise LimbeckError(
                f"Keras model {model.name!r}: expected one declared input, got {len(shapes)}; "
                "make it a Sequential or functional model with one keras.Input"
            )
        # In a tuple, so that PyTorch does not register it: Keras names its tensors anew in every copy.
        self._held = (model,)
        self._on_device: Any = keras.device
        self._expected: tuple[int | None, ...] = shapes[0][1:]
        self._channels_last = keras.config.image_data_format() == "channels_last"
        self._ends_in_softmax = _last_activation(model) == "softmax"
        taken: Counter[str] = Counter()
        for variable in model.weights:
            name = "/".join(variable.path.split("/")[-2:]).replace(".", "_")
            taken[name] += 1
            self.register_parameter(name if taken[name] == 1 else f"{name}#{taken[name]}", variable.value)
        self._seeds = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]

    @property
    def keras_model(self) -> Any:
        """The Keras model itself; it shares every weight with this module."""
        return self._held[0]

    def forward(self, inputs: Tensor) -> Any:
        """What the Keras model gives for a batch: usually logits (batch, classes)."""
        # Keras moves what it is given to its own default device, a GPU where there is one.
        with self._on_device(str(inputs.device)):
            output = self.keras_model(self._arranged(inputs), training=self.training)
        if self._ends_in_softmax and isinstance(output, Tensor):
            return output.clamp_min(torch.finfo(output.dtype).tiny).log()
        return output

    def _arranged(self, inputs: Tensor) -> Tensor:
        last = inputs.permute(0, 2, 3, 1) if inputs.ndim == 4 else inputs
        arrangements = [last, inputs] if self._channels_last else [inputs, last]
        for arranged in arrangements:
            if self._fits(arranged):
                return arranged
        if len(self._expected) == 1:
            flat = arrangements[0].flatten(1)
            if self._fits(flat):
                return flat
        if inputs.ndim == 4 and inputs.shape[1] == 1 and self._fits(inputs.squeeze(1)):
            return inputs.squeeze(1)
        raise LimbeckError(
            f"Keras model {self.keras_model.name!r} takes inputs of shape "
            f"(batch, {', '.join(map(str, self._expected))}), got {tuple(inputs.shape)}; "
            "resize the images or change its keras.Input"
        )

    def _fits(self, inputs: Tensor) -> bool:
        shape = inputs.shape[1:]
        return len(shape) == len(self._expected) and all(
            wanted is None or wanted == got for wanted, got in zip(self._expected, shape, strict=True)
        )

    def get_extra_state(self) -> Tensor:
        """The states of the seed generators, so that dropout goes on where a stopped training left it."""
        states = [seed.value.detach().cpu().flatten() for seed in self._seeds]
        return torch.cat(states) if states else torch.empty(0, dtype=torch.int32)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores what `get_extra_state` gave."""
        offset = 0
        for seed in self._seeds:
            size = seed.value.numel()
            seed.assign(state[offset : offset + size].reshape(seed.value.shape))
            offset += size

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasModule:
        """A twin with its own weights: a plain deep copy would part the parameters from the model's."""
        import keras

        twin = KerasModule(keras.models.clone_model(self.keras_model))
        state = copy.deepcopy(self.state_dict(), memo)
        twin.load_state_dict(state)
        for mine, its in zip(self.parameters(), twin.parameters(), strict=True):
            its.data = its.data.to(mine.device)
            its.requires_grad_(mine.requires_grad)
        twin.train(self.training)
        memo[id(self)] = twin
        return twin


def _last_activation(model: Any) -> str | None:
    import keras

    last = model.layers[-1]
    while isinstance(last, keras.Model) and last.layers:
        last = last.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    activation = last.get_config().get("activation")
    return activation if isinstance(activation, str) else None


def describe(module: KerasModule) -> dict[str, Any]:
    """The architecture of a Keras model as JSON values, from which `rebuild` builds it."""
    described: dict[str, Any] = json.loads(module.keras_model.to_json())
    described.pop("compile_config", None)
    return described


def rebuild(described: dict[str, Any], source: object, *, trust_code: bool) -> KerasModule:
    """The untrained model that `describe` described. Imports Keras, on the torch backend where it can choose.

    Raises:
        LimbeckError: where Keras is not installed, cannot build it, or would run code without `trust_code`.
    """
    if not trust_code:
        _refuse_code(described, source)
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        keras: Any = importlib.import_module("keras")
    except ModuleNotFoundError as error:
        raise LimbeckError(
            f"{source} holds a Keras model, and Keras cannot be imported ({error}); "
            "pip install 'limbeck[keras]' and set KERAS_BACKEND=torch"
        ) from None
    try:
        model = keras.models.model_from_json(json.dumps(described))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise LimbeckError(
            f"{source}: Keras cannot build the model it describes ({str(error).splitlines()[0]}); "
            "import the module that registers its layers, or give the model as `into`"
        ) from None
    return KerasModule(model)


def _refuse_code(value: Any, source: object) -> None:
    if isinstance(value, dict):
        name, module = value.get("class_name"), value.get("module")
        foreign = module is not None and module not in _SAFE_MODULES and not str(module).startswith("keras.src.models")
        if name is not None and (name in _UNSAFE_CLASSES or foreign):
            raise LimbeckError(
                f"{source}: the Keras model names {name!r} of {module!r}, which can run code; "
                "give --trust-code (trust_code=True) if you trust the folder"
            )
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_code(part, source)
