"""Pictures as models see them: read, turned, resized and cut in one way, where models learn and where they are used."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from limbeck.errors import LimbeckError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

Fit = Literal["letterbox", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)

_ORIENTATION = 0x0112
_ON_THEIR_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations with which width and height change places."""


@contextmanager
def opened_picture(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """A picture, its pixels not yet decoded, from a file or the bytes of one; what cannot be read is a LimbeckError
    that names it."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            yield image
    except FileNotFoundError:
        raise LimbeckError(f"{name}: no such image file; restore it or take it out of the list") from None
    except LimbeckError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise LimbeckError(f"{name}: not a readable image ({error}); restore or remove it") from None


def eight_bit(image: Image.Image, channels: int, name: str) -> Image.Image:
    """An image with 8 bits a pixel and channel, of which there are 1 (grey) or 3 (RGB; transparency is dropped)."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion cuts off at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise LimbeckError(f"{name}: expected 8 or 16 bits a pixel, got 32 (mode {image.mode}); convert it first")
    if image.mode == "P":  # a palette may be transparent, which Pillow converts in two steps only
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def upright(image: Image.Image, channels: int, name: str) -> Pixels:
    """uint8 (height, width, channels) at the picture's own size, turned as its EXIF tag says."""
    return as_pixels(eight_bit(ImageOps.exif_transpose(image), channels, name), channels)


def middle(image: Image.Image, size: int, channels: int, name: str) -> Pixels:
    """uint8 (size, size, channels): turned as the EXIF tag says, the shorter side resized to `size`, and the middle cut
    out."""
    image = eight_bit(ImageOps.exif_transpose(image), channels, name)
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return as_pixels(image, channels)


def fitted(size: tuple[int, int], canvas: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """The height and width to which a picture is resized; with `letterbox` the rest of the canvas, on the right or at
    the bottom, is filled."""
    if fit == "stretch":
        return canvas
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (max(1, min(most, round(side * scale))) for side, most in zip(size, canvas, strict=True))
    return height, width


def seen_size(image: Image.Image, stated: tuple[int, int] | None, name: str) -> tuple[tuple[int, int], bool]:
    """The height and width of a picture as its annotation means it, and whether it is turned as its EXIF tag says.

    Raises:
        LimbeckError: the annotation states another size.
    """
    width, height = image.size
    turned = image.getexif().get(_ORIENTATION, 1) in _ON_THEIR_SIDE
    seen = (width, height) if turned else (height, width)
    if stated is None or stated == seen:
        return seen, True
    if stated == (height, width):  # whoever annotated it did not look at the tag
        return stated, False
    raise LimbeckError(
        f"{name}: the picture is {seen[1]}×{seen[0]} pixels, its annotation says {stated[1]}×{stated[0]}; "
        "they do not belong together: correct the one or the other"
    )


def on_canvas(
    image: Image.Image, stated: tuple[int, int] | None, canvas: tuple[int, int], fit: Fit, fill: tuple[int, int, int],
    name: str,
) -> Pixels:  # fmt: skip
    """uint8 (height, width, 3) of a canvas with a picture on it; `fill` is the colour of what it does not cover."""
    size, turn = seen_size(image, stated, name)
    new_height, new_width = fitted(size, canvas, fit)
    # A JPEG is decoded at a fraction of its size, if that is still twice as large as what is wanted.
    across, down = (new_width, new_height) if size == image.size[::-1] else (new_height, new_width)
    image.draft(None, (2 * across, 2 * down))
    image = eight_bit(ImageOps.exif_transpose(image) if turn else image, 3, name)
    if image.size != (new_width, new_height):
        image = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    if (new_height, new_width) != canvas:
        whole = Image.new("RGB", canvas[::-1], fill)
        whole.paste(image, (0, 0))
        image = whole
    return as_pixels(image, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where crops of `size` (height, width) lie in their pictures.

    `matrices` (crops, 2, 3) take places in a crop to places in its picture, 0 being the edge of the first pixel in
    both; `mirrored` (crops,) says which are mirror images; `steps` (crops,) is how many of the picture's pixels are one
    of the crop's before any view.
    """

    size: tuple[int, int]
    matrices: Floats
    mirrored: NDArray[np.bool_]
    steps: Floats

    @property
    def factors(self) -> NDArray[np.int64]:
        """By which whole numbers pictures are shrunk first, so that no pixel is skipped, (crops,)."""
        return np.maximum(np.floor(self.steps), 1).astype(np.int64)

    def to_crop(self, joints: Floats) -> Floats:
        """(crops, joints, 2) in the picture to the same in the crop; the middle of the first pixel is (0, 0)."""
        linear, offset = self.matrices[:, :, :2], self.matrices[:, None, :, 2]
        return (joints + 0.5 - offset) @ np.linalg.inv(linear).transpose(0, 2, 1) - 0.5

    def to_picture(self, joints: Floats) -> Floats:
        """The way back."""
        linear, offset = self.matrices[:, :, :2], self.matrices[:, None, :, 2]
        return (joints + 0.5) @ linear.transpose(0, 2, 1) + offset - 0.5


def around(boxes: Floats, size: tuple[int, int], padding: float) -> tuple[Floats, Floats]:
    """The centres (crops, 2) of boxes (crops, 4), and how many of their pixels (crops,) are one of a crop of `size`
    (height, width) that holds them `padding` times."""
    height, width = size
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = boxes[:, 2:] - boxes[:, :2]
    return centres, np.maximum(sides[:, 0] / width, sides[:, 1] / height) * padding


def placement(
    size: tuple[int, int], centres: Floats, steps: Floats, *, angles: Floats | None = None,
    scales: Floats | None = None, mirrored: NDArray[np.bool_] | None = None,
) -> Placement:  # fmt: skip
    """Crops of `size` (height, width) around `centres` (crops, 2), turned by `angles` (crops,) in radians, `scales` of
    the picture's pixels being one of theirs (`steps` where nothing is said)."""
    angles = np.zeros(len(centres)) if angles is None else angles
    mirrored = np.zeros(len(centres), np.bool_) if mirrored is None else mirrored
    scales = steps if scales is None else scales
    cosine, sine = scales * np.cos(angles), scales * np.sin(angles)
    sign = np.where(mirrored, -1.0, 1.0)
    linear = np.stack([np.stack([sign * cosine, -sine], -1), np.stack([sign * sine, cosine], -1)], 1)
    offset = centres - linear @ np.array([size[1] / 2, size[0] / 2])
    return Placement(size, np.concatenate([linear, offset[:, :, None]], 2), mirrored, steps)


def shrunk(pixels: Pixels, factor: int) -> Pixels:
    """A picture of which `factor` × `factor` pixels are averaged to one, uint8 (height, width, channels)."""
    return pixels if factor == 1 else as_pixels(as_image(pixels).reduce(factor), pixels.shape[2])


def cut_out(small: Pixels, matrix: Floats, size: tuple[int, int], factor: int) -> Pixels:
    """A crop of `size` (height, width) of a picture that was shrunk by `factor`, black where there is no picture;
    `matrix` (2, 3) takes places in the crop to places in the picture as it was."""
    height, width = size
    coefficients = (matrix / factor).flatten().tolist()
    crop = as_image(small).transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return as_pixels(crop, small.shape[2])


def as_image(pixels: Pixels) -> Image.Image:
    """uint8 (height, width, channels) as a Pillow image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def as_pixels(image: Image.Image, channels: int) -> Pixels:
    """A Pillow image as uint8 (height, width, channels)."""
    pixels: NDArray[Any] = np.asarray(image)
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], channels))


def normalised(pixels: Pixels, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """`(pixels / 255 - mean) / std` as float32 (batch, channels, height, width), from uint8 (batch, height, width,
    channels)."""
    # Two rounded steps, as where the model learned.
    factor = np.array([1 / (255 * each) for each in std], np.float64).astype(np.float32)
    offset = np.array([-one / other for one, other in zip(mean, std, strict=True)], np.float64).astype(np.float32)
    return np.ascontiguousarray((pixels.astype(np.float32) * factor + offset).transpose(0, 3, 1, 2))
