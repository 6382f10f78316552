"""Where data is: the data root, the cache, and the downloads that fill it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets import utils

from limbeck.errors import LimbeckError
from limbeck.files import staged_folder

VARIABLE = "LIMBECK_DATA"
DOWNLOAD_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


def cache_root() -> Path:
    """The user's cache: `limbeck` in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "limbeck"


def data_root() -> Path:
    """$LIMBECK_DATA; else shared/data beside the working directory's repository; else the user's cache."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    here = Path.cwd()
    repository = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    if repository is not None and (repository.parent / "shared" / "data").is_dir():
        return repository.parent / "shared" / "data"
    return cache_root()


def find(relative: Iterable[str]) -> Path | None:
    """The first of these relative paths that exists in the data root, its folder `vision`, or the cache."""
    names = list(relative)
    for root in (data_root(), data_root() / "vision", cache_root()):
        for name in names:
            if (root / name).exists():
                return root / name
    return None


def download(name: str, folder: str, files: Sequence[tuple[str, str]], mirrors: Sequence[str]) -> Path:
    """Downloads `files` (file name, md5) into `folder` of $LIMBECK_DATA or the cache, whole or not at all.

    Unpacks archives. Raises LimbeckError saying what is missing, where it was looked for, and what to do.
    """
    root = data_root() if os.environ.get(VARIABLE) else cache_root()
    reason = ""
    for mirror in mirrors:
        try:
            with staged_folder(root / folder) as staging, _timeout():
                for file, md5 in files:
                    _fetch(mirror + file, staging, file, md5)
            return root / folder
        except (OSError, HTTPException, RuntimeError) as error:  # the last is torchvision's for a wrong md5
            reason = f"{mirror}{files[0][0]}: {' '.join(str(error).split()) or type(error).__name__}"
    raise LimbeckError(
        f"{name}: {files[0][0]} is neither in {data_root()} nor in {cache_root()}, and the download failed "
        f"({reason}); put the files into {root / folder}, or set {VARIABLE} to the folder that has them"
    )


def _fetch(url: str, folder: Path, file: str, md5: str) -> None:
    if file.endswith(".tar.gz"):
        utils.download_and_extract_archive(url, str(folder), filename=file, md5=md5, remove_finished=True)
    else:
        utils.download_url(url, str(folder), filename=file, md5=md5)


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
