"""One dry forward of a model, and every call of a module in it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models import forward_of, unwrapped
from limbeck.models.attention import attending_eagerly, attends
from limbeck.models.embeddings import EMBEDDING
from limbeck.models.forward import ATTENTION, HIDDEN, STACKED, evaluating
from limbeck.models.huggingface import is_transformers
from limbeck.pairing.flow import Flow, tensors_in
from limbeck.taps import LOGITS
from limbeck.types import Batch

ROWS, LENGTH = 2, 32
"""Samples that the dry forward takes, and tokens of each: all that it computes is kept while it runs."""

DROPOUTS = tuple(getattr(nn.modules.dropout, name) for name in nn.modules.dropout.__all__)
"""What gives something else in training than in a dry forward."""

Shape = tuple[int, ...]


@dataclass(eq=False)
class Call:
    """One call of a module: its path, what it was given and gave (the first tensor of each: shape and place in the
    flow), the call around it and those inside. Calls are numbered in the order in which they end."""

    name: str
    module: nn.Module
    outer: Call | None = None
    given: Shape = ()
    came_from: int | None = None
    shape: Shape = ()
    place: int | None = None
    order: int = 0
    inside: list[Call] = field(default_factory=list)

    @property
    def weights(self) -> int:
        """How many matrices and kernels it has."""
        return sum(parameter.dim() > 1 for parameter in self.module.parameters())


@dataclass(frozen=True, slots=True)
class Recording:
    """What a dry forward showed.

    Attributes:
        root: the model's own call.
        calls: all others, in the order in which they began.
        taps: those whose outputs can be tapped: of modules that ran once, on a batch, and all of the input goes
            through what they gave.
        batch: how many rows it took.
        embedding: the name and shape of the embedding of a model that gives one in the place of logits, or None.
        hidden: the names and shapes of a transformers model's hidden states after each layer that are on the main path.
        size: of the input, without batch and channels: (height, width) of images, (length,) of texts.
        passes: the places that all paths from the input to the logits go through.
        logits: their shape; empty for a model that gives something else.
        attention: the name and shape of the last attention of a transformers model, or None.
    """

    root: Call
    calls: tuple[Call, ...]
    taps: tuple[Call, ...]
    batch: int
    size: Shape
    passes: frozenset[int]
    logits: Shape
    attention: tuple[str, Shape] | None
    embedding: tuple[str, Shape] | None
    hidden: tuple[tuple[str, Shape], ...]

    def outermost(self, call: Call) -> Call:
        """The outermost module whose output is that of `call`; its path is the shortest."""
        while (outer := call.outer) is not None and outer in self.taps:
            if (outer.place, outer.shape) != (call.place, call.shape):
                break
            call = outer
        return call


def record(model: nn.Module, batch: Batch, owner: str) -> Recording:
    """Runs `model` on the first rows of `batch`, in eval mode and without gradient, and leaves it as it was.

    Raises:
        LimbeckError: it is a graph without modules, or gives no logits.
    """
    inner: Any = unwrapped(model)
    _refuse_graphs(inner, owner)
    prefix = next(f"{name}." if name else "" for name, module in model.named_modules() if module is inner)
    device = next((parameter.device for parameter in inner.parameters()), torch.device("cpu"))
    main = inner.main_input_name if is_transformers(inner) else "inputs"
    main = main if main in batch else "inputs"
    if main not in batch:
        raise LimbeckError(f"the {owner} {type(inner).__name__} needs {main!r}, the batch has {', '.join(batch)}")
    few = {name: each.to(device) for name, each in _few(batch, main).items()}
    source = few[main]
    flow, root = Flow(source), Call("", inner)
    watch = _Watch(flow, root)
    options = (ATTENTION, HIDDEN) if attends(inner) else ()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(inner))
        if "torch._dynamo" in sys.modules:  # a compiled part would hide its own
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if options:
            stack.enter_context(attending_eagerly(inner))
        for name, module in inner.named_modules():
            if module is not inner:
                stack.enter_context(watch.watching(prefix + name, module))
        stack.enter_context(flow)
        signal = forward_of(inner, options)(few)
    states = {name: each for name, each in signal.items() if name.partition(".")[0] in STACKED}
    answers = [LOGITS] if LOGITS in signal else [name for name in signal if name not in states]
    ends = [place for name in answers if (place := flow.place(signal[name])) is not None]
    if not ends:
        raise LimbeckError(
            f"the {owner} {type(inner).__name__} computes outside of what PyTorch shows, so its input cannot be "
            "followed to its logits; name the taps"
        )
    calls = tuple(_walk(root))
    runs, passes = Counter(call.name for call in calls), flow.passes(ends)
    return Recording(
        root=root,
        calls=calls,
        taps=tuple(
            call
            for call in calls
            if runs[call.name] == 1 and call.place in passes and len(call.shape) > 1 and call.shape[0] == len(source)
        ),
        batch=len(source),
        size=tuple(source.shape[2:] if source.is_floating_point() else source.shape[1:]),
        passes=passes,
        logits=tuple(signal[LOGITS].shape) if LOGITS in signal else (),
        attention=next(reversed(_listed(states, "attention")), None),
        embedding=(EMBEDDING, tuple(signal[EMBEDDING].shape)) if EMBEDDING in answers else None,
        hidden=tuple(_listed({name: each for name, each in states.items() if flow.place(each) in passes}, "hidden")),
    )


def _few(batch: Batch, main: str) -> dict[str, Tensor]:
    """A few rows, and of texts a few tokens of each."""
    source = batch[main]
    few = {name: each[:ROWS] if len(each) == len(source) else each for name, each in batch.items()}
    if source.dim() != 2 or source.is_floating_point() or any(each.dim() > 2 for each in few.values()):
        return few
    length = source.shape[1]
    return {
        name: each[:, :LENGTH] if each.dim() == 2 and each.shape[1] == length else each for name, each in few.items()
    }


def _listed(states: dict[str, Tensor], kind: str) -> list[tuple[str, Shape]]:
    """Names and shapes of `hidden.1`, `hidden.2`, … or `attention.0`, … in their order."""
    names = [name for name in states if name.startswith(f"{kind}.") and name != "hidden.0"]
    return [(name, tuple(states[name].shape)) for name in sorted(names, key=lambda name: int(name.split(".")[1]))]


class _Watch:
    """Builds the tree of calls while a model runs."""

    def __init__(self, flow: Flow, root: Call) -> None:
        self._flow = flow
        self._open = [root]
        self._count = 0

    def watching(self, name: str, module: nn.Module) -> ExitStack:
        """Watches a module's calls until it is closed."""

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            call = Call(name, module, self._open[-1])
            given = next((each for each in tensors_in((args, kwargs)) if each.is_floating_point()), None)
            if given is not None:
                call.given, call.came_from = tuple(given.shape), self._flow.place(given)
            self._open[-1].inside.append(call)
            self._open.append(call)

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            call = self._open.pop()
            call.order = self._count = self._count + 1
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, Tensor):
                call.shape, call.place = tuple(first.shape), self._flow.place(first)

        stack = ExitStack()
        stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(after).remove)
        return stack


def _walk(call: Call) -> Iterator[Call]:
    for each in call.inside:
        yield each
        yield from _walk(each)


def _refuse_graphs(model: nn.Module, owner: str) -> None:
    for module in model.modules():
        if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
            kind = "scripted or traced" if isinstance(module, torch.jit.ScriptModule) else "a traced graph"
            raise LimbeckError(
                f"the {owner} {type(model).__name__} is {kind}, so its stages cannot be told from their parts; name "
                "the taps, or give the model that it was made from"
            )
    if next(model.children(), None) is None:
        raise LimbeckError(f"the {owner} {type(model).__name__} has no modules inside to tap; compare its logits")
