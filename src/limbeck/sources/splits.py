"""Splits that never change: stratified, and in the order of a hash of each sample's id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError
from limbeck.sources.views import keys
from limbeck.types import UNLABELLED

SPLIT_SEED = 20240229
TEST, VALIDATION, LABELLED = range(3)
"""What a draw is for; each purpose orders the samples in its own way."""
IMBALANCED_RATIO = 3.0

Integers = NDArray[np.int64]


def apportion(counts: Integers, total: int) -> Integers:
    """`total` shared out in proportion to `counts` (classes,), by largest remainder.

    Every class that has samples gets at least one, if the total reaches for that.
    """
    quota = total * counts / max(1, int(counts.sum()))
    taken = np.floor(quota).astype(np.int64)
    rest = total - int(taken.sum())
    taken[np.argsort(taken - quota, kind="stable")[:rest]] += 1
    if total >= np.count_nonzero(counts):
        taken = np.maximum(taken, (counts > 0).astype(np.int64))
        while taken.sum() > total:
            taken[np.argmax(np.where(taken > 1, taken - quota, -np.inf))] -= 1
    return taken


def chosen(labels: Integers, ids: Integers, per_class: Integers, purpose: int) -> NDArray[np.bool_]:
    """A mask (n,) of the first `per_class` (classes,) samples of each class, in the order of their hashes."""
    order = np.argsort(keys(SPLIT_SEED, purpose, ids), kind="stable")
    mask = np.zeros(len(labels), dtype=np.bool_)
    for index, count in enumerate(per_class.tolist()):
        mask[order[labels[order] == index][:count]] = True
    return mask


def held_out(labels: Integers, ids: Integers, num_classes: int, share: float, purpose: int) -> NDArray[np.bool_]:
    """A mask (n,) of the `share` of labelled samples to hold out, stratified; a class keeps at least one.

    Raises LimbeckError when the share is not in (0, 1) or nothing can be held out.
    """
    if not 0 < share < 1:
        raise LimbeckError(f"validation: expected a share between 0 and 1, got {share}; 0.1 holds out a tenth")
    counts = np.bincount(labels[labels != UNLABELLED], minlength=num_classes).astype(np.int64)
    take = np.minimum(apportion(counts, max(1, round(share * int(counts.sum())))), np.maximum(counts - 1, 0))
    if take.sum() == 0:
        raise LimbeckError(
            f"cannot hold out {share:.0%} of {int(counts.sum())} labelled samples in {num_classes} classes; "
            "give more samples, or splits of your own"
        )
    return chosen(labels, ids, take, purpose)


def labelled_mask(labels: Integers, ids: Integers, num_classes: int, labelled: float) -> NDArray[np.bool_]:
    """A mask (n,) of the samples that keep their label: an int is how many, a float which share, stratified.

    The samples of a smaller number are, but for rounding, among those of a larger one.
    Raises LimbeckError when there are fewer labels than asked for, or fewer asked for than classes.
    """
    counts = np.bincount(labels[labels != UNLABELLED], minlength=num_classes).astype(np.int64)
    have = int(counts.sum())
    wanted = labelled if isinstance(labelled, int) else round(labelled * have)
    present = int(np.count_nonzero(counts))
    if isinstance(labelled, float) and not 0 < labelled <= 1:
        raise LimbeckError(f"labelled: expected a share in (0, 1] or a whole number, got {labelled}")
    if not present <= wanted <= have:
        raise LimbeckError(
            f"labelled: expected from {present} (one a class) to {have} labels (all that train has), got {wanted}"
        )
    return chosen(labels, ids, apportion(counts, wanted), LABELLED)


def kept_mask(known: NDArray[np.bool_], ids: Integers, labelled: float) -> NDArray[np.bool_]:
    """As `labelled_mask` for samples whose labels are no classes; `known` (n,) says which have one."""
    return labelled_mask(np.where(known, 0, UNLABELLED).astype(np.int64), ids, 1, labelled)


@dataclass(frozen=True, slots=True)
class ClassBalance:
    """How the labels spread: samples a class, unlabelled ones, and the largest class over the smallest."""

    counts: tuple[int, ...]
    unlabelled: int
    ratio: float
    text: str

    @property
    def imbalanced(self) -> bool:
        """Whether the largest class has more than three times the samples of the smallest."""
        return self.ratio > IMBALANCED_RATIO


def describe(labels: Integers, classes: Sequence[str]) -> ClassBalance:
    """The balance of `labels` (n,), -1 where unlabelled. The ratio is infinite where a class has no label."""
    counts = np.bincount(labels[labels != UNLABELLED], minlength=len(classes))
    unlabelled = len(labels) - int(counts.sum())
    most, fewest = int(counts.argmax()), int(counts.argmin())
    ratio = float(counts[most] / counts[fewest]) if counts[fewest] else float("inf")
    text = (
        f"{len(labels):,} samples in {len(classes)} classes, {unlabelled:,} unlabelled; "
        f"{counts[fewest]:,} ({classes[fewest]}) to {counts[most]:,} ({classes[most]}) labels a class"
    )
    if ratio > IMBALANCED_RATIO:
        text += f"; imbalanced {ratio:.1f} to 1: read balanced accuracy or macro F1 beside accuracy"
    return ClassBalance(tuple(counts.tolist()), unlabelled, ratio, text)
