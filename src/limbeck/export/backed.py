"""A model whose signals an artifact gives, to be measured as any model of its task is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.artifact import read_artifact_card
from limbeck.artifact.card import check_files
from limbeck.artifact.running import Graph
from limbeck.errors import LimbeckError
from limbeck.models import unwrapped


def backed(model: nn.Module, folder: Path, *, threads: int | None = None) -> nn.Module:
    """A module that gives what the artifact in `folder` gives, and chooses boxes and the like as `model` does, of which
    the artifact was made.

    Raises:
        LimbeckError: the artifact is of several graphs, or a file of it is missing or another.
    """
    card = read_artifact_card(folder)
    check_files(folder, card)
    if len(card.graphs) > 1:
        raise LimbeckError(f"{folder}: an artifact of several graphs is run step by step, and is not measured so")
    (graph,) = card.graphs.values()
    run = Graph(folder / graph.file, graph, batch=card.batch, threads=threads)
    return (_OfTexts if card.tokens is not None else _OfPictures)(model, run)


class _Backed(nn.Module):
    """What is not the graph's is the model's: an attribute that is missing here is looked for there."""

    def __init__(self, model: nn.Module, run: Graph) -> None:
        super().__init__()
        object.__setattr__(self, "_model", unwrapped(model))  # no submodule: its weights are not run
        self._run = run

    def __getattr__(self, name: str) -> Any:
        if name == "_model":
            raise AttributeError(name)
        return getattr(self._model, name)

    def _signals(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        device = next(iter(feeds.values())).device
        found = self._run({name: tensor.detach().cpu().numpy() for name, tensor in feeds.items()})
        return {name: torch.from_numpy(array).to(device) for name, array in found.items()}


class _OfPictures(_Backed):
    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return self._signals({"inputs": inputs})


class _OfTexts(_Backed):
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        feeds = {name: each for name, each in given.items() if each is not None and name in self._run.inputs}
        return self._signals(feeds)
