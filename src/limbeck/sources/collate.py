"""Collating: whatever samples a data set gives become one batch of `inputs`, `labels` and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limbeck.checks import labels_in_range
from limbeck.errors import LimbeckError
from limbeck.sources.ids import as_ids
from limbeck.types import UNLABELLED

INPUT_NAMES = ("inputs", "pixel_values", "image", "x")
LABEL_NAMES = ("labels", "label", "y")
ID_NAMES = ("ids", "id")


def as_inputs(values: Tensor, where: str) -> Tensor:
    """The inputs as models take them: float64 becomes float32, bytes are refused (their scale is unknown)."""
    if values.dtype == torch.uint8:
        raise LimbeckError(
            f"{where}: inputs are uint8, which no model was trained on; scale and normalise them "
            "(v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std))"
        )
    return values.float() if values.dtype == torch.float64 else values


def as_labels(values: Tensor, where: str) -> Tensor:
    """Class indices as (batch,) int64, or several labels a sample as (batch, classes) float32."""
    if values.is_floating_point():
        if values.ndim == 2:
            return values.float()
        raise LimbeckError(
            f"{where}: labels are {values.dtype} of shape {tuple(values.shape)}; expected whole numbers "
            "(batch,), or floats (batch, classes) for several labels a sample"
        )
    return values.long()


def labels_fit(labels: Tensor, num_classes: int | None, where: str) -> None:
    """Raises LimbeckError where labels (CPU) do not belong to `num_classes` classes; None checks nothing."""
    if num_classes is None:
        return
    if not labels.is_floating_point():
        labels_in_range(labels, num_classes, where)
    elif (columns := labels.shape[1] if labels.dim() > 1 else 1) != num_classes:
        raise LimbeckError(f"{where}: labels have {columns} columns, the models {num_classes} classes")


def collate_samples(batch: Mapping[str, Tensor] | Sequence[Any]) -> dict[str, Tensor]:
    """One batch with `inputs` and `labels` from samples that are pairs, mappings, or already a batch.

    A mapping's input is called inputs, pixel_values, image or x (`input_ids` for text stays as it is), its
    label labels, label or y; a sample without one is unlabelled (-1). Its own name is called ids or id and is a
    whole number, or a text, which becomes 63 bits of its BLAKE2b hash. Its other entries are stacked under their
    names. Raises LimbeckError naming what cannot be made a tensor.
    """
    if isinstance(batch, Mapping):
        whole = dict(batch) if "labels" in batch else _renamed(batch)
        if "labels" not in whole:
            whole["labels"] = torch.full((len(next(iter(whole.values()))),), UNLABELLED)
        if "id" in whole and "ids" not in whole:
            whole["ids"] = whole.pop("id")
        if "ids" in whole:
            whole["ids"] = as_ids(whole["ids"], "training data")
        return whole
    samples = [_named(sample) for sample in batch]
    names = [name for name in samples[0] if name not in ("labels", "ids")]
    collated = {name: _stack([sample.get(name) for sample in samples], name) for name in names}
    if "inputs" in collated:
        collated["inputs"] = as_inputs(collated["inputs"], "training data")
    if any("ids" in sample for sample in samples):
        collated["ids"] = as_ids([sample.get("ids") for sample in samples], "training data")
    labels = [sample.get("labels") for sample in samples]
    if all(label is None for label in labels):
        collated["labels"] = torch.full((len(samples),), UNLABELLED)
    else:
        filled = [UNLABELLED if label is None else label for label in labels]
        collated["labels"] = as_labels(_stack(filled, "labels"), "training data")
    return collated


@dataclass(frozen=True, slots=True)
class CheckedCollate:
    """`collate_samples`, then every label must be one of `num_classes` classes."""

    num_classes: int | None

    def __call__(self, batch: Mapping[str, Tensor] | Sequence[Any]) -> dict[str, Tensor]:
        collated = collate_samples(batch)
        labels_fit(collated["labels"], self.num_classes, "training data")
        return collated


def _named(sample: Any) -> dict[str, Any]:
    if isinstance(sample, Mapping):
        return _renamed(sample)
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return {"inputs": sample[0], "labels": sample[1]}
    raise LimbeckError(
        f"training data: expected samples (input, label) or mappings, got {type(sample).__name__}; "
        "wrap the data set so that it gives one of these"
    )


def _renamed(sample: Mapping[str, Any]) -> dict[str, Any]:
    inputs = next((name for name in INPUT_NAMES if name in sample), None)
    label = next((name for name in LABEL_NAMES if name in sample), None)
    if inputs is None and "input_ids" not in sample:
        raise LimbeckError(
            f"training data: no input among {', '.join(map(str, sample))}; call it one of {', '.join(INPUT_NAMES)}"
        )
    own = next((name for name in ID_NAMES if name in sample), None)
    renamed = {name: value for name, value in sample.items() if name not in (inputs, label, own)}
    if inputs is not None:
        renamed["inputs"] = sample[inputs]
    if label is not None:
        renamed["labels"] = sample[label]
    if own is not None:
        renamed["ids"] = sample[own]
    return renamed


def _stack(values: list[Any], name: str) -> Tensor:
    if isinstance(values[0], Image.Image):
        raise LimbeckError(
            f"training data: {name} are PIL images; give the data set a transform to tensors "
            "(v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])), or load it by name"
        )
    try:
        if all(isinstance(value, Tensor) for value in values):
            return torch.stack(values)
        return torch.from_numpy(np.stack([np.asarray(value) for value in values]))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise LimbeckError(
            f"training data: {name} of a batch do not stack to one tensor ({reason}); "
            "make them one shape, or take them out of the samples"
        ) from None
