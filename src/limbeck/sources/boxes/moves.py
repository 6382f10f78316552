"""Augmentation that moves boxes with their pixels, as a function of the sample's key."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.views import Keys, printed, seeded

VISIBLE = 0.25
"""The share of a box that must be left in the picture; what is cut down further is no object any more."""

NAMES = ("none", "flip", "flip-crop")

SCALES = (0.4, 1.0)
"""How much of a picture's area `flip-crop` keeps."""


class BoxView(Protocol):
    """Augments a uint8 batch (batch, 3, height, width) and its boxes, for each picture (boxes, 4) xyxy, by its keys; a
    box that is gone has no width. Its `repr` says what it does."""

    def __call__(self, images: Tensor, boxes: Sequence[Tensor], keys: Keys) -> tuple[Tensor, list[Tensor]]: ...


@dataclass(frozen=True, slots=True, repr=False)
class PerPicture:
    """Any transforms of torchvision.transforms.v2, which move boxes with pixels, drawn from the picture's key.

    A box is gone where less than VISIBLE of it, or less than a pixel, is left in the picture.
    """

    transform: v2.Compose

    def __repr__(self) -> str:
        return f"PerPicture({printed(self.transform)}, visible={VISIBLE})"

    def __call__(self, images: Tensor, boxes: Sequence[Tensor], keys: Keys) -> tuple[Tensor, list[Tensor]]:
        canvas: tuple[int, int] = (images.shape[2], images.shape[3])
        seen, moved = [], []
        for image, own, _ in zip(images, boxes, seeded(keys), strict=True):
            new, kept = self._one(image, own, canvas)
            seen.append(new)
            moved.append(kept)
        return torch.stack(seen), moved

    def _one(self, image: Tensor, boxes: Tensor, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
        # Unclamped, so that it is known how much of each box is left.
        placed: Any = tv_tensors.BoundingBoxes(
            boxes.reshape(-1, 4), format="XYXY", canvas_size=canvas, clamping_mode=None
        )
        given = {"image": tv_tensors.Image(image), "boxes": placed, "labels": torch.arange(len(boxes))}
        found = self.transform(given)
        new: Tensor = found["image"].as_subclass(Tensor)
        if new.dtype != torch.uint8 or new.shape != image.shape:
            raise LimbeckError(
                f"augmentation {printed(self.transform)}: gave {new.dtype} {tuple(new.shape)}, expected uint8 "
                f"{tuple(image.shape)}; end with a transform that restores the size (Resize, RandomResizedCrop), and "
                "leave ToDtype and Normalize out, they are done after it"
            )
        result = boxes.new_zeros(len(boxes), 4)
        # A transform may have left boxes out.
        result[found["labels"]] = visible(found["boxes"].as_subclass(Tensor).float(), canvas)
        return new, result


def visible(boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """`boxes` (boxes, 4) xyxy cut off at the edges of a picture of `canvas`, height and width; 0 where too little is
    left."""
    height, width = canvas
    cut = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    left = (sides.prod(1) >= VISIBLE * whole.clamp(min=0).prod(1)) & (sides >= whole.clamp(max=1.0)).all(1)
    return cut * (left & (sides > 0).all(1)).unsqueeze(1)


def build_box_view(augment: Any, canvas: tuple[int, int], where: str) -> BoxView | None:
    """The augmentation of a recipe: `none` (None), `flip`, `flip-crop`, or torchvision.transforms.v2 classes in order.

    A transform that needs a `size` gets that of the canvas, (height, width), where none is given.

    Raises:
        LimbeckError: a name or an option is not known.
    """
    if isinstance(augment, str):
        if augment not in NAMES:
            raise LimbeckError(f"{where}: unknown augmentation {augment!r}{nearest(augment, NAMES)}, or transforms")
        steps: list[Any] = ["RandomHorizontalFlip"] if augment != "none" else []
        if augment == "flip-crop":
            # The shape of a crop, compared with that of the picture.
            ratios = [canvas[1] / canvas[0] * each for each in (3 / 4, 4 / 3)]
            steps.append({"RandomResizedCrop": {"scale": list(SCALES), "ratio": ratios}})
        augment = steps
    if not isinstance(augment, Sequence):
        raise LimbeckError(f"{where}: expected a name or a list of transforms, got {augment!r:.60}")
    transforms = [
        _transform(name, options, canvas, where)
        for entry in augment
        for name, options in _options(entry, where).items()
    ]
    return PerPicture(v2.Compose(transforms)) if transforms else None


def _options(entry: Any, where: str) -> Mapping[str, Any]:
    if isinstance(entry, str):
        return {entry: {}}
    if not isinstance(entry, Mapping):
        raise LimbeckError(f"{where}: expected a transform's name, or {{name: options}}, got {entry!r:.60}")
    return entry


def _transform(name: str, options: Any, canvas: tuple[int, int], where: str) -> Any:
    if not isinstance(options, Mapping):
        raise LimbeckError(f"{where}: expected {name}: {{option: value}}, got {options!r:.60} for its options")
    known = [each for each in dir(v2) if inspect.isclass(getattr(v2, each)) and each[0].isupper()]
    if name not in known or name in ("MixUp", "CutMix"):
        raise LimbeckError(f"{where}: torchvision.transforms.v2 has no {name!r} for boxes{nearest(name, known)}")
    kind = getattr(v2, name)
    asked = inspect.signature(kind).parameters.get("size")
    sized = {"size": list(canvas)} if asked is not None and asked.default is inspect.Parameter.empty else {}
    try:
        return kind(**{**sized, **options})
    except (TypeError, ValueError) as error:
        raise LimbeckError(f"{where}: {name}: {error}") from None
