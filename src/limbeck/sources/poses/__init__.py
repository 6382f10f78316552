"""Poses: people and animals with joints, cut out of their pictures, by name."""

from limbeck.pictures import Placement
from limbeck.sources.poses.annotations import Poses
from limbeck.sources.poses.loading import PoseData, load_poses
from limbeck.sources.poses.sets import MeasuredBy, PoseSet
from limbeck.sources.poses.skeletons import Skeleton, skeleton_of
from limbeck.sources.poses.views import POSE_VIEWS, PoseView, pose_view

__all__ = [
    "POSE_VIEWS",
    "MeasuredBy",
    "Placement",
    "PoseData",
    "PoseSet",
    "PoseView",
    "Poses",
    "Skeleton",
    "load_poses",
    "pose_view",
    "skeleton_of",
]
