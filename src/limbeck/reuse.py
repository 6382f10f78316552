"""A student that answers with its teacher's classifier (SimKD): only a projector in front of it is new.

The teacher's last linear layer is copied, frozen, and put behind the student and a learned projector; the student is
then taught by the squared difference of features alone, with no labels and no temperature:

>>> reused = reuse_head(student, teacher, batch)  # doctest: +SKIP
>>> Distiller(reused.student, reused.teacher, [reused.term()])  # doctest: +SKIP

No loss is new: it is `FeatureMSE`. `limbeck.save` writes the student with projector and classifier, and `limbeck.load`
builds it again wherever it would have built the student as it was.

Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", arXiv:2203.14001.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.losses import FeatureMSE
from limbeck.models import forward_of, unwrapped
from limbeck.models.forward import evaluating
from limbeck.models.reused import HeadPlan, install, plan_of
from limbeck.terms import Schedule, Term
from limbeck.types import Batch

Form = Literal["auto", "map", "vector"]


@dataclass(frozen=True, slots=True, eq=False)
class Reused:
    """What `reuse_head` gives.

    Attributes:
        student: a copy of the student, with projector and classifier.
        teacher: the teacher itself; or a copy, where none of its modules gives just what the student is to match.
        student_tap, teacher_tap: the signals to compare, of one shape.
    """

    student: nn.Module
    teacher: nn.Module
    student_tap: str
    teacher_tap: str

    def term(self, weight: float | Schedule = 1.0) -> Term:
        """The squared difference of features, which is all that the student learns from."""
        return Term(FeatureMSE(), weight, self.student_tap, self.teacher_tap, name="simkd")


@torch.no_grad()
def reuse_head(
    student: nn.Module, teacher: nn.Module, example: Batch, *, form: Form = "auto", factor: int = 2
) -> Reused:
    """Gives the student the teacher's classifier, behind a learned projector; both models stay as they are.

    Heads are found by running `example` through both models: the linear layer whose output is the logits. Where in both
    its input is the mean of a map, the projector is the paper's, of convolutions in front of the pooling, and maps are
    compared ("map"); the larger map is pooled to the smaller. Elsewhere, as in transformers, or where the sizes do not
    divide, vectors are compared ("vector"), and the projector is a linear layer, LayerNorm, ReLU and a linear layer.
    The paper's last ReLU is left out where the teacher's maps have negative values in the example.

    Args:
        student, teacher: modules that give logits. Their classes may differ; the student gets the teacher's.
        example: a batch that both take.
        form: "map" or "vector" insists on one of the two.
        factor: the projector is that many times narrower inside than the teacher's features.

    Raises:
        LimbeckError: a model's logits are not the output of a linear layer, the student's head is a reused one already,
            or the features do not fit the form.
    """
    if factor < 1:
        raise LimbeckError(f"reuse_head factor: expected 1 or more, got {factor}")
    if plan_of(student) is not None:
        raise LimbeckError("reuse_head: the student's head is a reused one already; give the student as it was built")
    here, there = _head_of(student, example, "student"), _head_of(teacher, example, "teacher")
    misfit = _misfit_of_maps(here.pool, there.pool)
    if form == "map" and misfit:
        raise LimbeckError(f"reuse_head: form 'map' does not fit, because {misfit}; take form='vector'")
    maps = form != "vector" and not misfit
    mine, theirs = (here.pool, there.pool) if maps else (here.place, there.place)
    assert mine is not None
    assert theirs is not None
    ours, others = mine.given.shape, theirs.given.shape
    if not maps and ours[:-1] != others[:-1]:
        raise LimbeckError(
            f"reuse_head: the student's head takes shape {tuple(ours)}, the teacher's {tuple(others)}; "
            "all but the width must be equal"
        )
    axis = 1 if maps else -1
    shrinks, widens = maps and ours[-2:] > others[-2:], maps and ours[-2:] < others[-2:]
    plan = HeadPlan(
        head=here.place.path,
        pool=mine.path if maps else "",
        width=ours[axis],
        hidden=max(1, others[axis] // factor),
        head_width=others[axis],
        classes=there.layer.out_features,
        bias=there.layer.bias is not None,
        size=(others[-2], others[-1]) if shrinks else None,
        rectified=bool((theirs.given >= 0).all()),
    )
    changed = copy.deepcopy(unwrapped(student))
    install(changed, plan).load_state_dict(there.layer.state_dict())
    teaching, tap = unwrapped(teacher), theirs.source
    if widens or not tap:
        front = nn.AdaptiveAvgPool2d((ours[-2], ours[-1])) if widens else nn.Identity()
        teaching, tap = copy.deepcopy(teaching), f"{theirs.path}.0"
        teaching.set_submodule(theirs.path, nn.Sequential(front, teaching.get_submodule(theirs.path)))
    return Reused(changed, teaching, plan.tap, tap)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """A module by its path, what it was given, and the path of the module whose output that is (empty: none)."""

    path: str
    given: Tensor
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class _Head:
    """The layer that gives a model's logits, and the module whose mean over a map it takes (None: it takes none)."""

    layer: nn.Linear
    place: _Place
    pool: _Place | None


class _Observer:
    """Follows tensors through a forward pass up to the module at `head`, without keeping them alive."""

    def __init__(self, head: str) -> None:
        self.head = head
        self.place: _Place | None = None
        self.pool: _Place | None = None
        self._pooled: Tensor | None = None
        self._outputs: dict[str, weakref.ref[Tensor]] = {}

    def saw(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        if name == self.head and given is not None:
            self.place = _Place(name, given, self._source(given))
            if self._pooled is None or not torch.equal(self._pooled, given):
                self.pool = None
            return
        first = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(first, Tensor):
            return
        # A module around the pooling sees the same map; the pooling itself comes first. One that pools elsewhere too is
        # no place for a projector.
        new = name not in self._outputs and (self.pool is None or self.pool.given is not given)
        if given is not None and new and _is_mean(first, given):
            self.pool, self._pooled = _Place(name, given, self._source(given)), first.flatten(1)
        self._outputs.pop(name, None)
        self._outputs[name] = weakref.ref(first)

    def _source(self, tensor: Tensor) -> str:
        """The last module that gave this very tensor, which is the outermost."""
        return next((name for name, output in reversed(self._outputs.items()) if output() is tensor), "")


def _is_mean(output: Tensor, given: Tensor) -> bool:
    return (
        given.dim() == 4
        and given[0, 0].numel() > 1
        and output.shape[:2] == given.shape[:2]
        and output.numel() == given.shape[0] * given.shape[1]
        and torch.allclose(output.flatten(1), given.mean((2, 3)), rtol=1e-3, atol=1e-5)
    )


def _head_of(model: nn.Module, example: Batch, owner: str) -> _Head:
    inner = unwrapped(model)
    device = next((parameter.device for parameter in inner.parameters()), torch.device("cpu"))
    batch = {name: tensor.to(device) for name, tensor in example.items()}
    modules = dict(inner.named_modules())
    outputs: dict[str, weakref.ref[Tensor]] = {}

    def remember(name: str, _inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[name] = weakref.ref(output)

    linear = {name: module for name, module in modules.items() if name and isinstance(module, nn.Linear)}
    logits = _run(inner, batch, linear, remember)
    path = next((name for name, output in outputs.items() if output() is logits), None)
    if path is None:
        raise LimbeckError(
            f"reuse_head: the {owner} {type(inner).__name__} has no linear layer whose output is its logits; give a "
            "model that ends in nn.Linear, inside a larger module"
        )
    observer = _Observer(path)
    _run(inner, batch, modules, observer.saw)
    assert observer.place is not None
    return _Head(linear[path], observer.place, observer.pool)


def _run(model: nn.Module, batch: Batch, modules: dict[str, Any], saw: Any) -> Tensor:
    """Logits of a dry run in which `saw` is told what each of the modules took and gave."""

    def hook(name: str) -> Any:
        return lambda _module, inputs, output: saw(name, inputs, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        with evaluating(model):
            return forward_of(model)(batch)["logits"]
    finally:
        for handle in handles:
            handle.remove()


def _misfit_of_maps(student: _Place | None, teacher: _Place | None) -> str:
    """Why maps cannot be compared; empty where they can: one of them is as large as the other both ways."""
    if student is None or teacher is None:
        owner = "student" if student is None else "teacher"
        return f"no module of the {owner} takes the mean of a map just before its head"
    ours, theirs = student.given.shape[-2:], teacher.given.shape[-2:]
    larger = all(mine >= other for mine, other in zip(ours, theirs, strict=True))
    if larger or all(other % mine == 0 for mine, other in zip(ours, theirs, strict=True)):
        return ""
    return f"the teacher's map of {tuple(theirs)} cells cannot be pooled evenly to the student's {tuple(ours)}"
