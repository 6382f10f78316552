"""BatchNorm folded into the layer before it: a frozen teacher's normalisation costs nothing."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from limbeck.taps import SignalReader
from limbeck.types import Batch, Signal

_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)
_BATCH_NORMS = (torch.batch_norm, nn.functional.batch_norm)


class FoldedModel:
    """A copy of a model in eval mode whose BatchNorms are part of the layers before them.

    y = γ · (W·x + b − μ) / √(σ² + ε) + β is W'·x + b' with W' = W · γ / √(σ² + ε), computed in float64. A pair is
    folded where a dry run on `batch` shows that nothing but the norm sees what the layer gives, and that nobody taps
    it. The copy shares every other tensor with the model.

    Attributes:
        model: the copy, or None where there is nothing to fold, the model cannot be copied, or the copy does not give
            the model's answers on `batch`.
    """

    def __init__(self, model: nn.Module, batch: Batch, taps: Collection[str]) -> None:
        self._sources: list[Tensor] = []
        self.model: nn.Module | None = None
        if any(isinstance(module, _NORMS) for module in model.modules()):
            with torch.no_grad():
                self.model = self._fold(model, batch, taps)
        self._versions = self._seen()

    def _fold(self, model: nn.Module, batch: Batch, taps: Collection[str]) -> nn.Module | None:
        pairs, answers = _foldable(model, batch, taps)
        if not pairs:
            return None
        try:
            copied = _shallow(model)
        except (TypeError, RuntimeError, NotImplementedError):
            return None  # some modules cannot be copied
        for layer, norm in pairs:
            self._sources += [*_tensors(model.get_submodule(layer)), *_tensors(model.get_submodule(norm))]
            _fold(copied, layer, norm)
        return copied if _close(SignalReader(copied, taps, "teacher")(batch), answers) else None

    @property
    def current(self) -> bool:
        """Whether the folded layers still hold what they were folded from; a teacher may be loaded again."""
        return not self._sources or self._seen() == self._versions

    def _seen(self) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), tensor._version) for tensor in self._sources]


class _Uses(TorchFunctionMode):
    """Counts, for each tensor that is watched, the calls that take it and give tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, Tensor] = {}
        self.norms: Counter[int] = Counter()
        self.others: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(True for _ in _tensors_in(result)):
            normalises = func in _BATCH_NORMS
            for tensor in _tensors_in((args, kwargs)):
                if id(tensor) in self.watched:
                    (self.norms if normalises else self.others)[id(tensor)] += 1
        return result


def _foldable(model: nn.Module, batch: Batch, taps: Collection[str]) -> tuple[list[tuple[str, str]], Signal]:
    """Names of (layer, norm) that may become one, and the model's answers, from one run on `batch`."""
    names = {module: name for name, module in model.named_modules()}
    owners = Counter(id(tensor) for module in model.modules() for tensor in module._parameters.values())
    made: dict[int, nn.Module] = {}
    taken: dict[nn.Module, Tensor | None] = {}
    runs: Counter[nn.Module] = Counter()
    uses = _Uses()

    def after_layer(module: nn.Module, _args: Any, output: Any) -> None:
        runs[module] += 1
        made[id(output)] = module
        uses.watched[id(output)] = output  # kept alive, so that no other tensor gets its id

    def before_norm(module: nn.Module, args: Any) -> None:
        runs[module] += 1
        taken[module] = args[0] if args else None  # kept alive too: a later layer's output must not get its id

    handles = []
    for name, module in model.named_modules():
        hooked = module._forward_hooks or module._forward_pre_hooks
        if (name in taps and type(module) in _LINEAR) or hooked or nn.utils.parametrize.is_parametrized(module):
            continue
        if type(module) in _LINEAR:
            handles.append(module.register_forward_hook(after_layer))
        elif type(module) in _NORMS and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        with uses:
            answers = SignalReader(model, taps, "teacher")(batch)
    finally:
        for handle in handles:
            handle.remove()
    given = {id(tensor) for tensor in answers.tensors.values()}
    pairs = []
    for norm, entered in taken.items():
        key = id(entered)
        layer = made.get(key)
        if layer is None or runs[layer] != 1 or runs[norm] != 1 or key in given:
            continue
        shared = any(owners[id(parameter)] > 1 for parameter in layer.parameters())
        spatial = uses.watched[key].dim() == 2 or not isinstance(layer, nn.Linear)
        if uses.norms[key] == 1 and uses.others[key] == 0 and not shared and spatial:
            pairs.append((names[layer], names[norm]))
    return pairs, answers


def _shallow(model: nn.Module) -> nn.Module:
    """A copy of the modules around the same tensors."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _fold(model: nn.Module, layer_name: str, norm_name: str) -> None:
    layer: Any = model.get_submodule(layer_name)
    norm: Any = model.get_submodule(norm_name)
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = -mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias.double() * scale
    if norm.affine:
        shift = shift + norm.bias.double()
    weight = layer.weight.double() * scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype), requires_grad=False)
    parent, _, last = norm_name.rpartition(".")
    # timm's norm also holds the activation that follows it.
    rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
    setattr(model.get_submodule(parent), last, rest.eval())


def _close(folded: Signal, answers: Signal) -> bool:
    """Whether two sets of answers differ by rounding only."""
    for name, expected in answers.tensors.items():
        got = folded.tensors[name].double()
        size = float(expected.double().abs().max()) if expected.numel() else 0.0
        if not bool(((got - expected.double()).abs() <= 1e-3 * size + 1e-6).all()):
            return False
    return True


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _tensors_in(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors_in(each)
