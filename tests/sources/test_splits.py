"""limbeck.sources.splits: stratified, and never another split for the same ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import LimbeckError
from limbeck.sources.splits import VALIDATION, apportion, describe, held_out, labelled_mask

LABELS = np.repeat(np.arange(4), (100, 60, 30, 10)).astype(np.int64)
IDS = np.arange(len(LABELS), dtype=np.int64)


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 500), min_size=1, max_size=12), share=st.floats(0, 1))
def test_apportion_is_exact_and_fair(counts: list[int], share: float) -> None:
    """A rounding slip would give one label too many, or ask a class for more samples than it has."""
    have = np.array(counts)
    total = round(share * int(have.sum()))
    taken = apportion(have, total)
    assert taken.sum() == total
    assert (taken >= 0).all()
    assert (taken <= have).all()
    if total >= np.count_nonzero(have):
        assert (taken[have > 0] >= 1).all()


def test_apportion_by_hand() -> None:
    """10 over 100:60:30:10 is 5, 3, 1.5, 0.5: the tie of the halves goes to the first, then every class gets one."""
    assert apportion(np.array([100, 60, 30, 10]), 10).tolist() == [5, 3, 1, 1]
    assert apportion(np.array([1000, 1]), 2).tolist() == [1, 1]


def test_held_out_is_stratified_and_depends_on_ids_alone() -> None:
    """A split that depends on order or on other samples moves test images into training when a file is added."""
    mask = held_out(LABELS, IDS, 4, 0.2, VALIDATION)
    assert np.bincount(LABELS[mask]).tolist() == [20, 12, 6, 2]
    order = np.random.default_rng(0).permutation(len(LABELS))
    assert np.array_equal(held_out(LABELS[order], IDS[order], 4, 0.2, VALIDATION), mask[order])


def test_held_out_never_takes_a_class_whole_or_an_unlabelled_sample() -> None:
    """A class with one sample must stay in training; a sample without a label cannot validate."""
    labels = np.array([0] * 10 + [1] + [-1] * 50, dtype=np.int64)
    mask = held_out(labels, np.arange(61), 2, 0.5, VALIDATION)
    assert np.bincount(labels[mask]).tolist() == [5]
    assert not mask[10]
    with pytest.raises(LimbeckError, match="cannot hold out 10% of 2 labelled samples in 2 classes"):
        held_out(np.array([0, 1]), np.arange(2), 2, 0.1, VALIDATION)
    with pytest.raises(LimbeckError, match=r"between 0 and 1, got 1\.5"):
        held_out(labels, np.arange(61), 2, 1.5, VALIDATION)


def test_labelled_mask_counts_and_nests() -> None:
    """Curves over the number of labels need each smaller set inside the next."""
    masks = {count: labelled_mask(LABELS, IDS, 4, count) for count in (8, 20, 100, 200)}
    assert {count: int(mask.sum()) for count, mask in masks.items()} == {8: 8, 20: 20, 100: 100, 200: 200}
    assert not (masks[20] & ~masks[100]).any()
    assert np.array_equal(labelled_mask(LABELS, IDS, 4, 0.1), masks[20])
    assert np.bincount(LABELS[masks[20]]).tolist() == [10, 6, 3, 1]


@pytest.mark.parametrize("wanted", [3, 201, 0.0, 1.5])
def test_labelled_mask_refuses_what_cannot_be(wanted: float) -> None:
    """Fewer labels than classes, or more than there are, must not be cut silently."""
    with pytest.raises(LimbeckError, match="labelled: expected"):
        labelled_mask(LABELS, IDS, 4, wanted)


def test_describe() -> None:
    """Counts, what is unlabelled, and a word where accuracy misleads."""
    balance = describe(np.concatenate([LABELS, [-1, -1]]), ("a", "b", "c", "d"))
    assert balance.counts == (100, 60, 30, 10)
    assert balance.unlabelled == 2
    assert balance.ratio == 10
    assert balance.imbalanced
    assert "202 samples in 4 classes, 2 unlabelled; 10 (d) to 100 (a)" in balance.text
    assert "imbalanced 10.0 to 1" in balance.text
    assert not describe(np.array([0, 0, 0, 1]), ("a", "b")).imbalanced
    assert describe(np.array([0, 0]), ("a", "b")).ratio == float("inf")
