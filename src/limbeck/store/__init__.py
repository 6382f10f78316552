"""The label store: a teacher's signals on disk, by sample and view."""

from __future__ import annotations

from limbeck.store.codecs import (
    CODECS,
    Codec,
    DenseLogits,
    Features,
    HeadStates,
    Items,
    SampledLogits,
    Sequences,
    TopKLogits,
    codec_of,
)
from limbeck.store.manifest import Manifest, Plan, SignalPlan, ViewPlan
from limbeck.store.reader import LabelStore
from limbeck.store.writer import Records, StoreWriter

__all__ = [
    "CODECS",
    "Codec",
    "DenseLogits",
    "Features",
    "HeadStates",
    "Items",
    "LabelStore",
    "Manifest",
    "Plan",
    "Records",
    "SampledLogits",
    "Sequences",
    "SignalPlan",
    "StoreWriter",
    "TopKLogits",
    "ViewPlan",
    "codec_of",
]
