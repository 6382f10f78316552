"""What is measured of a model: how right, how near its teacher, at what cost, and whether seeds agree."""

from __future__ import annotations

from limbeck.metrics.classification import classification_details, classification_metrics
from limbeck.metrics.cost import PeakMemory, size_of
from limbeck.metrics.fidelity import agreement, disagreements, fidelity
from limbeck.metrics.statistics import holm, interval, mean_std, paired

__all__ = [
    "PeakMemory",
    "agreement",
    "classification_details",
    "classification_metrics",
    "disagreements",
    "fidelity",
    "holm",
    "interval",
    "mean_std",
    "paired",
    "size_of",
]
