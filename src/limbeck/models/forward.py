"""How a model is called with a batch, chosen once, and how what it gives becomes a Signal."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.huggingface import is_transformers
from limbeck.types import UNLABELLED, Batch, Signal

_STACKS = {"hidden_states": "hidden", "attentions": "attention"}
"""The tuples of a transformers output, and what their members are called: `hidden.0`, `attention.0`, …"""

STACKED = frozenset(_STACKS.values())

ANSWERS = frozenset({"labels", "start_positions", "end_positions"})
"""What a batch has that models are to find; a transformers model would make its own loss of it."""

TRUTHS = ANSWERS | {"boxes", "box_classes", "box_scores", "keypoints"}
"""What a batch has that is not known where a model is used; a detector makes its own loss of some."""

SPAN = ("start_logits", "end_logits")
"""What a transformers model gives that looks for an answer in a text: together the signal `logits`."""

ANNOTATED = "annotated"
"""What a model may name that makes its own loss: which pictures have an annotation at all, (batch,) boolean."""

ATTENTION, HIDDEN = "output_attentions", "output_hidden_states"
"""The options of a transformers model's forward that make it give `attention.N` and `hidden.N`."""


def stack_of(name: str, model: nn.Module) -> str | None:
    """The option that makes a transformers model give the signal `hidden.2` or `attention.0`; None for other names.

    Raises:
        LimbeckError: the model has fewer layers.
    """
    inner: Any = unwrapped(model)
    kind, _, index = name.partition(".")
    fields = {short: field for field, short in _STACKS.items()}
    if kind not in fields or not index.isdigit() or not is_transformers(inner):
        return None
    layers = getattr(inner.config.get_text_config(), "num_hidden_layers", None)
    last = layers if kind == "hidden" else None if layers is None else layers - 1
    if last is not None and int(index) > last:
        raise LimbeckError(
            f"{type(inner).__name__} has {layers} layers, so its signals end at {kind}.{last}; {name!r} is beyond"
        )
    return f"output_{fields[kind]}"


def forward_of(model: nn.Module, options: Collection[str] = ()) -> Callable[[Batch], Signal]:
    """How `model` gives the signal of a batch; `options` of a transformers model's forward are switched on.

    A plain module is called with `batch["inputs"]`, and with those entries (but labels) that its forward names behind
    its first argument; one that names `annotated` is told which samples have a label, and nothing of it. A transformers
    model is called with the entries that its forward names, except those that it would make a loss of (`labels`,
    `start_positions`, `end_positions`); `inputs` stands for its main input. A tensor is the logits, of a tuple the
    first member is, and of a dict every tensor is a signal; hidden states are `hidden.0`, `hidden.1`, …; `start_logits`
    and `end_logits` together are `logits`, (batch, length, 2).

    Raises:
        LimbeckError: from the call, where the model gives no tensor or the batch lacks its main input.
    """
    inner: Any = unwrapped(model)
    if not is_transformers(inner) and not _reads_tokens(inner):
        named_too = _named_behind_first(inner)

        def plain(batch: Batch) -> Signal:
            known = {name: batch[name] for name in named_too if name in batch}
            if ANNOTATED in named_too and "labels" in batch:
                known[ANNOTATED] = batch["labels"] != UNLABELLED
            output = model(batch["inputs"], **known)
            return Signal({"logits": output}) if type(output) is Tensor else signal_of(output, inner)

        return plain

    main = inner.main_input_name if is_transformers(inner) else "input_ids"
    accepted = frozenset(inspect.signature(inner.forward).parameters) - ANSWERS
    writes = is_transformers(inner) and inner.config.is_encoder_decoder and inner.can_generate()
    decodes = writes and "decoder_input_ids" in accepted
    settings: dict[str, Any] = dict.fromkeys(options, True)
    if "use_cache" in accepted:
        # Nothing is generated; and with a cache, transformers lets the documents of a packed row see each other.
        settings["use_cache"] = False

    def named(batch: Batch) -> Signal:
        arguments: dict[str, Any] = {name: value for name, value in batch.items() if name in accepted}
        if main not in arguments:
            if "inputs" not in batch:
                raise LimbeckError(
                    f"{type(inner).__name__} needs {main!r} (or 'inputs'), the batch has {', '.join(batch)}; "
                    "give the batch that entry"
                )
            arguments[main] = batch["inputs"]
        if decodes and not arguments.keys() & {"decoder_input_ids", "decoder_inputs_embeds"}:
            # Some models would take the source for them, and learn to copy it.
            raise LimbeckError(
                f"{type(inner).__name__} needs 'decoder_input_ids', the batch has {', '.join(batch)}; give the labels "
                "shifted right, as limbeck.sources.texts.PairSet or DataCollatorForSeq2Seq(tokenizer, model) does"
            )
        arguments |= settings
        return signal_of(model(**arguments), inner)

    return named


def without_answers(batch: Batch) -> Batch:
    """What of a batch a model may see where it is measured: a teacher that weighs others by the labels would have the
    answers in its hand."""
    return {name: tensor for name, tensor in batch.items() if name not in TRUTHS}


def _named_behind_first(model: nn.Module) -> tuple[str, ...]:
    """The arguments of a forward behind its first that a batch may have."""
    try:
        return tuple(name for name in list(inspect.signature(model.forward).parameters)[1:] if name not in ANSWERS)
    except (TypeError, ValueError):
        return ()


def _reads_tokens(model: nn.Module) -> bool:
    try:
        return "input_ids" in inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # a forward that is not Python's own says nothing of its arguments
        return False


def signal_of(output: object, model: nn.Module) -> Signal:
    """The signal in what `model` gave: of a dict every tensor, as a model with several heads has no `logits`.

    Raises:
        LimbeckError: where there is no tensor in it.
    """
    if isinstance(output, Tensor):
        return Signal({"logits": output})
    if isinstance(output, Mapping):
        tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
        if tensors.keys() >= {*SPAN} and "logits" not in tensors:
            tensors["logits"] = torch.stack([tensors.pop(name) for name in SPAN], -1)
        for field, name in _STACKS.items():
            members = output.get(field)
            if isinstance(members, (tuple, list)):
                tensors |= {f"{name}.{index}": one for index, one in enumerate(members) if isinstance(one, Tensor)}
        if tensors:
            return Signal(tensors)
        given = f"a dict of {', '.join(map(str, output)) or 'nothing'}"
    elif isinstance(output, (tuple, list)):
        if output and isinstance(output[0], Tensor):
            return Signal({"logits": output[0]})
        given = f"a {type(output).__name__} that begins with {type(output[0]).__name__ if output else 'nothing'}"
    else:
        given = f"a {type(output).__name__}"
    raise LimbeckError(
        f"{type(model).__name__} gave {given}; expected logits: a tensor, a tuple that begins with it, "
        "or a dict of tensors"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Runs the block with `model` in eval mode; every module's own mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and data parallel wrappers."""
    inner: Any = model
    frames = sys.modules.get("torch._dynamo.eval_frame")
    while True:
        if isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = inner.module
        elif frames is not None and isinstance(inner, frames.OptimizedModule):
            inner = inner._orig_mod
        else:
            module: nn.Module = inner
            return module
