"""Hugging Face data sets: a name on the hub, a folder that `datasets` reads, or what `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from limbeck.errors import LimbeckError, nearest
from limbeck.sources.decode import decoded
from limbeck.sources.parts import SPLIT_NAMES, Integers, Part, Source, check_classes, number_classes
from limbeck.types import UNLABELLED

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")


@dataclass(frozen=True, slots=True)
class ArrowColumn:
    """The encoded images of a data set's column, not decoded by `datasets`."""

    dataset: datasets.Dataset
    column: str
    what: str

    def __len__(self) -> int:
        return len(self.dataset)

    def source(self, row: int) -> Path | bytes:
        """The image's bytes, or its file where the data set only points at it."""
        stored = self.dataset[row][self.column]
        if stored is None:
            raise LimbeckError(f"{self.name(row)}: the image is missing; remove the row")
        encoded: bytes | None = stored["bytes"]
        return Path(stored["path"]) if encoded is None else encoded

    def name(self, row: int) -> str:
        """The row, as an error calls it."""
        return f"{self.what}, row {row}, column {self.column!r}"


def load_splits(name: str, names: Mapping[str, str] = SPLIT_NAMES) -> dict[str, datasets.Dataset]:
    """The splits of a data set by their `names` here; others are left out. Raises LimbeckError where it cannot be
    loaded or has no train."""
    path = Path(name).expanduser()
    saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
    try:
        found: Any = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(name)
    except Exception as error:  # the loaders of `datasets` raise errors of many packages
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LimbeckError(
            f"datasets:{name}: cannot be loaded ({reason}); give a folder, or a name on the hub while online"
        ) from None
    splits = {"train": found} if isinstance(found, datasets.Dataset) else dict(found)
    known = {names[split.lower()]: data for split, data in splits.items() if split.lower() in names}
    if "train" not in known:
        raise LimbeckError(f"datasets:{name}: no train split; it has {', '.join(splits)}")
    return known


def image_column_of(features: dict[str, Any], given: str | None, where: str) -> str:
    """The column of a data set's images. Raises LimbeckError where it is not clear, or the one given is none."""
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if given is not None:
        if given not in images:
            raise LimbeckError(f"{where}: {given!r} is no image column{nearest(given, images or features)}")
        return given
    if len(images) != 1:
        raise LimbeckError(
            f"{where}: expected one image column, got {len(images)} among {', '.join(features)}; "
            "say which it is with image_column"
        )
    return images[0]


def label_column_of(features: dict[str, Any], given: str | None, where: str) -> str:
    """The column of a data set's labels. Raises LimbeckError where it is not clear, or the one given is not there."""
    if given is not None:
        if given not in features:
            raise LimbeckError(f"{where}: no column {given!r}{nearest(given, features)}")
        return given
    for column in LABEL_COLUMNS:
        if column in features:
            return column
    labels = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(labels) != 1:
        raise LimbeckError(f"{where}: no label column among {', '.join(features)}; say which it is with label_column")
    return labels[0]


def _labels(parts: dict[str, datasets.Dataset], column: str, where: str) -> tuple[dict[str, Integers], tuple[str, ...]]:
    """Labels (n,) by part, and the classes; a missing label is -1."""
    feature = parts["train"].features[column]
    values = {part: list(data[column]) for part, data in parts.items()}
    for part, column_values in values.items():
        for row, value in enumerate(column_values):
            if isinstance(value, float) and not float(value).is_integer():
                raise LimbeckError(
                    f"{where}, {part} row {row}, column {column!r}: expected a whole number, got {value}; "
                    "use -1 for an unlabelled image"
                )
    found = {value for column_values in values.values() for value in column_values if value is not None}
    if isinstance(feature, datasets.ClassLabel):
        classes = tuple(feature.names)
    elif found and all(isinstance(value, str) for value in found):
        classes = tuple(sorted(found))
    elif found and all(isinstance(value, int | float) for value in found):
        classes = number_classes((int(value) for value in found if value != UNLABELLED), f"{where}: column {column!r}")
    else:
        raise LimbeckError(f"{where}: column {column!r} is {feature}; expected class names or whole numbers")
    index = {name: number for number, name in enumerate(classes)}

    def number(value: Any) -> int:
        if value is None:
            return UNLABELLED
        return index[value] if isinstance(value, str) else int(value)

    return {part: np.array([number(value) for value in found], np.int64) for part, found in values.items()}, classes


def read(name: str, size: int | None, image_column: str | None, label_column: str | None) -> Source:
    """`datasets:NAME-or-path`; columns are found by type and by their usual names.

    Raises LimbeckError when it cannot be loaded, a column is not clear, or an image or label is broken.
    """
    where = f"datasets:{name}"
    parts = load_splits(name)
    features = parts["train"].features
    image, label = image_column_of(features, image_column, where), label_column_of(features, label_column, where)
    labels, classes = _labels(parts, label, where)
    if "test" in labels and (labels["test"] == UNLABELLED).all() and "validation" in labels:
        del parts["test"], labels["test"]  # the hub's competitions keep the test labels to themselves
    check_classes(labels, classes, where)
    encoded = {
        part: ArrowColumn(data.select_columns([image]).cast_column(image, datasets.Image(decode=False)), image, where)
        for part, data in parts.items()
    }
    images = decoded(encoded, size)
    ids, first = {}, 0
    for part, values in labels.items():
        ids[part] = np.arange(first, first + len(values), dtype=np.int64)
        first += len(values)
    return Source({part: Part(images[part], labels[part], ids[part]) for part in parts}, classes)
