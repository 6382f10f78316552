"""State dicts: read from a file without unpickling, loaded strictly, and cleared of repeated tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.errors import LimbeckError

StateDict = dict[str, Tensor]


def read_state_dict(path: Path) -> StateDict:
    """The tensors of a `.safetensors` file, or of anything that `torch.load(weights_only=True)` reads.

    A checkpoint that keeps its tensors under `state_dict` or `model` gives those, and the `module.` that data
    parallel training puts before every name is removed.

    Raises:
        LimbeckError: where there is no such file, it is cut short, or it holds more than tensors.
    """
    if not path.is_file():
        raise LimbeckError(f"{path}: no such file; `weights` must name a .safetensors or a torch state dict file")
    held = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for key in ("state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
            break
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise LimbeckError(
            f"{path}: expected a state dict (names to tensors), got {_described(held)}; "
            "save `model.state_dict()` and give that file"
        )
    prefix = "module." if all(name.startswith("module.") for name in held) else ""
    return {name.removeprefix(prefix): value for name, value in held.items()}


def _described(held: object) -> str:
    if isinstance(held, Mapping):
        odd = next(name for name, value in held.items() if not isinstance(value, Tensor))
        return f"a {type(held[odd]).__name__} under {odd!r}"
    return f"a {type(held).__name__}"


def _read_safetensors(path: Path) -> StateDict:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LimbeckError(
            f"{path}: not a whole safetensors file ({_first_line(error)}); save or copy it again"
        ) from None


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise LimbeckError(
            f"{path}: not a torch file of plain tensors ({_first_line(error)}); "
            "limbeck unpickles nothing: save `model.state_dict()`, best as .safetensors"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: object) -> None:
    """Copies `state` into `model`, every name and shape accounted for; of tied names one is enough.

    Raises:
        LimbeckError: naming `source` and the first missing, unexpected or misshapen tensor.
    """
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        wrong = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), str(error))
        raise LimbeckError(
            f"{source}: does not fit {type(model).__name__}: {wrong.rstrip('.')}; "
            "build the model with the options and the number of classes that it was trained with"
        ) from None
    own = model.state_dict(keep_vars=True)
    given = {_place(tensor) for name, tensor in own.items() if name not in missing}
    missing = [name for name in missing if name not in own or _place(own[name]) not in given]
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for names, kind in ((missing, "missing"), (unexpected, "unexpected"))
            if names
        ]
        raise LimbeckError(
            f"{source}: the names do not fit {type(model).__name__}: {', '.join(parts)}; "
            "give the weights of this model, or name the model that they belong to"
        )


def unique_tensors(model: nn.Module, task: str = "save") -> StateDict:
    """The state dict of `model` on the CPU, tied tensors once: what a safetensors file can hold."""
    seen: set[tuple[Any, ...]] = set()
    unique: StateDict = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise LimbeckError(
                f"{task}: {name!r} in the state dict of {type(model).__name__} is a {type(tensor).__name__}, "
                "not a tensor; keep such state out of get_extra_state"
            )
        if tensor.is_meta:
            raise LimbeckError(f"{task}: {name!r} has no values (device meta); load the weights first")
        if tensor.numel() and _place(tensor) in seen:
            continue
        seen.add(_place(tensor))
        # A view of a larger storage would otherwise be written beside its neighbours, which safetensors
        # refuses.
        unique[name] = tensor.detach().cpu().contiguous().clone()
    return unique


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def accept_renamed(module: nn.Module, renames: Sequence[tuple[str, str]]) -> None:
    """Lets `module` load state dicts whose names match a pattern of `renames`, replaced as `re.sub` does."""
    # Typed loosely: the method has no annotations.
    hooked: Any = module
    hooked.register_load_state_dict_pre_hook(partial(_rename, tuple(renames)))


def _rename(
    renames: tuple[tuple[str, str], ...],
    _module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    *_: object,
) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        renamed = name.removeprefix(prefix)
        for pattern, replacement in renames:
            renamed = re.sub(pattern, replacement, renamed)
        if prefix + renamed != name:
            state[prefix + renamed] = state.pop(name)
