"""Taps: the output of any module of a model, captured by its path while the model runs."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models import forward_of
from limbeck.models.attention import attend_eagerly
from limbeck.models.forward import ATTENTION, evaluating, stack_of, unwrapped
from limbeck.models.heads import head_place
from limbeck.models.huggingface import is_transformers
from limbeck.types import Batch, LinearHead, Signal, dense_logits

log = logging.getLogger(__name__)

LOGITS = "logits"
INPUT = ".input"
"""Ends the name of a tap on what enters a module, rather than on what it gives: `fc.input`."""
CHECKED = 16
"""Tokens on which a head is tried."""


def module_at(model: nn.Module, path: str, owner: str) -> nn.Module:
    """The module at `path` (`layer3`, `encoder.layer.5`, or `fc.input`, whose module is `fc`); an unknown path is an
    error that names the nearest one."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    modules.pop("", None)
    path = path if path in modules else path.removesuffix(INPUT)
    if path not in modules:
        raise LimbeckError(f"the {owner} has no module {path!r} to tap{nearest(path, modules)}")
    return modules[path]


@runtime_checkable
class GivesSignals(Protocol):
    """A model that says by which names its forward gives tensors in a dict; others are known when they run."""

    @property
    def signals(self) -> Collection[str]: ...


def signals_given_by(model: nn.Module) -> frozenset[str]:
    """The names of what a model says that its forward gives, beside its logits."""
    inner: Any = unwrapped(model)
    if is_transformers(inner):
        annotated = inspect.signature(inner.forward).return_annotation
        outputs = [each for each in (annotated, *get_args(annotated)) if is_dataclass(each)]
        return frozenset(each.name for output in outputs for each in fields(output))
    return frozenset(inner.signals) if isinstance(inner, GivesSignals) else frozenset()


class SignalReader:
    """Runs a model on a batch and gives its logits and the outputs of the tapped modules as one Signal.

    Hooks live only while the model runs, so the model is left as it was found and a checkpointed recomputation in
    the backward pass captures nothing.

    Raises:
        LimbeckError: a name in `names` is neither `logits`, nor (of a transformers model) `hidden.N` or `attention.N`,
            nor what the model says that it gives (`GivesSignals`), nor the path of a module, with `.input` for what
            enters it; when called, a tapped module did not run, or without the gradient that the model runs with.
    """

    def __init__(self, model: nn.Module, names: Collection[str], owner: str) -> None:
        options = {name: stack_of(name, model) for name in names if name != LOGITS}
        if ATTENTION in options.values():
            attend_eagerly(model, owner)
        self._forward = forward_of(model, {option for option in options.values() if option is not None})
        self._named = [name for name, option in options.items() if option is not None]
        if LOGITS in names:
            self._named.append(LOGITS)
        given = signals_given_by(model) & {name for name, option in options.items() if option is None}
        self._named += sorted(given)
        tapped = [name for name, option in options.items() if option is None and name not in given]
        self._taps = {name: module_at(model, name, owner) for name in tapped}
        self._enters = self._taps.keys() - {name for name, _ in model.named_modules()}
        self._owner = owner
        self._head = head_place(model)
        self._model = model
        self._head_is_right: bool | None = None

    @property
    def has_head(self) -> bool:
        """Whether `with_head` can give this model's logits as a LinearHead."""
        return self._head is not None and self._head_is_right is not False

    def with_head(self, batch: Batch) -> Signal:
        """The signal with its logits as a LinearHead, so that nobody has made them yet.

        Before the first, a few tokens are run both ways; where they differ, because the model does something to its
        logits that limbeck does not know, this and all later signals have dense logits.
        """
        if self._head_is_right is None:
            self._head_is_right = self._same_both_ways(batch)
        return self._without_logits(batch) if self._head_is_right else self(batch)

    def _without_logits(self, batch: Batch) -> Signal:
        assert self._head is not None
        layer, hidden = self._head.layer, []

        def instead(given: Tensor) -> Tensor:
            hidden.append(given)
            return given[..., :1]  # what the model does to its logits then costs nothing

        layer.forward = instead  # type: ignore[assignment,method-assign]
        try:
            signal = self(batch)
        finally:
            del layer.forward
        head = LinearHead(hidden[0], layer.weight, self._head.bias(), self._head.scale, self._head.softcap)
        tensors = {name: tensor for name, tensor in signal.tensors.items() if name != LOGITS}
        return Signal(tensors, signal.masks, {LOGITS: head})

    @torch.no_grad()
    def _same_both_ways(self, batch: Batch) -> bool:
        few = {name: tensor[:1, :CHECKED] if tensor.dim() == 2 else tensor[:1] for name, tensor in batch.items()}
        with evaluating(self._model):
            expected = self(few)[LOGITS].double()
            head = self._without_logits(few).targets[LOGITS]
        assert isinstance(head, LinearHead)
        given = dense_logits(head).double()
        same = given.shape == expected.shape and bool(
            ((given - expected).abs() <= 2e-2 * expected.abs().amax(-1, keepdim=True) + 1e-4).all()
        )
        if not same:
            log.warning(
                "the %s %s does something to its logits that limbeck does not know: they are made dense, which costs "
                "memory and time",
                self._owner,
                type(self._model).__name__,
            )
        return same

    def __call__(self, batch: Batch) -> Signal:
        if not self._taps:
            return self._checked(self._forward(batch))
        captured: dict[str, Tensor] = {}
        handles = [
            module.register_forward_hook(self._capture(name, captured), with_kwargs=True)
            for name, module in self._taps.items()
        ]
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
        return self._checked(Signal({**signal.tensors, **captured}, signal.masks))

    def _checked(self, signal: Signal) -> Signal:
        for name in self._named:
            if name not in signal:
                raise LimbeckError(
                    f"the {self._owner} {type(self._model).__name__} gives {', '.join(signal)}, but not {name!r}; name "
                    "one of those in the term, or tap a module"
                )
        return signal

    def _capture(self, name: str, captured: dict[str, Tensor]) -> Any:
        learns, enters = torch.is_grad_enabled(), name in self._enters

        def hook(_module: nn.Module, inputs: Any, options: Any, output: Any) -> None:
            given = (*inputs, *options.values()) if enters else output
            first = given[0] if isinstance(given, tuple) else given
            if not isinstance(first, Tensor):
                raise LimbeckError(
                    f"the {self._owner}'s module {name!r} gives a {type(first).__name__}, not a tensor; "
                    "tap one of its children"
                )
            if learns and not torch.is_grad_enabled():
                raise LimbeckError(
                    f"the {self._owner}'s module {name!r} runs without gradient, so a term on it would teach nothing; "
                    "checkpoint activations with use_reentrant=False, or tap another module"
                )
            captured[name] = first

        return hook
