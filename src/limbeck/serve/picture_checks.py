"""Whether the bytes of a picture may be decoded: of a known format, and not larger than they look."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from limbeck.artifact import PictureCard
from limbeck.serve.limits import Limits
from limbeck.serve.refusals import Refused

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""What Pillow may read of strangers: not those that run other programs, or hardly anybody looks after."""


def check_picture(data: bytes, name: str, card: PictureCard | None, limits: Limits, left: int) -> tuple[int, int]:
    """The width and height of a picture as its file says; its pixels, of which `left` are the most, are not decoded.

    Raises:
        Refused: it is none, or has too many pixels, or would have while it is resized.
    """
    if not data:
        raise Refused(422, f"{name}: is empty; send the bytes of a picture")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them raise
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            raise _too_many(name, limits) from None
        raise _unreadable(name) from None
    if width * height > left:
        raise _too_many(name, limits, width, height)
    if card is not None and card.resized == "middle":
        # The shorter side becomes that of the model's input: a line of pixels becomes a very long picture.
        grown = card.size[0] ** 2 * max(width, height) / min(width, height)
        if grown > limits.pixels:
            raise Refused(422, f"{name}: is {width} × {height} pixels, too long and narrow; cut a part of it out")
    return width, height


def is_readable(data: bytes) -> bool:
    """Whether a picture can be decoded and turned."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # as above
        return False
    return True


def _unreadable(name: str) -> Refused:
    known = ", ".join(FORMATS)
    return Refused(422, f"{name}: not a readable picture; send the bytes of a file of one of {known}")


def _too_many(name: str, limits: Limits, width: int = 0, height: int = 0) -> Refused:
    size = f"is {width} × {height} pixels; " if width else ""
    most = limits.pixels / 1e6
    return Refused(
        413,
        f"{name}: {size}{most:g} million pixels are the most of a request; send smaller ones, or several requests "
        "(whoever runs the server: --max-megapixels)",
    )
