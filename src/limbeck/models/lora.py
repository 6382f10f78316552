"""LoRA: a transformers model of which only low-rank additions to some of its linear layers are trained.

Hu et al. 2021, arXiv:2106.09685. The layers are those of `peft`, put into the model itself, so that everything that
takes the model takes it still; `limbeck.save` writes the plain model with the additions in its weights.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import first_line, is_transformers

QUERY_AND_VALUE = frozenset(
    {"query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "query_proj", "value_proj"}
    | {"c_attn", "query_key_value", "qkv_proj", "Wqkv"}
)
"""What the projections that the paper adapts are called in transformers; in the last ones they are one layer."""


@dataclass(frozen=True, slots=True)
class Lora:
    """What is added to a layer of weight W: `alpha / rank · B A`, of which B begins at zero.

    Attributes:
        rank: rows of A, columns of B.
        alpha: the scale, times the rank.
        dropout: the share of the layer's inputs that B A does not see in training.
        targets: the last names of the layers (`query`, `q_proj`), or their paths; "all" for every linear layer but the
            head; left out, the projections of queries and values.

    Raises:
        LimbeckError: a number is out of its range.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Sequence[str] | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or self.rank < 1:
            raise LimbeckError(f"lora: expected a rank of 1 or more, got {self.rank!r}")
        if not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise LimbeckError(
                f"lora: expected alpha above 0 and dropout from 0 to below 1, got {self.alpha!r} and {self.dropout!r}"
            )


def add_adapters(model: nn.Module, settings: Lora | Mapping[str, Any]) -> nn.Module:
    """Puts adapters into a transformers model, in place; of its own weights only a classifier's head is trained still.

    Before training the outputs are the model's own. `settings` may be the mapping of a recipe:
    `{rank: 8, alpha: 16, targets: [query, value]}`.

    Returns:
        The model.

    Raises:
        LimbeckError: it is not a transformers model or has adapters already, a setting is not known, a target is no
            linear layer or shares its weight, or `peft` is not installed.
    """
    wanted = settings if isinstance(settings, Lora) else _read(settings)
    inner: Any = unwrapped(model)
    if not is_transformers(inner):
        raise LimbeckError(f"lora: adapts transformers models, not a {type(inner).__name__}; leave the option out")
    if has_adapters(inner):
        raise LimbeckError("lora: the model has adapters already; save it, which merges them, and load it again")
    try:
        import peft
    except ImportError:
        raise LimbeckError('lora: needs peft; pip install "limbeck[text]"') from None
    head = _head(inner)
    paths = _targets(inner, wanted.targets, head)
    # transformers' Conv1D, which GPT-2 is made of, has its weight the other way round.
    turned = not isinstance(inner.get_submodule(paths[0]), nn.Linear)
    values: dict[str, Any] = {"r": wanted.rank, "lora_alpha": wanted.alpha, "lora_dropout": wanted.dropout}
    config = peft.LoraConfig(target_modules=paths, fan_in_fan_out=turned, **values)
    try:
        peft.inject_adapter_in_model(config, inner)
    except ValueError as error:
        raise LimbeckError(f"lora: peft cannot adapt {type(inner).__name__} ({first_line(error)})") from None
    for name, parameter in inner.named_parameters():
        if name in head:
            parameter.requires_grad_(True)
    return model


def merged(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict `tensors` of a model with adapters as that of the plain model, the additions in its weights.

    That of a model without adapters stays as it is.
    """
    found = dict(tensors)
    for path, layer in _adapted(model).items():
        prefix = f"{path}." if path else ""
        own = f"{prefix}base_layer."
        for name in [name for name in found if name.startswith(f"{prefix}lora_")]:
            del found[name]
        with torch.no_grad():
            deltas = [] if layer.merged else [layer.get_delta_weight(name).cpu() for name in layer.active_adapters]
        for name in [name for name in found if name.startswith(own)]:
            tensor = found.pop(name)
            if name == f"{own}weight":
                tensor = sum(deltas, start=tensor).to(tensor.dtype)
            found[prefix + name.removeprefix(own)] = tensor
    return found


def has_adapters(model: nn.Module) -> bool:
    """Whether some layers of `model` are adapted."""
    return bool(_adapted(model))


def _read(settings: Mapping[str, Any]) -> Lora:
    if not isinstance(settings, Mapping):
        raise LimbeckError(f"lora: expected settings such as {{rank: 8}}, got {settings!r}")
    known = [field.name for field in fields(Lora)]
    for name in settings:
        if name not in known:
            raise LimbeckError(f"lora: unknown setting {name!r}{nearest(str(name), known)}")
    return Lora(**settings)


def _adapted(model: nn.Module) -> dict[str, Any]:
    """The adapted layers of a model by their path, without importing peft to find out."""
    layers = sys.modules.get("peft.tuners.lora.layer")
    if layers is None:
        return {}
    return {path: module for path, module in model.named_modules() if isinstance(module, layers.LoraLayer)}


def _head(model: Any) -> set[str]:
    """The parameters of a classifier's own head, which may be untrained: they are trained whole."""
    base = model.base_model
    if base is model or model.get_output_embeddings() is not None:
        return set()
    prefix = f"{model.base_model_prefix}."
    return {name for name, _ in model.named_parameters() if not name.startswith(prefix) or "pooler." in name}


def _targets(model: Any, wanted: Sequence[str] | str | None, head: set[str]) -> list[str]:
    """The paths of the layers to adapt."""
    from transformers.pytorch_utils import Conv1D

    kinds = nn.Linear | Conv1D
    linear = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
    shared = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    free = [path for path, each in linear.items() if id(each.weight) not in shared and f"{path}.weight" not in head]
    names = sorted({path.rpartition(".")[2] for path in free})
    if wanted is None or wanted == "all":
        outputs = model.get_output_embeddings()
        found = [
            path
            for path in free
            if linear[path] is not outputs and (wanted == "all" or path.rpartition(".")[2] in QUERY_AND_VALUE)
        ]
        if not found:
            raise LimbeckError(
                f"lora: {type(model).__name__} has no layer that limbeck knows as its queries' or values'; "
                f"name targets: {', '.join(names)}"
            )
        return found
    found = []
    for target in [wanted] if isinstance(wanted, str) else wanted:
        matching = [path for path in linear if path == target or path.endswith(f".{target}")]
        if not matching:
            raise LimbeckError(f"lora: {type(model).__name__} has no linear layer {target!r}{nearest(target, names)}")
        kept = [path for path in matching if path not in free]
        if kept:
            why = (
                "shares its weight with the embeddings" if id(linear[kept[0]].weight) in shared else "is trained whole"
            )
            raise LimbeckError(f"lora: {kept[0]} {why}, so it takes no adapter; leave it out of targets")
        found += matching
    return list(dict.fromkeys(found))
