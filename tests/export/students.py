"""Tiny models that were trained for some steps and saved as runs save theirs, for the tests of export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.compare import alone_terms
from limbeck.distiller import Distiller
from limbeck.export.data import Known
from limbeck.models import ModelSpec, build, save
from limbeck.recipe import build_terms
from limbeck.tasks import TASKS, Opening


def opened(task: str, settings: Mapping[str, Any]) -> Known:
    """A task's data."""
    kind = TASKS[task]
    checked = kind.settings.model_validate(dict(settings))
    return Known(kind, checked, kind.load(checked, Opening(say=lambda _line: None)), str(settings["source"]))


def trained(
    folder: Path, known: Known, name: str, options: Mapping[str, Any] | None = None, *, steps: int = 25,
    learning_rate: float = 5e-3, batch: int = 16,
) -> nn.Module:  # fmt: skip
    """A model that learned a little of the data, so that what it gives depends on what it sees; saved in `folder`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    task, data = known.task, known.data
    spec = ModelSpec(name, dict(options or {}))
    model = build(spec, task.shape(data))
    terms = task.fitted(alone_terms(build_terms(list(task.terms(known.settings)))), data.train, None)
    distiller = Distiller(model, None, terms, example=data.train.__getitems__([0, 1]))
    optimizer = torch.optim.AdamW(distiller.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(0)
    distiller.train()
    for _ in range(steps):
        at = torch.randint(len(data.train), (batch,), generator=generator).tolist()
        optimizer.zero_grad()
        distiller(data.train.__getitems__(at)).loss.backward()
        nn.utils.clip_grad_norm_(distiller.parameters(), 1.0)
        optimizer.step()
    save(
        model.eval(), folder, spec=spec, classes=data.classes, preprocessing=task.preparation(data), task=task.name,
        shape=task.shape(data), about={"recipe": "tiny", "model": "distilled, seed 0", "checkpoint": "last"},
        data=known.settings.model_dump(mode="json"),
    )  # fmt: skip
    return model
