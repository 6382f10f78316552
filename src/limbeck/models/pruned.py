"""A pruned model: which of its parts are smaller than their builder makes them, as JSON, and how they become so again.

A configuration has one number for all layers; a pruned model may have another in each. So its card says of every
changed submodule which plain attributes it has now (`out_channels`, `num_heads`, …) and the shapes of its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from limbeck.errors import LimbeckError

PLAN = "_limbeck_pruning"
"""The attribute under which a pruned model keeps its plan; copies of the model have it too."""

AGAIN = "prune the model again, or build it with the options that it was built with"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrunedPart:
    """What one submodule has now: plain attributes by name, and the shapes of its own parameters and buffers."""

    attributes: Mapping[str, Any]
    shapes: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """The changed submodules by their paths, the model itself being the empty path."""

    parts: Mapping[str, PrunedPart]

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            path: {
                "attributes": {name: _listed(value) for name, value in part.attributes.items()},
                "shapes": {name: list(shape) for name, shape in part.shapes.items()},
            }
            for path, part in self.parts.items()
        }


def plan_from_json(data: Any) -> PruningPlan:
    """The plan that `as_json` wrote.

    Raises:
        TypeError, ValueError, KeyError: it is not one.
    """
    parts = {}
    for path, part in dict(data).items():
        shapes = {str(name): tuple(map(int, shape)) for name, shape in dict(part["shapes"]).items()}
        parts[str(path)] = PrunedPart(dict(part["attributes"]), shapes)
    return PruningPlan(parts)


def pruning_of(model: nn.Module) -> PruningPlan | None:
    """The plan of a pruned model; None where it has its builder's shape."""
    found = vars(model).get(PLAN)
    return found if isinstance(found, PruningPlan) else None


def mark_pruned(model: nn.Module, before: nn.Module) -> PruningPlan:
    """Notes in `model` what of it differs from `before`, the same model with nothing removed, and gives that plan.

    What was removed from `before` earlier is in the plan too.

    Raises:
        LimbeckError: a changed tensor is in no saved file, or the modules are not of one structure.
    """
    earlier = pruning_of(before)
    parts = dict(earlier.parts) if earlier is not None else {}
    old = dict(before.named_modules())
    for path, module in model.named_modules():
        if path not in old:
            raise LimbeckError(f"prune: {type(model).__name__} got a module {path!r} that it did not have")
        part = _changed(old[path], module, path)
        if part is not None:
            known = parts.get(path, PrunedPart({}, {}))
            parts[path] = PrunedPart({**known.attributes, **part.attributes}, {**known.shapes, **part.shapes})
    plan = PruningPlan(parts)
    setattr(model, PLAN, plan)
    return plan


def _changed(old: nn.Module, new: nn.Module, path: str) -> PrunedPart | None:
    before, after = vars(old), vars(new)
    attributes = {
        name: after[name]
        for name, value in before.items()
        if not name.startswith("_") and _plain(value) and name in after and after[name] != value
    }
    shapes = {}
    tensors = dict(_tensors(new))
    for name, tensor in _tensors(old):
        if name in tensors and tensors[name].shape != tensor.shape:
            if name in new._non_persistent_buffers_set:
                raise LimbeckError(
                    f"prune: the buffer {name!r} of {path!r} would change its shape, but is in no saved file, so the "
                    "model could not be loaded; register it as persistent, or keep the layers around it"
                )
            shapes[name] = tuple(tensors[name].shape)
    return PrunedPart(attributes, shapes) if attributes or shapes else None


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A module's own parameters and buffers."""
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def install_pruning(model: nn.Module, plan: PruningPlan) -> None:
    """Gives a freshly built `model` the shapes of `plan`, in place; its changed tensors have no values until weights
    are loaded.

    Raises:
        LimbeckError: the plan does not fit the model: a path, an attribute or a tensor that it has not, a value of
            another kind, or a tensor larger than the model's.
    """
    modules = dict(model.named_modules())
    made: dict[int, nn.Parameter] = {}
    for path, part in plan.parts.items():
        if path not in modules:
            raise LimbeckError(f"{type(model).__name__} has no module {path!r} that was pruned; {AGAIN}")
        module = modules[path]
        for name, value in part.attributes.items():
            setattr(module, name, _fitting(module, path, name, value))
        tensors = dict(_tensors(module))
        for name, shape in part.shapes.items():
            old = tensors.get(name)
            if old is None or len(old.shape) != len(shape) or not _within(shape, tuple(old.shape)):
                has = "none" if old is None else f"one of {tuple(old.shape)}"
                raise LimbeckError(
                    f"{type(model).__name__}: a tensor {name!r} of shape {shape} was left of {path!r}, which has {has}"
                    f"; {AGAIN}"
                )
            if isinstance(old, nn.Parameter):
                # Tied parameters stay tied.
                if id(old) not in made:
                    made[id(old)] = nn.Parameter(old.detach().new_empty(shape), requires_grad=old.requires_grad)
                module.register_parameter(name, made[id(old)])
            else:
                module.register_buffer(name, old.new_empty(shape), name not in module._non_persistent_buffers_set)
    setattr(model, PLAN, plan)


def _within(shape: Shape, old: Shape) -> bool:
    """Pruning only removes, so a plan cannot ask for memory without end."""
    return all(1 <= now <= before for now, before in zip(shape, old, strict=True))


def _fitting(module: nn.Module, path: str, name: str, value: Any) -> Any:
    own = vars(module).get(name)
    given = tuple(value) if isinstance(value, list) else value
    if not _plain(own) or not _plain(given) or isinstance(own, tuple) is not isinstance(given, tuple):
        raise LimbeckError(
            f"{type(module).__name__} at {path!r}: cannot set {name!r} from {own!r} to {value!r} as the plan of its "
            f"pruning says; {AGAIN}"
        )
    return given


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(type(each) is int for each in value)
    return type(value) in (int, float)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
