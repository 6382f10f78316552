"""One-to-one matching of a student's predictions to a teacher's, by the Hungarian algorithm."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from limbeck.losses.detection.geometry import overlaps

CLASS_COST, DISTANCE_COST, OVERLAP_COST = 1.0, 5.0, 2.0
"""Weights of the costs, as in DETR."""


@torch.no_grad()
def matched(
    student_logits: Tensor, student_boxes: Tensor, teacher_logits: Tensor, teacher_boxes: Tensor, scale: Tensor
) -> Tensor:
    """Which of the student's predictions each of the teacher's belongs to, (batch, teacher's) int64, −1 where none does
    because the student has fewer.

    The sum of costs is smallest: −σ(s) of the teacher's best class, 5 times the L1 distance of the boxes relative to
    the picture, and −2 times their GIoU. A box of the teacher without width or height, such as fills up a batch, fits
    all alike, so that it changes nothing for the others.

    Args:
        student_logits, student_boxes: (batch, predictions, classes) and (batch, predictions, 4), xyxy in pixels.
        teacher_logits, teacher_boxes: (batch, other predictions, classes) and (batch, other predictions, 4).
        scale: width, height, width and height of the picture, (4,).

    Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv:2005.12872.
    """
    kinds = teacher_logits.argmax(-1).unsqueeze(1).expand(-1, student_logits.shape[1], -1)
    cost = -CLASS_COST * student_logits.sigmoid().gather(-1, kinds)
    cost += DISTANCE_COST * torch.cdist(student_boxes / scale, teacher_boxes / scale, p=1.0)
    cost -= OVERLAP_COST * overlaps(student_boxes.unsqueeze(2), teacher_boxes.unsqueeze(1))[1]
    nothing = (teacher_boxes[..., 2:] <= teacher_boxes[..., :2]).any(-1)
    cost = cost.masked_fill(nothing.unsqueeze(1), 0.0)
    # One whose box is not finite is matched last.
    table = torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=1e9).cpu().numpy()
    found = torch.full((len(cost), cost.shape[2]), -1)
    for row, each in enumerate(table):
        ours, theirs = linear_sum_assignment(each)
        found[row, torch.from_numpy(theirs)] = torch.from_numpy(ours)
    return found.to(cost.device)
