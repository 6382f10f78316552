"""Pictures as they were when they were labelled: the views, partners and normalisation that a label store holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.sources import Data, ImageSet, ViewedSet
from limbeck.sources.mixing import Mixing
from limbeck.sources.views import View
from limbeck.store import LabelStore
from limbeck.tasks.task import TaskData
from limbeck.types import Preprocessing

S = TypeVar("S", bound=ViewedSet)


def viewed_as_labelled(
    split: ImageSet, view: View | None, mixing: Mixing | None, store: LabelStore, data: TaskData
) -> ImageSet:
    """A split in the views that a store holds, mixed with the partners that its samples had.

    Raises:
        LimbeckError: the store holds other views, or some of the partners are not in the training split any more.
    """
    # The partners of mixing are drawn among what was labelled, whatever the split holds now.
    return _mixed(in_labelled_views(split, view, store, mixing), mixing, store, data)


def in_labelled_views(split: S, view: Any, store: LabelStore, mixing: Mixing | None = None) -> S:
    """A split in the views that a store holds.

    Raises:
        LimbeckError: the store holds other views.
    """
    views = store.manifest.plan.views
    here = (repr(view), repr(mixing)) if view is not None or mixing is not None else None
    there = (views.augmentation, views.mixing) if views is not None else None
    if here != there:
        raise LimbeckError(
            f"the label store {store.folder} holds {_augmentation(there)}, the recipe asks for {_augmentation(here)}; "
            "set data.augment back, or label the data again"
        )
    return split if views is None else split.with_view(view, views.seed, count=views.count)


def _pool(store: LabelStore, data: TaskData) -> Tensor:
    """The samples among which mixing drew its partners: those of the training split when it was labelled."""
    views = store.manifest.plan.views
    if views is not None and views.count > 1:  # the test split has one view
        pool: Tensor = store.ids[store.views == 1].unique()
        return pool
    ids: Tensor = store.ids.unique()
    known: Tensor = ids[~torch.isin(ids, data.test.ids)]
    return known


def _mixed(split: ImageSet, mixing: Mixing | None, store: LabelStore, data: TaskData) -> ImageSet:
    """A split mixed with the partners that its samples had when they were labelled."""
    if mixing is None:
        return split
    pool = _pool(store, data)
    gone = int((~torch.isin(pool, split.ids)).sum())
    if gone:
        raise LimbeckError(
            f"{gone} of the {len(pool):,} samples among which the label store {store.folder} drew partners for mixing "
            "are not in the training split any more, so what its teacher saw cannot be made again; restore them (or "
            "data.validation), label the data again, or do without mixing"
        )
    return split.with_mixing(mixing, pool=pool)


def _pixels(store: LabelStore) -> Preprocessing | None:
    """How pixels were prepared for a store; None where it does not say."""
    plain = store.manifest.plan.preprocessing
    if plain is None:
        return None
    mean, std = (tuple(float(value) for value in plain[key]) for key in ("mean", "std"))
    height, width = plain["size"]
    return Preprocessing((height, width), plain["channels"], mean, std)


def prepared_as_labelled(data: Data, stores: Sequence[LabelStore], say: Callable[[str], None]) -> Data:
    """The data normalised as when it was labelled: its own mean and deviation change with every sample added to it."""
    wanted = next((pixels for store in stores if (pixels := _pixels(store)) is not None), None)
    given = data.train.preprocessing
    if wanted is None or wanted == given or (wanted.size, wanted.channels) != (given.size, given.channels):
        return data
    say("data: normalised as when it was labelled, not by the mean and deviation that it has now")
    splits = {name: getattr(data, name).with_preprocessing(wanted) for name in ("train", "validation", "test")}
    return replace(data, **splits)


def _augmentation(described: tuple[str, str] | None) -> str:
    if described is None:
        return "samples as they are"
    return " and ".join(part for part in described if part != "None")
