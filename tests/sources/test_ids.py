"""limbeck.sources.ids: what a data set calls its samples, as lasting numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.sources.ids import as_ids, text_ids


def test_text_ids_are_the_published_hash() -> None:
    """A changed hash would orphan every stored answer; this number was computed with b2sum -l 64."""
    assert text_ids(["one/000.png"]).tolist() == [int("2dfb529d9d17c3d7", 16) >> 1]


@pytest.mark.parametrize(
    "values",
    [
        [3, -1, 2**62],
        np.array([3, -1, 2**62]),
        list(np.array([3, -1, 2**62])),
        torch.tensor([3, -1, 2**62]),
        [torch.tensor(3), torch.tensor(-1), torch.tensor(2**62)],
    ],
    ids=lambda values: type(values).__name__,
)
def test_whole_numbers_stay(values: Any) -> None:
    """An id that passed through a float would merge with its neighbours above 2**53."""
    assert as_ids(values, "data").tolist() == [3, -1, 2**62]
    assert as_ids(values, "data").dtype == torch.int64


def test_texts_are_hashed() -> None:
    """Names of samples are as good as numbers, and must not depend on what else is in the batch."""
    assert as_ids(["a", "b"], "data").tolist() == as_ids(["b", "a"], "data").flip(0).tolist()
    assert len(set(as_ids([str(i) for i in range(1000)], "data").tolist())) == 1000
    assert int(as_ids(["a"], "data")) >= 0


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ([0.5], "float"),
        (["a", 1], "int, str"),
        ([None, 1], "NoneType, int"),
        ([True], r"torch.bool of shape \(1,\)"),
        (torch.zeros(2, 2, dtype=torch.int64), r"torch.int64 of shape \(2, 2\)"),
        (torch.zeros(2), r"torch.float32 of shape \(2,\)"),
        ([torch.zeros(2), torch.zeros(2)], "Tensor"),
        ([2**64], "numbers beyond 64 bits"),
    ],
)
def test_other_ids_are_refused(values: Any, got: str) -> None:
    """Two samples whose ids were rounded to one would share an answer."""
    with pytest.raises(LimbeckError, match=f"data: expected ids that are one whole number .*got {got}; correct them"):
        as_ids(values, "data")
