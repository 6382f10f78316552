"""Object detectors: dense one-stage ones and those that predict a set of boxes, called in one way."""

from __future__ import annotations

from limbeck.models.detection.detections import Detections
from limbeck.models.detection.names import build_detector, is_detector
from limbeck.models.detection.sets import SetDetector

__all__ = ["Detections", "SetDetector", "build_detector", "is_detector"]
