"""limbeck.sources.decode: files of every kind come out upright, in one size and with the right channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.errors import LimbeckError
from limbeck.sources.decode import Decoded, Encoded, Files, decode, decoded

RED, BLUE = (250, 10, 20), (5, 15, 240)


def _files(*paths: Path) -> Encoded:
    return Files(paths)


def _two_colours(width: int = 40, height: int = 20) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    """Phones store pictures lying down: tag 6 means that the stored left side is up."""
    exif = Image.Exif()
    exif[0x0112] = 6
    _two_colours(40, 40).save(tmp_path / "phone.png", exif=exif)
    got = decode(_files(tmp_path / "phone.png"), 0, 40, 3)
    assert got[:, 5, 20].tolist() == list(RED)
    assert got[:, 35, 20].tolist() == list(BLUE)


def test_shorter_side_is_resized_and_the_middle_cut(tmp_path: Path) -> None:
    """Squeezing a 2:1 picture into a square changes every shape in it."""
    image = Image.new("RGB", (80, 20), RED)
    image.paste(BLUE, (30, 0, 50, 20))
    image.save(tmp_path / "wide.png")
    assert (decode(_files(tmp_path / "wide.png"), 0, 20, 3) == torch.tensor(BLUE).view(3, 1, 1)).all()
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "tall.png")
    assert decode(_files(tmp_path / "tall.png"), 0, 10, 3)[:, 5, 5].tolist() == list(BLUE)


@pytest.mark.parametrize("size", [7, 20, 33])
def test_odd_sizes_come_out_exact(tmp_path: Path, size: int) -> None:
    """Rounding the longer side must never give an image one pixel short."""
    Image.new("L", (31, 47), 100).save(tmp_path / "odd.png")
    assert decode(_files(tmp_path / "odd.png"), 0, size, 1).shape == (1, size, size)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "L", "LA", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """One odd file in a folder of RGB must not fail in the middle of an epoch, nor come out black or inverted."""
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 8), 200 * 257, dtype=np.uint16))
    else:
        image = Image.new("RGB", (8, 8), (200, 200, 200))
        image = image.quantize(4) if mode == "P" else image.convert(mode)
    suffix = "tif" if mode == "CMYK" else "png"
    image.save(tmp_path / f"odd.{suffix}", **({"transparency": b"\x00\xff"} if mode == "P" else {}))
    got = decode(_files(tmp_path / f"odd.{suffix}"), 0, 8, 3)
    assert got.shape == (3, 8, 8)
    assert got.dtype == torch.uint8
    if mode != "1":
        assert (got.int() - 200).abs().max() <= 3


def test_grey_stays_one_channel_only_if_all_are(tmp_path: Path) -> None:
    """Three equal channels of MNIST cost a third more compute; one channel of a colour set loses the colour."""
    Image.new("L", (8, 8), 9).save(tmp_path / "grey.png")
    _two_colours(8, 8).save(tmp_path / "colour.png")
    grey = decoded({"train": _files(tmp_path / "grey.png")}, None)["train"]
    assert grey.take(torch.tensor([0])).shape == (1, 1, 8, 8)
    mixed = decoded({"train": _files(tmp_path / "grey.png"), "test": _files(tmp_path / "colour.png")}, None)
    assert mixed["train"].take(torch.tensor([0])).tolist() == torch.full((1, 3, 8, 8), 9).tolist()
    assert mixed["test"].take(torch.tensor([0]))[0, :, 0, 0].tolist() == list(RED)


def test_default_size_is_the_median_of_the_shorter_sides(tmp_path: Path) -> None:
    """One thumbnail among photos must not shrink the whole set."""
    for index, side in enumerate((10, 50, 60)):
        Image.new("L", (side, 70)).save(tmp_path / f"{index}.png")
    files = _files(*sorted(tmp_path.iterdir()))
    assert decoded({"train": files}, None)["train"].take(torch.tensor([0])).shape == (1, 1, 50, 50)
    Image.new("L", (900, 800)).save(tmp_path / "large.png")
    large = decoded({"train": _files(tmp_path / "large.png")}, None)["train"]
    assert large.take(torch.tensor([0])).shape == (1, 1, 224, 224)


def test_large_sets_are_decoded_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that does not fit must not be tried to fit, and must give the same pixels."""
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    files = _files(*sorted(tmp_path.iterdir()))
    rows = torch.tensor([2, 0])
    kept = decoded({"train": files}, 8)["train"]
    monkeypatch.setattr("limbeck.sources.decode.MEMORY_LIMIT", 3 * 3 * 64 - 1)
    later = decoded({"train": files}, 8)["train"]
    assert kept.kept
    assert isinstance(later, Decoded)
    assert torch.equal(later.take(rows), kept.take(rows))


def test_broken_images_are_named(tmp_path: Path) -> None:
    """`cannot identify image file` without the file's name costs an afternoon in a set of a million."""
    whole = tmp_path / "whole.jpg"
    _two_colours(200, 200).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    for name in ("cut.jpg", "text.png", "empty.png"):
        with pytest.raises(LimbeckError, match=rf"{name}: not a readable image") as info:
            decoded({"train": _files(whole, tmp_path / name)}, 8)
        assert "\n" not in str(info.value)
    with pytest.raises(LimbeckError, match=r"gone\.png: no such image file"):
        decode(_files(tmp_path / "gone.png"), 0, 8, 3)
    Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(LimbeckError, match=r"float\.tif: expected 8 or 16 bits a pixel, got 32 \(mode F\)"):
        decode(_files(tmp_path / "float.tif"), 0, 8, 1)
