"""Ids from what a data set calls its samples: whole numbers as they are, texts by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from limbeck.errors import LimbeckError


def text_ids(names: Sequence[str]) -> NDArray[np.int64]:
    """Ids from texts, as relative paths are, (n,): 63 bits of their BLAKE2b hash.

    Adding or removing samples changes no other id, so a teacher's stored answers stay with their samples.
    """
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.fromiter((int.from_bytes(digest, "big") >> 1 for digest in digests), np.int64, len(names))


def as_ids(values: Tensor | Sequence[Any], where: str) -> Tensor:
    """Ids (batch,) int64 from whole numbers or texts. Raises LimbeckError for anything else."""
    if not isinstance(values, Tensor):
        if all(isinstance(value, str) for value in values):
            return torch.from_numpy(text_ids(values))
        whole = (int, np.integer)
        if not all(isinstance(value, whole) or (isinstance(value, Tensor) and value.ndim == 0) for value in values):
            kinds = ", ".join(sorted({type(value).__name__ for value in values}))
            raise _wrong(kinds, where)
        try:
            values = torch.as_tensor(values)
        except (OverflowError, RuntimeError, ValueError):
            raise _wrong("numbers beyond 64 bits", where) from None
    if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
        raise _wrong(f"{values.dtype} of shape {tuple(values.shape)}", where)
    return values.long()


def ids_of(data: Any, collate: Callable[[Any], dict[str, Tensor]], workers: int = 0) -> Tensor:
    """The ids of all samples of a data set, (samples,) int64: those it has, or by going once through its samples.

    Raises:
        LimbeckError: the samples have no ids, or the set has no end that is known.
    """
    known = getattr(data, "ids", None)
    if isinstance(known, Tensor):
        return known
    if isinstance(data, IterableDataset):
        raise LimbeckError(
            "training data: a loss that remembers every sample needs to know all ids before training; give a map-style "
            "set, or one with `ids`"
        )
    # A generator of its own, so that no other random number of the training changes.
    loader = DataLoader(data, 256, collate_fn=collate, num_workers=workers, generator=torch.Generator())
    found = []
    for batch in loader:
        if "ids" not in batch:
            raise LimbeckError(
                "training data: a loss that remembers every sample needs ids; give each sample an entry `ids`, a whole "
                f"number or a text of its own (a batch has {', '.join(batch)})"
            )
        found.append(batch["ids"])
    return torch.cat(found)


def _wrong(got: str, where: str) -> LimbeckError:
    return LimbeckError(
        f"{where}: expected ids that are one whole number or one text a sample, got {got}; "
        "correct them, or give the entry another name"
    )
