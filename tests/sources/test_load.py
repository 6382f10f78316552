"""limbeck.sources.names and the readers of known sets: real data by name, missing data in one line."""

from __future__ import annotations

import gzip
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import utils

from limbeck.errors import LimbeckError
from limbeck.sources import places
from limbeck.sources.cifar import read_bin, read_zip
from limbeck.sources.idx import read_idx
from limbeck.sources.names import load


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root and cache, and a network that does not answer."""
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "root"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(utils, "download_url", refuse)
    monkeypatch.setattr(utils, "download_and_extract_archive", refuse)
    return tmp_path / "root"


def test_digits_splits_are_stratified_apart_and_fixed() -> None:
    """The test split must not depend on the seed or the validation share, nor share a sample with training."""
    data, other = load("digits"), load("digits", seed=5, validation=0.3)
    ids = [set(split.ids.tolist()) for split in (data.train, data.validation, data.test)]
    assert [len(part) for part in ids] == [1294, 144, 359]
    assert set.union(*ids) == set(range(1797))
    assert torch.equal(other.test.ids, data.test.ids)
    assert set(data.validation.ids.tolist()) <= set(other.validation.ids.tolist())
    assert np.ptp(np.bincount(data.test.labels.numpy())) <= 3
    assert data.classes == tuple("0123456789")


def test_mean_and_std_are_those_of_the_training_pixels() -> None:
    """Statistics that saw the test split leak; statistics of another scale break the models."""
    data = load("digits")
    pixels = data.train.pixels(np.arange(len(data.train))).double().numpy() / 255
    assert data.preprocessing.mean == pytest.approx([pixels.mean()], abs=1e-12)
    assert data.preprocessing.std == pytest.approx([pixels.std()], abs=1e-12)
    assert data.test.preprocessing == data.preprocessing


def test_labelled_hides_training_labels_only() -> None:
    """Validation and test keep their labels; the balance says what is left."""
    data = load("digits", labelled=20)
    assert data.balance.counts == (2,) * 10
    assert data.balance.unlabelled == len(data.train) - 20
    assert int((data.train.labels >= 0).sum()) == 20
    assert int((data.validation.labels < 0).sum()) == int((data.test.labels < 0).sum()) == 0
    assert torch.equal(load("digits", labelled=20, seed=9).train.labels, data.train.labels)


def test_size_resizes_all_splits() -> None:
    """A student for 32×32 gets 32×32."""
    data = load("digits", size=32)
    assert data.preprocessing.size == (32, 32)
    assert data.test.__getitems__([0])["inputs"].shape == (1, 1, 32, 32)


def test_sizes_that_do_not_fit_are_resized_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR at 224 pixels takes 7.5 GB decoded: it must give the same pixels a batch at a time."""
    kept = load("digits", size=16).test.__getitems__([3])
    monkeypatch.setattr("limbeck.sources.parts.MEMORY_LIMIT", 1000)
    later = load("digits", size=16)
    assert torch.equal(later.test.pixels(np.array([3])), load("digits", size=16).test.pixels(np.array([3])))
    assert later.preprocessing.mean == load("digits", size=16).preprocessing.mean
    torch.testing.assert_close(later.test.__getitems__([3])["inputs"], kept["inputs"], rtol=0, atol=1e-6)


def test_mnist(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original files: published counts, pixel sums (manifest of the data) and mean 0.1307, std 0.3081."""
    monkeypatch.setenv(places.VARIABLE, str(data_root))
    if places.find(["mnist_train-images-idx3-ubyte.gz"]) is None:
        pytest.skip(f"MNIST not found in {data_root}: set LIMBECK_DATA")
    data = load("mnist")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [54000, 6000, 10000]
    assert data.preprocessing.mean[0] == pytest.approx(0.1307, abs=2e-4)
    assert data.preprocessing.std[0] == pytest.approx(0.3081, abs=2e-4)
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    found = load(f"idx:{data_root / 'vision'}")
    assert torch.equal(found.train.ids, data.train.ids)
    assert found.preprocessing == data.preprocessing


def test_cifar100_zip_has_the_published_statistics(data_root: Path) -> None:
    """A grid cut in the wrong order shows in the tiles, a channel swap in the published mean and std of train."""
    path = data_root / "vision" / "cifar100.zip"
    if not path.is_file():
        pytest.skip(f"{path} not found: set LIMBECK_DATA")
    (pixels, labels), classes = read_zip(path, "train")
    assert pixels.shape == (50000, 3, 32, 32)
    assert np.bincount(labels).tolist() == [500] * 100
    assert list(classes) == sorted(classes)
    shades = np.arange(256) / 255
    share = np.stack([np.bincount(pixels[:, channel].ravel(), minlength=256) for channel in range(3)]) / 50000 / 1024
    mean = share @ shades
    std = np.sqrt((share * (shades - mean[:, None]) ** 2).sum(axis=1))
    assert mean == pytest.approx([0.50707516, 0.48654887, 0.44091784], abs=1e-7)
    assert std == pytest.approx([0.26733429, 0.25643846, 0.27615047], abs=1e-7)


def test_cifar10_tiles_are_whole_pictures(data_root: Path) -> None:
    """A wrong grid reshape leaves the statistics right and the pictures in stripes: neighbouring rows of a real
    picture are far closer than rows of different pictures."""
    path = data_root / "vision" / "cifar10.zip"
    if not path.is_file():
        pytest.skip(f"{path} not found: set LIMBECK_DATA")
    (pixels, labels), _ = read_zip(path, "test")
    assert np.bincount(labels).tolist() == [500] * 10
    x = pixels[::50].astype(np.float64)
    down, right = np.abs(np.diff(x, axis=2)), np.abs(np.diff(x, axis=3))
    assert down.mean() == pytest.approx(right.mean(), rel=0.2)
    assert down.mean() < 0.3 * np.abs(x[1:] - x[:-1]).mean()


def _idx(array: np.ndarray) -> bytes:
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()


def _write_idx(folder: Path, *, test_label: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.arange(40 * 6 * 6).reshape(40, 6, 6) % 251
    for stem, labels in (("train", np.arange(40) % 2), ("t10k", np.full(40, test_label))):
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(_idx(images))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(labels)))


def test_idx_reads_plain_and_gzipped(tmp_path: Path) -> None:
    """The bytes come back as they were written, first index slowest."""
    _write_idx(tmp_path)
    assert read_idx(tmp_path / "train-images-idx3-ubyte", 3)[1, 0].tolist() == list(range(36, 42))
    assert load(f"idx:{tmp_path}").classes == ("0", "1")


def test_idx_names_what_is_broken(tmp_path: Path) -> None:
    """Cut files, other files, broken gzip, missing files and unseen classes each in one line."""
    _write_idx(tmp_path, test_label=2)
    with pytest.raises(LimbeckError, match="class '2' is in test but has no labelled sample in train"):
        load(f"idx:{tmp_path}")
    images, labels = tmp_path / "train-images-idx3-ubyte", tmp_path / "train-labels-idx1-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    with pytest.raises(LimbeckError, match=r"train-images.*expected 1,456 bytes .*got 1,455; it was cut short"):
        load(f"idx:{tmp_path}")
    images.write_bytes(whole[:9])
    with pytest.raises(LimbeckError, match="cut short"):
        load(f"idx:{tmp_path}")
    images.write_bytes(b"\x89PNG" + whole)
    with pytest.raises(LimbeckError, match=r"starts with 00000803 .*got 89504e47"):
        load(f"idx:{tmp_path}")
    images.write_bytes(whole)
    labels.write_bytes(labels.read_bytes()[:-6])
    with pytest.raises(LimbeckError, match=r"train-labels.*not readable as gzip"):
        load(f"idx:{tmp_path}")
    labels.write_bytes(gzip.compress(_idx(np.zeros(3))))
    with pytest.raises(LimbeckError, match="40 images but 3 labels"):
        load(f"idx:{tmp_path}")
    labels.unlink()
    with pytest.raises(LimbeckError, match=r"train-labels-idx1-ubyte\.gz: no such file"):
        load(f"idx:{tmp_path}")


def _write_cifar10(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 3, 32, 32), dtype=np.uint8)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for name, batch in zip(names, pixels, strict=True):
        records = [bytes([index % 10]) + image.tobytes() for index, image in enumerate(batch)]
        (folder / name).write_bytes(b"".join(records))
    classes = [f"class{index}" for index in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(classes) + "\n\n")
    return pixels


def test_cifar_binary(nowhere: Path) -> None:
    """The official layout: label, then red, green, blue planes; five training files in order."""
    pixels = _write_cifar10(nowhere / "cifar-10-batches-bin")
    data = load("cifar10")
    assert torch.equal(data.test.pixels(np.arange(20)), torch.from_numpy(pixels[5]))
    flat = torch.from_numpy(pixels[:5].reshape(100, 3, 32, 32))
    assert torch.equal(data.train.pixels(np.arange(len(data.train))), flat[data.train.ids])
    assert torch.equal(data.train.labels, data.train.ids % 20 % 10)
    cut = nowhere / "cifar-10-batches-bin" / "test_batch.bin"
    cut.write_bytes(cut.read_bytes()[:-5])
    with pytest.raises(LimbeckError, match=r"test_batch\.bin: expected a multiple of 3,073 bytes, got 61,455"):
        load("cifar10")


def test_cifar100_binary_takes_the_fine_label(tmp_path: Path) -> None:
    """The record has the coarse label first; training on it would give 20 classes."""
    (tmp_path / "train.bin").write_bytes(bytes([7, 99]) + bytes(3072))
    assert read_bin(tmp_path / "train.bin", 2)[1].tolist() == [99]


def test_cifar_pickle_is_refused(nowhere: Path) -> None:
    """Unpickling a downloaded file can run code; the message must say what to take instead."""
    (nowhere / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(LimbeckError, match=r"could run code when read; put the binary .*cifar-10-binary\.tar\.gz"):
        load("cifar10")


def test_broken_zip_names_the_member(nowhere: Path) -> None:
    """A zip without its grids, or none at all."""
    nowhere.mkdir()
    with zipfile.ZipFile(nowhere / "cifar10.zip", "w") as archive:
        archive.writestr("meta.json", '{"fine_label_names": ["cat"]}')
    with pytest.raises(LimbeckError, match=r"cifar10\.zip: cannot read train/cat\.webp"):
        load("cifar10")
    (nowhere / "cifar10.zip").write_bytes(b"not a zip")
    with pytest.raises(LimbeckError, match=r"cifar10\.zip: cannot read meta\.json"):
        load("cifar10")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100"])
def test_offline_says_what_where_and_what_to_do(nowhere: Path, name: str) -> None:
    """The most common failure of a first run: one line, and nothing half downloaded is left."""
    with pytest.raises(LimbeckError, match=rf"{name}: .* is neither in .*no route to host.*put the files into") as info:
        load(name)
    assert "\n" not in str(info.value)
    assert str(nowhere) in str(info.value)
    assert not list(nowhere.glob("**/*"))


def test_download_fills_the_root_and_is_found_again(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download lands whole in the data root, and the second load does not ask the network."""
    source = nowhere.parent / "mirror"
    _write_idx(source)
    asked = []

    def fetch(url: str, root: str, filename: str, md5: str) -> None:
        asked.append((filename, md5))
        plain = source / filename.removesuffix(".gz")
        data = gzip.compress(plain.read_bytes()) if plain.exists() else (source / filename).read_bytes()
        (Path(root) / filename).write_bytes(data)

    monkeypatch.setattr(utils, "download_url", fetch)
    first = load("kmnist")
    assert len(asked) == 4
    assert all(len(md5) == 32 for _, md5 in asked)
    assert torch.equal(load("kmnist").train.ids, first.train.ids)
    assert len(asked) == 4
    monkeypatch.setattr(utils, "download_url", _corrupted)
    with pytest.raises(LimbeckError, match=r"fashion-mnist: .*not found or corrupted"):
        load("fashion-mnist")
    assert [path.name for path in nowhere.iterdir()] == ["kmnist"]


def _corrupted(*_: object, **__: object) -> None:
    raise RuntimeError("File not found or corrupted.")


def test_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable wins; then shared/data beside the repository one stands in; then the cache."""
    monkeypatch.delenv(places.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "project" / ".git").mkdir(parents=True)
    (tmp_path / "project" / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "project" / "deep")
    assert places.data_root() == tmp_path / "cache" / "limbeck"
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert places.data_root() == tmp_path / "shared" / "data"
    monkeypatch.setenv(places.VARIABLE, str(tmp_path / "mine"))
    assert places.data_root() == tmp_path / "mine"


def test_unknown_names_and_sizes() -> None:
    """A typo gets the nearest name."""
    with pytest.raises(LimbeckError, match="data 'minst' is not known; did you mean 'mnist'"):
        load("minst")
    with pytest.raises(LimbeckError, match="at least 1 pixel, got 0"):
        load("digits", size=0)
    with pytest.raises(LimbeckError, match="validation: expected a share between 0 and 1, got 0"):
        load("digits", validation=0)
