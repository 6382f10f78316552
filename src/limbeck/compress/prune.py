"""Structured pruning: a smaller copy of a model, without the channels, heads and inner units that matter least."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.compress.blocks import KNOWN, layout_of, prune_blocks
from limbeck.compress.graph import inside, prune_graph, tensors_in
from limbeck.compress.importance import Criterion, Judge, LossOf, gradients_of, known_criterion
from limbeck.compress.targets import milliseconds_of, search_flops, search_latency
from limbeck.errors import LimbeckError, nearest
from limbeck.metrics import size_of
from limbeck.models import forward_of, unwrapped
from limbeck.models.detection.dense import DenseDetector
from limbeck.models.forward import evaluating
from limbeck.models.huggingface import held, is_transformers
from limbeck.models.keras import KerasModule
from limbeck.models.lora import has_adapters
from limbeck.models.pruned import mark_pruned
from limbeck.models.reused import plan_of
from limbeck.types import Batch

Scope = Literal["layer", "model"]
MOST = 0.95
"""The largest share that a search tries."""
_BACKBONE = "network.backbone.backbone"


@dataclass(frozen=True, slots=True)
class Removed:
    """What one layer lost: its path, the attribute that counts it, and the number before and after."""

    path: str
    what: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """What `prune` gives.

    Attributes:
        module: the smaller model, in the mode of the one it was made from; `limbeck.save` and `load` know it.
        ratio: the share of channels, heads and inner units that was asked of each layer.
        removed: what each layer lost.
        flops, parameters: before and after, FLOPs of evaluating one sample of the example.
        milliseconds: measured of the smaller model where latency was the target.
    """

    module: nn.Module
    ratio: float
    removed: tuple[Removed, ...]
    flops: tuple[float, float]
    parameters: tuple[int, int]
    milliseconds: float | None = None

    @property
    def flops_share(self) -> float:
        """The share of the FLOPs that is left."""
        return self.flops[1] / self.flops[0]


def prune(
    model: nn.Module,
    example: Batch,
    *,
    by: Criterion = "magnitude",
    ratio: float | None = None,
    flops: float | None = None,
    latency: float | None = None,
    scope: Scope = "layer",
    keep: Collection[str] = (),
    within: str | None = None,
    round_to: int = 1,
    loss: LossOf | None = None,
    batches: Iterable[Batch] | None = None,
    measure: Callable[[nn.Module], float] | None = None,
    seed: int = 0,
) -> Pruned:
    """A smaller copy of `model` with the least of its channels, heads and inner units removed; distil into it next.

    Convolutional and timm's vision transformers are pruned along their dependency graph (torch-pruning): channels, and
    of attention whole heads. transformers' models whose blocks limbeck knows (BERT, RoBERTa, DistilBERT, GPT-2, Llama,
    Mistral, Qwen, T5, BART, Marian, ViT and kin) lose heads and inner units and keep their width. What the model gives
    keeps its shape: layers whose channels are outputs stay whole.

    Args:
        example: a batch as the model takes it; latency is measured with it, FLOPs are those of one of its samples.
        by: `magnitude` (squared L2 norm of filters; Li et al. 2017, arXiv:1608.08710), `taylor` (what the loss is about
            to change; Molchanov et al. 2019, arXiv:1906.10771), `bn-scale` (|γ| of BatchNorm; Liu et al. 2017,
            arXiv:1708.06519), `random`.
        ratio: the share to remove of each layer, above 0 and below 1. 0.5 where no target is given.
        flops: the share of FLOPs to leave; the ratio is searched that comes nearest.
        latency: milliseconds that `example` may take, as `measure` says; the smallest ratio is searched that takes no
            more.
        scope: whether every layer loses the same share, or all are ranked together (`model`).
        keep: paths of modules that stay whole.
        within: the path of the module that is pruned, and that gives what it gave; the whole model by default, and of a
            dense detector its backbone.
        round_to: what is left of a layer is a multiple of this where it has so many; 8 suits most processors.
        loss, batches: for `taylor`: (model, batch) -> scalar, and batches of real data with what that needs.
        measure: from a module to milliseconds; by default the median in eager PyTorch on this machine, one thread, the
            best of several measures.
        seed: of `random`.

    Raises:
        LimbeckError: the model cannot be pruned (and why), a target cannot be reached, or an argument is out of range.
    """
    by = known_criterion(by)
    targets = {"ratio": ratio, "flops": flops, "latency": latency}
    given = [name for name, value in targets.items() if value is not None]
    if len(given) > 1:
        raise LimbeckError(f"prune: {' and '.join(given)} are different targets; give one")
    for name in ("ratio", "flops"):
        value = targets[name]
        if value is not None and not 0 < value < 1:
            raise LimbeckError(f"prune: expected {name} above 0 and below 1, got {value}")
    if scope not in ("layer", "model"):
        raise LimbeckError(f"prune: unknown scope {scope!r}{nearest(scope, ('layer', 'model'))}")
    source = unwrapped(model)
    _check(source, by, (*keep, *([] if within is None else [within])))
    device = next(source.parameters()).device
    example = {name: tensor.to(device) for name, tensor in example.items()}
    gradients = gradients_of(copy.deepcopy(source), loss, batches) if by == "taylor" else {}
    # A module in keep stays whole with all that is in it.
    kept = {name for name, _ in source.named_modules() if any(inside(name, path) for path in keep)}
    part = (_BACKBONE if isinstance(source, DenseDetector) else "") if within is None else within

    def smaller(share: float) -> nn.Module:
        changed = copy.deepcopy(source)
        judge = Judge(by, gradients, torch.Generator().manual_seed(seed))
        options: dict[str, Any] = {"across": scope == "model", "round_to": round_to, "keep": kept}
        layout = layout_of(changed)
        if layout is not None:
            prune_blocks(changed, layout, share, judge, **options)
        else:
            prune_graph(changed, example, share, judge, within=part, **options)
        return changed

    def cost(module: nn.Module) -> float:
        return size_of(module, example, forward_of(module))["flops"]

    dense = cost(source)
    milliseconds = None
    if flops is not None:
        share = search_flops(lambda each: cost(smaller(each)) / dense, flops, MOST)
    elif latency is not None:
        clock = measure or (lambda module: milliseconds_of(module, example))
        share, milliseconds = search_latency(lambda each: clock(smaller(each)), clock(source), latency, MOST)
    else:
        share = 0.5 if ratio is None else ratio
    result = smaller(share)
    plan = mark_pruned(result, source)
    _same_outputs(source, result, example)
    before, modules = dict(source.named_modules()), dict(result.named_modules())
    removed = tuple(
        Removed(path, name, vars(before[path])[name], vars(modules[path])[name])
        for path, part in plan.parts.items()
        for name in part.attributes
        if type(vars(before[path])[name]) is int and vars(before[path])[name] != vars(modules[path])[name]
    )
    if not removed:
        raise LimbeckError(
            f"prune: nothing of {type(source).__name__} can be removed at {share:.3g} by {by!r}: its layers are too "
            "small, give its outputs, or are in keep=; take a larger ratio, another criterion, or a smaller model"
        )
    counts = (_parameters(source), _parameters(result))
    return Pruned(result, share, removed, (dense, cost(result)), counts, milliseconds)


def _parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def _check(model: nn.Module, by: Criterion, named: Collection[str]) -> None:
    """Raises LimbeckError where `model` is none that can be pruned."""
    kind = type(model).__name__
    if isinstance(model, KerasModule):
        raise LimbeckError(f"prune: {kind} keeps its layers in Keras, where they cannot be cut; prune a PyTorch model")
    if next(model.parameters(), None) is None:
        raise LimbeckError(f"prune: {kind} has no parameters")
    if plan_of(model) is not None or has_adapters(model):
        raise LimbeckError(f"prune: {kind} has a reused head or adapters; prune first and add them to what is left")
    names = [name for name, _ in model.named_modules()]
    for path in named:
        if path not in names:
            raise LimbeckError(f"prune: {kind} has no module {path!r}{nearest(path, names)}")
    inner: Any = held(model)
    if is_transformers(inner) and inner.main_input_name == "input_ids" and layout_of(model) is None:
        raise LimbeckError(
            f"prune: limbeck does not know the blocks of {inner.config.model_type!r} models; known: "
            f"{', '.join(sorted(KNOWN))}; take a smaller model instead"
        )
    normalises = any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in model.modules())
    if by == "bn-scale" and not (normalises and layout_of(model) is None):
        raise LimbeckError(f"prune: {kind} has no BatchNorm to read scales from; take by='magnitude' or 'taylor'")


def _same_outputs(before: nn.Module, after: nn.Module, example: Batch) -> None:
    """Raises LimbeckError unless both give tensors of the same shapes, and `after` trains wherever `before` does."""
    for training in (False, True):
        try:
            expected = _shapes(before, example, training)
        except Exception:  # a model that does not run so before has nothing to lose
            if not training:
                raise
            return
        try:
            got = _shapes(after, example, training)
        except Exception as error:  # torch has many classes for sizes that do not fit
            found = str(error).strip().splitlines() or [type(error).__name__]
            where = "in training mode" if training else "any more"
            raise LimbeckError(
                f"prune: {type(before).__name__} does not run {where} with what would be left of it ({found[0]}); name "
                "the parts around that in keep=, or take a smaller model instead"
            ) from None
        if got != expected:
            raise LimbeckError(
                f"prune: {type(before).__name__} would give {got} instead of {expected}; name the layers that make its "
                "outputs in keep="
            )
    if _ties(before) != _ties(after):
        raise LimbeckError(
            f"prune: layers of {type(before).__name__} that share weights would be cut apart; keep= them"
        )


def _shapes(model: nn.Module, example: Batch, training: bool) -> list[tuple[int, ...]]:
    """The shapes of what `model` gives; in training mode of a copy, as statistics change."""
    model = copy.deepcopy(model).train() if training else model
    given: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _inputs, output: given.append(output))
    try:
        with torch.no_grad(), torch.random.fork_rng():
            if training:
                forward_of(model)(example)
            else:
                with evaluating(model):
                    forward_of(model)(example)
    finally:
        handle.remove()
    return [tuple(tensor.shape) for tensor in tensors_in(given)]


def _ties(model: nn.Module) -> list[list[str]]:
    """The names of parameters that are one."""
    names: dict[int, list[str]] = {}
    tensors: list[Tensor] = []  # kept alive, so that no two have one id
    for name, each in model.named_parameters(remove_duplicate=False):
        tensors.append(each)
        names.setdefault(id(each), []).append(name)
    return sorted(each for each in names.values() if len(each) > 1)
