"""Measuring on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck.compare import Candidate, measure
from limbeck.sources import load
from limbeck.tasks import IMAGE_CLASSIFICATION
from limbeck.teachers import Live


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_the_same_weights_are_measured_once(tmp_path: Path) -> None:
    """Hours of a test split read twice, where validation selected the last weights; or a row with the numbers of
    another seed's model."""
    read: list[str] = []

    def predict(model: Any, split: Any, *, label: str, workers: int = 0, settings: Any = None) -> Any:
        read.append(label)
        return IMAGE_CLASSIFICATION.predict(model, split, label=label, workers=workers)

    weights = {("alone", "last"): 0, ("alone", "selected"): 0, ("distilled", "last"): 1, ("distilled", "selected"): 2}
    candidates = [Candidate(name, 0, kind, lambda seed=seed: net(seed)) for (name, kind), seed in weights.items()]  # type: ignore[misc]
    test = load("digits").test
    rows = measure(IMAGE_CLASSIFICATION, candidates, Live(net(3)), test, tmp_path, predict=predict)
    assert read == ["test: teacher", "test: alone, seed 0", "test: distilled, seed 0", "test: distilled, seed 0"]
    assert [(row.name, row.checkpoint) for row in rows[1:]] == list(weights)
    for row, seed in zip(rows[1:], weights.values(), strict=True):
        expected = IMAGE_CLASSIFICATION.predict(net(seed), test, label="").metrics()["accuracy"]
        assert row.metrics["accuracy"] == expected
    assert len({row.details for row in rows}) == 5
