"""Any data set that a user has, as training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, SupportsIndex, cast, runtime_checkable

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from limbeck.content import content_ids
from limbeck.errors import LimbeckError
from limbeck.sources.collate import CheckedCollate, as_inputs, as_labels, collate_samples, labels_fit
from limbeck.sources.images import ImageSet
from limbeck.types import UNLABELLED

Collate = Callable[[Any], dict[str, Tensor]]
BLOCK = 4_000_000
"""Bytes of inputs that are hashed at a time: what fits a cache is hashed fastest, and takes next to no memory."""


@runtime_checkable
class _Samples(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


class ArraySet(Dataset[dict[str, Tensor]]):
    """Tensors in memory as a data set that gives whole batches; `ids` are made from the contents of the inputs.

    `inputs` (n, …); `labels` (n,) int64 with -1 where unlabelled, or (n, classes) float32.
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs = inputs
        self.labels = labels

    @cached_property
    def ids(self) -> Tensor:
        """(n,) int64: a sample keeps its id where others are added, removed or shuffled; equal inputs share one."""
        rows = max(1, BLOCK // max(1, self.inputs[0].nbytes))
        return torch.cat([content_ids(block) for block in self.inputs.split(rows)])

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index.__index__()]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        at = torch.as_tensor(indices)
        return {"inputs": self.inputs.index_select(0, at), "labels": self.labels[at], "ids": self.ids[at]}


def as_training_data(data: object, num_classes: int | None) -> tuple[Dataset[Any], Collate]:
    """A data set and the `collate_fn` for its loader: batches of `inputs`, `labels` (-1: unlabelled), `ids`.

    `data` is an ImageSet, a torch or Hugging Face data set (or a list) of (input, label) pairs or mappings,
    or one tuple (inputs, labels) of arrays or tensors, where labels may be None. `ids` are the samples' own
    (`collate_samples`), and made from the inputs where these are arrays; batches of other samples have none, and
    `limbeck.content.content_ids` of their inputs gives what the arrays would have. Labels are checked against
    `num_classes` (None: not at all): at once where they are in memory, else batch by batch; floats (n, classes)
    pass as several labels a sample. Raises LimbeckError for anything else, and for NaN in arrays.
    """
    if isinstance(data, ImageSet | ArraySet):
        labels_fit(data.labels, num_classes, "training data")
        return data, collate_samples
    if isinstance(data, tuple) and len(data) == 2 and all(_is_array(part) for part in data):
        arrays = _arrays(*data)
        labels_fit(arrays.labels, num_classes, "training data")
        return arrays, collate_samples
    if isinstance(data, tuple) and len(data) == 2 and any(map(_is_array, data)):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise LimbeckError(
            f"training data: expected (inputs, labels) as arrays or tensors, got ({kinds}); convert them"
        )
    if isinstance(data, DataLoader):
        raise LimbeckError("training data: expected a data set, got a DataLoader; give its `dataset`")
    if isinstance(data, datasets.Dataset):
        data = data.with_format("torch") if data.format["type"] is None else data
    if isinstance(data, IterableDataset):
        return data, CheckedCollate(num_classes)
    if isinstance(data, str | bytes | Mapping | Tensor | np.ndarray) or not isinstance(data, _Samples):
        raise LimbeckError(
            f"training data: expected a data set or a tuple (inputs, labels), got {type(data).__name__}; "
            "load one by name with limbeck.sources.load"
        )
    if len(data) == 0:
        raise LimbeckError("training data: the data set is empty; it needs at least one sample")
    return cast("Dataset[Any]", data), CheckedCollate(num_classes)


def _is_array(part: object) -> bool:
    return part is None or isinstance(part, Tensor | np.ndarray)


def _arrays(inputs: Tensor | np.ndarray[Any, Any] | None, labels: Tensor | np.ndarray[Any, Any] | None) -> ArraySet:
    where = "training data"
    if inputs is None:
        raise LimbeckError(f"{where}: the inputs are None; only the labels of (inputs, labels) may be")
    x = as_inputs(torch.as_tensor(inputs).cpu(), where)
    if labels is None:
        y = torch.full((len(x),), UNLABELLED)
    else:
        given = torch.as_tensor(labels).cpu()
        _finite(given, f"{where}: labels", "use -1 for an unlabelled sample")
        y = as_labels(given, where)
    if len(x) != len(y) or len(x) == 0:
        raise LimbeckError(f"{where}: expected a label for each sample, got {len(x)} samples and {len(y)} labels")
    _finite(x, f"{where}: inputs", "repair or remove it")
    return ArraySet(x, y)


def _finite(values: Tensor, what: str, remedy: str) -> None:
    """Raises LimbeckError naming the first sample that is not finite."""
    # A sum is not finite if any value is not, and needs no mask as large as the data; it may also overflow.
    if not values.is_floating_point() or bool(values.sum(dtype=torch.float64).isfinite()):
        return
    bad = ~values.reshape(len(values), -1).isfinite().all(dim=1)
    if bool(bad.any()):
        raise LimbeckError(f"{what}: sample {int(bad.nonzero()[0])} has NaN or infinite values; {remedy}")
