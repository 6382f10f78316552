"""Models of keypoints: heatmaps and classified coordinates over any backbone, and ViTPose."""

from limbeck.models.poses.building import build_poses, wants_keypoints
from limbeck.models.poses.heads import HEATMAPS, SIMCC, HeatmapHead, KeypointModel, SimCCHead
from limbeck.models.poses.vitpose import build_vitpose, is_vitpose

__all__ = [
    "HEATMAPS",
    "SIMCC",
    "HeatmapHead",
    "KeypointModel",
    "SimCCHead",
    "build_poses",
    "build_vitpose",
    "is_vitpose",
    "wants_keypoints",
]
