"""Any data set that a user has, as training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import datasets
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from limbeck.checks import LimbeckError
from limbeck.sources.collate import CheckedCollate, as_inputs, as_labels, collate_samples, labels_fit
from limbeck.sources.images import ImageSet
from limbeck.types import UNLABELLED

Collate = Callable[[Any], dict[str, Tensor]]


@runtime_checkable
class _Samples(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any: ...


@runtime_checkable
class _Batched(Protocol):
    def __getitems__(self, indices: Sequence[int]) -> Any: ...


class ArraySet(Dataset[dict[str, Tensor]]):
    """Tensors in memory as a data set that gives whole batches; `ids` are positions.

    `inputs` (n, …); `labels` (n,) int64 with -1 where unlabelled, or (n, classes) float32.
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs = inputs
        self.labels = labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index.__index__()]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The assembled batch of these positions; a DataLoader calls this instead of `__getitem__`."""
        at = torch.as_tensor(indices)
        return {"inputs": self.inputs.index_select(0, at), "labels": self.labels[at], "ids": at}


class Numbered(Dataset[dict[str, Any]]):
    """A data set of pairs or mappings, with their positions as `ids` unless they have ids of their own."""

    def __init__(self, samples: _Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        return _numbered(self.samples[index.__index__()], index.__index__())

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """These samples, read at once where the data set can."""
        if not isinstance(self.samples, _Batched):
            return [self[index] for index in indices]
        found = self.samples.__getitems__(indices)
        if isinstance(found, Mapping):
            return {"ids": torch.as_tensor(indices), **collate_samples(found)}
        return [_numbered(sample, index) for sample, index in zip(found, indices, strict=True)]


def _numbered(sample: Any, index: int) -> dict[str, Any]:
    if isinstance(sample, Mapping):
        return {"ids": index, **sample}
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return {"inputs": sample[0], "labels": sample[1], "ids": index}
    raise LimbeckError(
        f"training data: expected samples (input, label) or mappings, got {type(sample).__name__} at "
        f"{index}; wrap the data set so that it gives one of these"
    )


def as_training_data(data: object, num_classes: int | None) -> tuple[Dataset[Any], Collate]:
    """A data set and the `collate_fn` for its loader: batches of `inputs`, `labels` (-1: unlabelled), `ids`.

    `data` is an ImageSet, a torch or Hugging Face data set (or a list) of (input, label) pairs or mappings,
    or one tuple (inputs, labels) of arrays or tensors, where labels may be None. Labels are checked against
    `num_classes` (None: not at all): at once where they are in memory, else batch by batch; floats (n,
    classes) pass as several labels a sample. Raises LimbeckError for anything else, and for NaN in arrays.
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
    return Numbered(data), CheckedCollate(num_classes)


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
