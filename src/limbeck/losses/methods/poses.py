"""Losses between keypoints: heatmaps, and classified coordinates."""

from __future__ import annotations

from limbeck.losses.heatmaps import HeatmapMSE, SupervisedHeatmaps
from limbeck.losses.methods.method import Method
from limbeck.losses.simcc import SimCCKD, SupervisedSimCC

POSES: tuple[Method, ...] = (
    Method(
        module=SupervisedHeatmaps,
        family="labels",
        needs="heatmaps, keypoints in the batch",
        says="the mean squared difference of a heatmap and a Gaussian at each annotated joint",
        paper="Xiao et al. 2018 (SimpleBaseline)",
        arxiv="1804.06208",
        weight=1.0,
        supervised_weight=0.0,
        weights="alone; σ = 2 cells",
    ),
    Method(
        module=HeatmapMSE,
        family="poses",
        needs="heatmaps of both models",
        says="the mean squared difference of heatmaps, of joints that are annotated or that the teacher is sure of",
        paper="Zhang et al. 2019 (FPD)",
        arxiv="1811.05419",
        weight=0.5,
        supervised_weight=0.5,
        weights="α = 0.5 in the paper",
    ),
    Method(
        module=SupervisedSimCC,
        family="labels",
        needs="classified coordinates, keypoints in the batch",
        says="the KL divergence from a Gaussian around each annotated joint to the softmax over bins, of x and of y",
        paper="Li et al. 2022 (SimCC)",
        arxiv="2107.03332",
        weight=1.0,
        supervised_weight=0.0,
        weights="alone; σ = 6 bins",
    ),
    Method(
        module=SimCCKD,
        family="poses",
        needs="classified coordinates of both models",
        says="T² times the KL divergence of the softmax over bins, of x and of y",
        paper="Yang et al. 2023 (DWPose)",
        arxiv="2307.15880",
        weight=0.1,
        supervised_weight=1.0,
        weights="β = 0.1 in the paper, T = 1",
    ),
)
