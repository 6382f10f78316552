"""Image folders: one folder a class, under train/, val/ and test/ or all together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.sources.decode import SUFFIXES, Files, decoded
from limbeck.sources.ids import text_ids
from limbeck.sources.parts import SPLIT_NAMES, Part, Source, check_classes
from limbeck.types import UNLABELLED

UNLABELLED_FOLDER = "unlabelled"


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def read(path: str, size: int | None) -> Source:
    """`folder:PATH`: images by class. A class called `unlabelled` gives training images without a label.

    Raises LimbeckError when there is nothing to read, an image is broken, or a class has no training image.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise LimbeckError(f"folder:{path}: no such folder; it must hold one folder of images a class")
    named = {SPLIT_NAMES[sub.name.lower()]: sub for sub in _subfolders(root) if sub.name.lower() in SPLIT_NAMES}
    splits = named if "train" in named else {"train": root}
    found = {part: {sub.name: _files(sub) for sub in _subfolders(folder)} for part, folder in splits.items()}
    for part, by_class in found.items():
        if not any(by_class.values()):
            raise LimbeckError(
                f"{splits[part]}: the {part} split is empty; expected one folder of images a class "
                f"({', '.join(sorted(SUFFIXES))})"
            )
    for by_class in found.values():
        for name, files in by_class.items():
            if not files and not any(other.get(name) for other in found.values()):
                raise LimbeckError(f"{root}: class folder {name!r} has no image; add some or remove the folder")
    classes = tuple(sorted({name for by_class in found.values() for name in by_class} - {UNLABELLED_FOLDER}))
    index = {name: number for number, name in enumerate(classes)} | {UNLABELLED_FOLDER: UNLABELLED}
    paths, labels = {}, {}
    for part, by_class in found.items():
        paths[part] = tuple(file for files in by_class.values() for file in files)
        labels[part] = np.repeat([index[name] for name in by_class], [len(files) for files in by_class.values()])
    check_classes(labels, classes, str(root))
    images = decoded({part: Files(files) for part, files in paths.items()}, size)
    return Source(
        {
            part: Part(images[part], labels[part], text_ids([file.relative_to(root).as_posix() for file in files]))
            for part, files in paths.items()
        },
        classes,
    )
