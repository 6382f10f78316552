"""Mixing two images: λ, box and partner are a pure function of (seed, view, sample id), as views are.

The partner comes from a fixed pool of ids, never from the batch, so a sample in a view is mixed in the same way
whatever it is batched with: the teacher's stored answer stays true for what the student sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.sources.views import Keys, derive, uniform
from limbeck.types import UNLABELLED

_STREAM = 1 << 32
"""Sets the keys of mixing apart from those of a view, whose streams are counted from 0."""
_PARTNER, _LAMBDA, _TOP, _LEFT = range(4)
_STEPS = 1 << 16


class Mixing(Protocol):
    """Mixes normalised float32 images (batch, channels, height, width) with their partners by the samples' keys.

    Gives the mixed images, and the share (batch,) float64 of each that is the sample's own; the rest is its
    partner's. Its `repr` says what it does.
    """

    def __call__(self, inputs: Tensor, partners: Tensor, keys: Keys) -> tuple[Tensor, NDArray[np.float64]]: ...


def mixing_keys(keys: Keys) -> Keys:
    """The keys (batch,) that mixing draws from, independent of all that a view draws from `keys`."""
    return derive(keys, _STREAM)


def lambdas(keys: Keys, alpha: float) -> NDArray[np.float64]:
    """λ ~ Beta(alpha, alpha), one a key, (batch,): the distribution's quantile at a uniform number."""
    quantile = betaincinv(alpha, alpha, uniform(keys, _LAMBDA))
    # To 16 bits: exact in float32, as 1 − λ then is, and the same where a mathematical library rounds otherwise.
    rounded: NDArray[np.float64] = np.rint(quantile * _STEPS) / _STEPS
    return rounded


def _positive(alpha: float, what: str) -> None:
    if not (alpha > 0 and math.isfinite(alpha)):
        raise LimbeckError(f"{what}: expected an alpha above 0, got {alpha}; 1.0 draws λ evenly from 0 to 1")


@dataclass(frozen=True, slots=True)
class Mixup:
    """λ · image + (1 − λ) · partner with λ ~ Beta(alpha, alpha), drawn for each sample.

    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv:1710.09412, section 2. Raises
    LimbeckError unless alpha is above 0.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.alpha, "Mixup")

    def __call__(self, inputs: Tensor, partners: Tensor, keys: Keys) -> tuple[Tensor, NDArray[np.float64]]:
        shares = lambdas(keys, self.alpha)
        own = torch.from_numpy(shares).float().view(-1, 1, 1, 1)
        # Three rounded steps: a fused one may round otherwise in the tail of a batch.
        return inputs.mul(own).add_(partners.mul(1 - own)), shares


@dataclass(frozen=True, slots=True)
class CutMix:
    """A box of the partner pasted into the image at its own place: 1 − λ of the area, cut off at the border.

    λ ~ Beta(alpha, alpha) and the box's centre are drawn for each sample. The shares are those of the areas after
    the box is cut off. Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", arXiv:1905.04899, equations 1 and 2. Raises LimbeckError unless alpha is above 0.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.alpha, "CutMix")

    def boxes(self, keys: Keys, height: int, width: int) -> NDArray[np.int64]:
        """Top, bottom, left and right of each sample's box, (4, batch), in pixels; bottom and right are outside."""
        side = np.sqrt(1 - lambdas(keys, self.alpha))
        edges = []
        for stream, length in ((_TOP, height), (_LEFT, width)):
            half = (side * length).astype(np.int64) // 2
            centre = (uniform(keys, stream) * length).astype(np.int64)
            edges += [np.maximum(centre - half, 0), np.minimum(centre + half, length)]
        return np.stack(edges)

    def __call__(self, inputs: Tensor, partners: Tensor, keys: Keys) -> tuple[Tensor, NDArray[np.float64]]:
        height, width = inputs.shape[-2:]
        boxes = self.boxes(keys, height, width)
        top, bottom, left, right = torch.from_numpy(boxes).view(4, -1, 1, 1, 1)
        y, x = torch.arange(height).view(-1, 1), torch.arange(width)
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        areas = (boxes[1] - boxes[0]) * (boxes[3] - boxes[2])
        return torch.where(inside, partners, inputs), 1 - areas / (height * width)


def mixed_labels(labels: Tensor, partners: Tensor, shares: NDArray[np.float64], num_classes: int) -> Tensor:
    """share · one-hot(label) + (1 − share) · one-hot(partner), float32 (batch, classes).

    `labels` and `partners` are (batch,) int64; a row is all -1 where either is unlabelled (-1).
    """
    own = torch.from_numpy(shares).view(-1, 1)
    mixed = torch.zeros(len(labels), num_classes, dtype=torch.float64)
    mixed.scatter_add_(1, labels.clamp(min=0).view(-1, 1), own)
    mixed.scatter_add_(1, partners.clamp(min=0).view(-1, 1), 1 - own)
    unlabelled = (labels == UNLABELLED) | (partners == UNLABELLED)
    return mixed.masked_fill_(unlabelled.view(-1, 1), UNLABELLED).float()


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The samples that partners are drawn from, in the order of their ids: `ids`, `rows` of the images and
    `labels`, (n,) int64 each."""

    ids: Tensor
    rows: Tensor
    labels: Tensor

    @classmethod
    def of(cls, wanted: Tensor, ids: Tensor, rows: Tensor, labels: Tensor, name: str) -> Pool:
        """The `wanted` ids, in any order, from a set's `ids`, `rows` and `labels` (n,).

        Raises LimbeckError when none is wanted, or one that the set called `name` does not have.
        """
        members = torch.unique(wanted.long())
        if len(members) == 0:
            raise LimbeckError(f"{name}: the pool of partners is empty; it needs at least one id")
        known, order = torch.sort(ids, stable=True)
        place = torch.searchsorted(known, members).clamp(max=len(known) - 1)
        missing = members[known[place] != members]
        if len(missing):
            raise LimbeckError(
                f"{name}: partner {int(missing[0])} of the pool is not among its {len(ids):,} samples "
                f"({len(missing):,} missing); add mixing before the set is cut, or restore the samples"
            )
        at = order[place]
        return cls(members, rows[at], labels[at])

    def partners(self, keys: Keys) -> Tensor:
        """The place in the pool of each key's partner, (batch,) int64; all are equally likely."""
        return torch.from_numpy((uniform(keys, _PARTNER) * len(self.ids)).astype(np.int64))

    def without_labels(self, ids: Tensor) -> Pool:
        """The same pool with the labels of `ids` hidden (-1)."""
        return Pool(self.ids, self.rows, self.labels.masked_fill(torch.isin(self.ids, ids), UNLABELLED))
