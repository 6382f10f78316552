"""Losses of object detectors."""

from __future__ import annotations

from limbeck.losses.detection.boxes import BoxGIoU, BoxIoU
from limbeck.losses.detection.cross_head import CrossHead
from limbeck.losses.detection.fgd import FGD
from limbeck.losses.detection.localization import Localization
from limbeck.losses.detection.model_loss import ModelLoss
from limbeck.losses.detection.quality import QualityFocal
from limbeck.losses.detection.queries import QueryMatching
from limbeck.losses.detection.soft_boxes import SoftBoxes
from limbeck.losses.methods.method import Method

DETECTION: tuple[Method, ...] = (
    Method(
        module=ModelLoss,
        family="labels",
        needs="a detector, boxes",
        says="the loss of a detector's own family, with its own matching",
        paper="Tian et al. 2019 (FCOS) and others",
        arxiv="1904.01355",
        weight=1.0,
        supervised_weight=0.0,
        weights="as the families have it",
    ),
    Method(
        module=QualityFocal,
        family="detection",
        needs="detectors with the same locations",
        says="cross-entropy against the teacher's score of each class at each location, more where both differ",
        paper="Wang et al. 2023 (CrossKD)",
        arxiv="2306.11369",
        weight=1.0,
        supervised_weight=1.0,
        weights="β = 1, the authors' code",
    ),
    Method(
        module=Localization,
        family="detection",
        needs="detectors with the same locations and distributions of a box's edges",
        says="T² times the KL divergence of where a box's edges may be, where the teacher is sure of a box",
        paper="Zheng et al. 2022",
        arxiv="2102.12252",
        weight=0.015,
        supervised_weight=1.0,
        weights="T = 10; the authors' 0.25 is for the mean over 17 bins",
    ),
    Method(
        module=BoxIoU,
        family="detection",
        needs="detectors with the same locations",
        says="one minus the overlap with the teacher's boxes, where it is sure of one",
        paper="Wang et al. 2023 (CrossKD)",
        arxiv="2306.11369",
        weight=0.75,
        supervised_weight=1.0,
        weights="the authors' code for FCOS",
    ),
    Method(
        module=BoxGIoU,
        family="detection",
        needs="detectors with the same locations",
        says="as `box-iou` with the generalized overlap, which also pulls boxes that do not meet",
        paper="Wang et al. 2023 (CrossKD)",
        arxiv="2306.11369",
        weight=1.0,
        supervised_weight=1.0,
        weights="the authors' code for RetinaNet",
    ),
    Method(
        module=CrossHead,
        family="detection",
        needs="a live teacher; FCOS or RetinaNet on the same strides",
        says="the student's head, half way, goes on in the teacher's, and is compared with what that says by itself",
        paper="Wang et al. 2023 (CrossKD)",
        arxiv="2306.11369",
        weight=1.0,
        supervised_weight=1.0,
        weights="1 for classes and boxes, after 3 blocks: the authors' code for RetinaNet",
    ),
    Method(
        module=FGD,
        family="detection",
        needs="a level of both pyramids, boxes",
        says="squared differences of maps, weighed by the teacher's attention, in boxes and outside; and of relations",
        paper="Yang et al. 2022",
        arxiv="2111.11837",
        weight=1.0,
        supervised_weight=1.0,
        weights="α = 0.001, β = 0.0005, γ = 0.001, λ = 0.000005 in the loss: the authors' code for RetinaNet",
    ),
    Method(
        module=QueryMatching,
        family="detection",
        needs="detectors that predict sets",
        says="classes and boxes of those of the teacher's queries that match, by the Hungarian algorithm",
        paper="Chang et al. 2023 (DETRDistill)",
        arxiv="2211.10156",
        weight=1.0,
        supervised_weight=1.0,
        weights="L1 5 and GIoU 2 as in DETR",
    ),
    Method(
        module=SoftBoxes,
        family="detection",
        needs="any two detectors",
        says="the boxes that the teacher finds, with its scores, at the locations or queries that are to find them",
        paper="Xu et al. 2021 (Soft Teacher); Li et al. 2020 (GFL)",
        arxiv="2106.09018",
        weight=1.0,
        supervised_weight=1.0,
        weights="2 for the overlap in the loss, as in GFL",
    ),
)
