"""Data by name, and views that are a pure function of (seed, view, sample id)."""

from limbeck.sources.augment import build_augmentation
from limbeck.sources.collate import collate_samples
from limbeck.sources.ids import ids_of
from limbeck.sources.images import ImageSet, Prepared
from limbeck.sources.lengths import ByLength, HasLengths
from limbeck.sources.mixing import CutMix, Mixing, Mixup
from limbeck.sources.names import Data, load
from limbeck.sources.places import data_root
from limbeck.sources.splits import ClassBalance, describe
from limbeck.sources.viewed import ViewedSet
from limbeck.sources.wrap import as_training_data

__all__ = [
    "ByLength",
    "ClassBalance",
    "CutMix",
    "Data",
    "HasLengths",
    "ImageSet",
    "Mixing",
    "Mixup",
    "Prepared",
    "ViewedSet",
    "as_training_data",
    "build_augmentation",
    "collate_samples",
    "data_root",
    "describe",
    "ids_of",
    "load",
]
