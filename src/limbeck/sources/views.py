"""Views: augmentation as a pure function of (seed, view number, sample id).

Nothing is drawn from a running generator, so a sample in a view has the same pixels in any batch, any worker
process, on any rank and after a resume: the teacher's stored answer stays true for what the student sees.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError, nearest

Keys = NDArray[np.uint64]
"""One random key a sample, (batch,) uint64; every draw of a view is a hash of it."""

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
NAMES = ("none", "crop", "crop-flip")


class View(Protocol):
    """Augments a uint8 batch (batch, channels, height, width) by its keys; its `repr` says what it does."""

    def __call__(self, images: Tensor, keys: Keys) -> Tensor: ...


def mix(words: Keys) -> Keys:
    """One step of SplitMix64 from each word (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
    generators", OOPSLA): the first number that the generator seeded with the word gives."""
    z = words + np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def keys(seed: int, view: int, ids: NDArray[np.int64]) -> Keys:
    """The keys of samples `ids` (batch,) in one view (an epoch's number, as a rule)."""
    base = mix(np.array([seed & _WORD], dtype=np.uint64))
    base = mix(base ^ np.array([view & _WORD], dtype=np.uint64))
    return mix(base ^ np.ascontiguousarray(ids, dtype=np.int64).view(np.uint64))


def derive(keys: Keys, stream: int) -> Keys:
    """Fresh keys from keys: another stream, independent of the first."""
    return mix(keys + np.uint64(((stream + 1) * _GAMMA) & _WORD))


def uniform(keys: Keys, stream: int) -> NDArray[np.float64]:
    """One number in [0, 1) a key, (batch,) float64; another `stream` gives independent numbers."""
    numbers: NDArray[np.float64] = (derive(keys, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


@dataclass(frozen=True, slots=True)
class Crop:
    """Pads with `padding` zeros on each side and cuts the original size out at a random place."""

    padding: int

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise LimbeckError(f"view Crop: expected a padding of at least 1 pixel, got {self.padding}")

    def offsets(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Top and left of each sample's window in the padded image, (batch,) each, in 0 … 2·padding."""
        places = 2 * self.padding + 1
        return (uniform(keys, 0) * places).astype(np.int64), (uniform(keys, 1) * places).astype(np.int64)

    def __call__(self, images: Tensor, keys: Keys) -> Tensor:
        batch, channels, height, width = images.shape
        pad = self.padding
        padded = np.zeros((batch, channels, height + 2 * pad, width + 2 * pad), dtype=np.uint8)
        padded[:, :, pad : pad + height, pad : pad + width] = images.numpy()
        # A view of all windows costs nothing; indexing it copies just one window a sample.
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        top, left = self.offsets(keys)
        return torch.from_numpy(windows[np.arange(batch), :, top, left])


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirrors left and right in half of the samples."""

    def __call__(self, images: Tensor, keys: Keys) -> Tensor:
        mirrored = np.flatnonzero(uniform(keys, 0) < 0.5)
        pixels = images.numpy().copy()
        pixels[mirrored] = pixels[mirrored, :, :, ::-1]
        return torch.from_numpy(pixels)


def seeded(keys: Keys) -> Iterator[int]:
    """The keys one by one, with torch's CPU generator, `random` and NumPy's global generator seeded from each; after
    the last they are put back, so that dropout and samplers go on as if nothing had been drawn."""
    generator = torch.default_generator
    torch_state, python_state = generator.get_state(), random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    try:
        for key in keys.tolist():
            # torch.manual_seed would seed every accelerator too, and take longer than most transforms.
            generator.manual_seed(key >> 1)
            random.seed(key)
            np.random.seed(key & 0xFFFFFFFF)  # noqa: NPY002
            yield key
    finally:
        generator.set_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def printed(transform: object) -> str:
    """A transform's `repr` on one line, without the addresses in memory that functions print, so that it is the same in
    every process."""
    return " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(transform)).split())


@dataclass(frozen=True, slots=True, repr=False)
class PerSample:
    """Any transform of one uint8 image (channels, height, width), as those of torchvision.transforms.v2, drawn from the
    sample's key.

    Its `repr` says as much as the transform's does: two functions of one name look alike.
    """

    transform: Callable[[Tensor], Tensor]

    def __repr__(self) -> str:
        return f"PerSample({printed(self.transform)})"

    def __call__(self, images: Tensor, keys: Keys) -> Tensor:
        done = [self.transform(image) for image, _ in zip(images, seeded(keys), strict=True)]
        wrong = next((out for out in done if out.dtype != torch.uint8 or out.shape != done[0].shape), None)
        if wrong is not None:
            raise LimbeckError(
                f"view {self.transform}: expected uint8 images of one shape, got {wrong.dtype} "
                f"{tuple(wrong.shape)} beside {tuple(done[0].shape)}; leave ToDtype and Normalize out, they "
                "are done after the view"
            )
        return torch.stack(done)


@dataclass(frozen=True, slots=True)
class Composed:
    """Views one after another, each with keys of its own."""

    views: tuple[View, ...]

    def __call__(self, images: Tensor, keys: Keys) -> Tensor:
        for stage, view in enumerate(self.views):
            images = view(images, derive(keys, stage))
        return images


def compose(*views: View) -> View:
    """The views one after another. Raises LimbeckError when there is none."""
    if not views:
        raise LimbeckError("compose: expected at least one view, got none; take the view 'none' instead")
    return views[0] if len(views) == 1 else Composed(views)


def named(name: str, size: tuple[int, int]) -> View | None:
    """The view `none` (None), `crop` (padded by an eighth of the size) or `crop-flip`.

    `size` is (height, width) in pixels. Raises LimbeckError for another name.
    """
    if name == "none":
        return None
    crop = Crop(max(1, min(size) // 8))
    if name == "crop":
        return crop
    if name == "crop-flip":
        return compose(crop, Flip())
    raise LimbeckError(f"view {name!r} is not known{nearest(name, NAMES)}")
