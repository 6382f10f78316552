"""Tasks: for each, the functions that a run needs, in one frozen record."""

from __future__ import annotations

from limbeck.tasks.image_classification import IMAGE_CLASSIFICATION, ImageClassification

TASKS = {IMAGE_CLASSIFICATION.name: IMAGE_CLASSIFICATION}

__all__ = ["IMAGE_CLASSIFICATION", "TASKS", "ImageClassification"]
