"""Taps: the output of any module of a model, captured by its path while the model runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from limbeck.checks import LimbeckError, nearest
from limbeck.models import forward_of
from limbeck.types import Batch, Signal

LOGITS = "logits"


def module_at(model: nn.Module, path: str, owner: str) -> nn.Module:
    """The module at `path` (`layer3`, `encoder.layer.5`); an unknown path is an error that names the nearest one."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    modules.pop("", None)
    if path not in modules:
        raise LimbeckError(f"the {owner} has no module {path!r} to tap{nearest(path, modules)}")
    return modules[path]


class SignalReader:
    """Runs a model on a batch and gives its logits and the outputs of the tapped modules as one Signal.

    Hooks live only while the model runs, so the model is left as it was found and a checkpointed recomputation in
    the backward pass captures nothing.

    Raises:
        LimbeckError: a name in `names` is neither `logits` nor the path of a module.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], owner: str) -> None:
        self._forward = forward_of(model)
        self._taps = {name: module_at(model, name, owner) for name in names if name != LOGITS}
        self._owner = owner

    def __call__(self, batch: Batch) -> Signal:
        if not self._taps:
            return self._forward(batch)
        captured: dict[str, Tensor] = {}
        handles = [module.register_forward_hook(self._capture(name, captured)) for name, module in self._taps.items()]
        try:
            signal = self._forward(batch)
        finally:
            for handle in handles:
                handle.remove()
        missing = self._taps.keys() - captured.keys()
        if missing:
            raise LimbeckError(
                f"the {self._owner}'s module {min(missing)!r} did not run in the forward pass; tap one that does"
            )
        return Signal({**signal.tensors, **captured}, signal.masks)

    def _capture(self, name: str, captured: dict[str, Tensor]) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if not isinstance(first, Tensor):
                raise LimbeckError(
                    f"the {self._owner}'s module {name!r} gives a {type(first).__name__}, not a tensor; "
                    "tap one of its children"
                )
            captured[name] = first

        return hook
