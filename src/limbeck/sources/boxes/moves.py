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
"""The share of an object that must be left in the picture, unless what is left covers as much of the picture; what is
cut down further is no object any more, nor background: it is ignored."""

_GUIDE = -1
"""In the place of its number: a box that is not moved for its own sake."""

NAMES = ("none", "flip", "flip-crop")

SCALES = (0.4, 1.0)
"""How much of a picture's area `flip-crop` keeps."""


class BoxView(Protocol):
    """Augments a uint8 batch (batch, 3, height, width) and its boxes, for each picture (boxes, 4) xyxy, by its keys.
    What boxes decide (which part to crop) is decided by the `guides` of each picture, (guides, 4), None for its boxes.
    Boxes come back as they are moved, not cut off at the edges; one that is gone has no width. Its `repr` says what it
    does."""

    def __call__(
        self, images: Tensor, boxes: Sequence[Tensor], keys: Keys, guides: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]: ...


class _Names(tv_tensors.TVTensor):  # type: ignore[misc]
    """Which box each is, (boxes,) int64; transforms are shown it, unlike a plain tensor, and let it be."""


@dataclass(frozen=True, slots=True, repr=False)
class PerPicture:
    """Any transforms of torchvision.transforms.v2, which move boxes with pixels, drawn from the picture's key."""

    transform: v2.Compose

    def __repr__(self) -> str:
        return f"PerPicture({printed(self.transform)}, visible={VISIBLE})"

    def __call__(
        self, images: Tensor, boxes: Sequence[Tensor], keys: Keys, guides: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        pictures = zip(images, boxes, boxes if guides is None else guides, seeded(keys), strict=True)
        seen, moved = zip(*(self._one(image, own, guiding) for image, own, guiding, _ in pictures), strict=True)
        return torch.stack(seen), list(moved)

    def _one(self, image: Tensor, boxes: Tensor, guides: Tensor) -> tuple[Tensor, Tensor]:
        # Unclamped, so that it is known how much of each box is left.
        placed: Any = tv_tensors.BoundingBoxes(
            torch.cat([boxes, guides]).reshape(-1, 4),
            format="XYXY",
            canvas_size=(image.shape[1], image.shape[2]),
            clamping_mode=None,
        )
        names = torch.cat([torch.arange(len(boxes)), torch.full((len(guides),), _GUIDE)]).as_subclass(_Names)
        found = self.transform({"image": tv_tensors.Image(image), "boxes": placed, "labels": names})
        new: Tensor = found["image"].as_subclass(Tensor)
        if new.dtype != torch.uint8 or new.shape != image.shape:
            raise LimbeckError(
                f"augmentation {printed(self.transform)}: gave {new.dtype} {tuple(new.shape)}, expected uint8 "
                f"{tuple(image.shape)}; end with a transform that restores the size (Resize, RandomResizedCrop), and "
                "leave ToDtype and Normalize out, they are done after it"
            )
        result = boxes.new_zeros(len(boxes), 4)
        # A transform may have left boxes out.
        names = found["labels"].as_subclass(Tensor)
        own = names != _GUIDE
        result[names[own]] = found["boxes"].as_subclass(Tensor).float()[own]
        return new, result


class RandomIoUCrop(v2.RandomIoUCrop):  # type: ignore[misc]
    """torchvision's, whose crop is decided by the guides alone, and which leaves it to others what is gone."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image, placed, names = flat_inputs
        guides = tv_tensors.wrap(placed[names == _GUIDE], like=placed)
        params: dict[str, Any] = super().make_params([image, guides])
        return {**params, "is_within_crop_area": torch.ones(len(placed), dtype=torch.bool)} if params else params


def cut_off(boxes: Tensor, canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`boxes` (boxes, 4) xyxy cut off at the edges of a picture of `canvas`, height and width, 0 where nothing is left;
    and of which too little is left to be an object, (boxes,) boolean: less than a pixel, or less than VISIBLE both of
    the box and of the picture."""
    height, width = canvas
    cut = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    enough = sides.prod(1) >= VISIBLE * whole.clamp(min=0).prod(1).clamp(max=height * width)
    left = (sides > 0).all(1)
    return cut * left.unsqueeze(1), ~(left & enough & (sides >= whole.clamp(max=1.0)).all(1))


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
    if name == "SanitizeBoundingBoxes":
        raise LimbeckError(
            f"{where}: {name} would leave out what a crop has cut; take it out: what is gone is left out anyway"
        )
    kind = RandomIoUCrop if name == "RandomIoUCrop" else getattr(v2, name)
    asked = inspect.signature(kind).parameters.get("size")
    sized = {"size": list(canvas)} if asked is not None and asked.default is inspect.Parameter.empty else {}
    try:
        return kind(**{**sized, **options})
    except (TypeError, ValueError) as error:
        raise LimbeckError(f"{where}: {name}: {error}") from None
