"""What goes on beside a training's steps: terms logged, schedules and teachers told, look-ups made once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol, runtime_checkable

import accelerate.accelerator
import accelerate.optimizer
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import nested_gather

from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.types import Batch

log = logging.getLogger(__name__)


@contextmanager
def lookups_made_once() -> Iterator[None]:
    """Lets accelerate look for the LOMO package once a run: it searches all of sys.path twice a step, which is a tenth
    of a small model's step."""
    name = "is_lomo_available"
    modules = (accelerate.accelerator, accelerate.optimizer)
    found = {module: vars(module)[name] for module in modules if name in vars(module)}
    for module, lookup in found.items():
        setattr(module, name, cache(lookup))
    try:
        yield
    finally:
        for module, lookup in found.items():
            setattr(module, name, lookup)


@runtime_checkable
class HasEpochs(Protocol):
    """A data set that shows its samples otherwise in each epoch."""

    def set_epoch(self, epoch: int) -> None: ...


@runtime_checkable
class MakesBatches(Protocol):
    """A Distiller that learns from batches of its own (OnPolicy)."""

    def training_batch(self, batch: Batch) -> Batch: ...


class SetEpoch(TrainerCallback):
    """Tells the training data its epoch: accelerate does not within a resumed one, or on several processes."""

    def __init__(self, dataset: HasEpochs) -> None:
        self._dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._dataset.set_epoch(int(state.epoch or 0))


class TellProgress(TrainerCallback):
    """Tells the Distiller how far the training is, for schedules; a resumed one is told the same."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].progress(float(state.epoch or 0.0), state.global_step / max(state.max_steps, 1))


class FollowStudent(TrainerCallback):
    """Lets a teacher that follows its student (Ema) do so after every optimizer step."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        distiller: Distiller = kwargs["model"]
        if distiller.teacher is not None:
            distiller.teacher.update(distiller.student)


class TermLog:
    """Collects the terms' values on the device, and brings them to the host when the Trainer logs."""

    CONSTANT_AFTER = 20
    """Steps without the least change after which a term is called constant."""

    def __init__(self, distiller: Distiller) -> None:
        self._names = [term.name for term in distiller.objective.terms]
        self._values: list[Tensor] = []
        self._first: list[float | None] = [None] * len(self._names)
        self._steps = 0
        self._warned: set[str] = set()

    def add(self, terms: dict[str, Tensor]) -> None:
        self._values.extend(terms.values())

    def drain(self, trainer: Trainer) -> dict[str, float]:
        if not self._values:
            return {}
        values = torch.stack([value.float() for value in self._values]).view(-1, len(self._names))
        self._values = []
        if trainer.args.world_size > 1:
            gathered = nested_gather(values.unsqueeze(0), trainer.args.parallel_mode)
            values = gathered.mean(0)
        steps = values.cpu()
        self._steps += len(steps)
        self._check_finite(steps, trainer.state.global_step)
        self._check_constant(steps)
        # With denominators over the whole step, its batches' values add up to the step's mean.
        pieces = trainer.args.gradient_accumulation_steps if trainer.args.gradient_accumulation_steps > 1 else 1
        means = steps.mean(0) * pieces
        return {f"term/{name}": mean for name, mean in zip(self._names, means.tolist(), strict=True)}

    def _check_finite(self, steps: Tensor, step: int) -> None:
        broken = ~steps.isfinite()
        if not broken.any():
            return
        first = int(broken.any(1).nonzero()[0])
        names = [name for name, bad in zip(self._names, broken[first].tolist(), strict=True) if bad]
        value = steps[first][broken[first]][0].item()
        raise LimbeckError(
            f"term {' and '.join(map(repr, names))} became {value} at batch {max(step - len(steps), 0) + first + 1}; "
            "look for NaN in the data, lower the learning rate, or clip gradients (max_grad_norm=1.0)"
        )

    def _check_constant(self, steps: Tensor) -> None:
        for index, name in enumerate(self._names):
            column = steps[:, index]
            first = self._first[index]
            if first is None:
                first = self._first[index] = float(column[0])
            if name in self._warned or not bool(column.eq(first).all()):
                self._first[index] = float("nan")  # equal to nothing: this term is known to move
                continue
            if self._steps >= self.CONSTANT_AFTER:
                self._warned.add(name)
                log.warning(
                    "term %r was exactly %s in all of the first %d steps: it teaches nothing. Look at what it "
                    "compares (the same tensor on both sides, a detached one, a weight of 0, no labelled samples).",
                    name,
                    json.dumps(self._first[index]),
                    self._steps,
                )
