"""Augmentations by name: what a recipe says of views and of mixing becomes functions of pixels."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torchvision.transforms import v2

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.mixing import CutMix, Mixup
from limbeck.sources.views import PerSample, View, named


def build_view(augment: Any, size: int, where: str) -> View | None:
    """The augmentation of a recipe: a named one, or torchvision.transforms.v2 classes in order."""
    if isinstance(augment, str):
        return named(augment, (size, size))
    if not isinstance(augment, Sequence):
        raise LimbeckError(f"{where}: expected a name or a list of transforms, got {augment!r:.60}")
    transforms = []
    for entry in augment:
        if not isinstance(entry, str | Mapping):
            raise LimbeckError(f"{where}: expected a transform's name, or {{name: options}}, got {entry!r:.60}")
        for name, options in ({entry: {}} if isinstance(entry, str) else entry).items():
            if not isinstance(options, Mapping):
                raise LimbeckError(f"{where}: expected {name}: {{option: value}}, got {options!r:.60} for its options")
            known = [each for each in dir(v2) if inspect.isclass(getattr(v2, each)) and each[0].isupper()]
            if name not in known:
                raise LimbeckError(f"{where}: torchvision.transforms.v2 has no {name!r}{nearest(name, known)}")
            try:
                transforms.append(getattr(v2, name)(**options))
            except (TypeError, ValueError) as error:
                raise LimbeckError(f"{where}: {name}: {error}") from None
    return PerSample(v2.Compose(transforms)) if transforms else None


MIXING: dict[str, type[Mixup] | type[CutMix]] = {"MixUp": Mixup, "CutMix": CutMix}
"""What torchvision calls its mixing transforms; these are functions of the sample instead of the batch."""


def build_augmentation(augment: Any, size: int, where: str) -> tuple[View | None, Mixup | CutMix | None]:
    """The views and the mixing of a recipe; a list may end with `MixUp` or `CutMix` (with `alpha`)."""
    if isinstance(augment, str) or not isinstance(augment, Sequence):
        return build_view(augment, size, where), None
    mixing: Mixup | CutMix | None = None
    transforms = list(augment)
    if transforms:
        last = transforms[-1]
        name, options = next(iter(last.items())) if isinstance(last, Mapping) and last else (last, {})
        if isinstance(name, str) and name in MIXING:
            try:
                mixing = MIXING[name](**options)
            except TypeError as error:
                raise LimbeckError(f"{where}: {name}: {error}") from None
            transforms.pop()
    for entry in transforms:
        if any(name in MIXING for name in (entry if isinstance(entry, Mapping) else [entry])):
            raise LimbeckError(f"{where}: {' and '.join(MIXING)} mix finished views; put one of them last")
    return build_view(transforms, size, where), mixing
