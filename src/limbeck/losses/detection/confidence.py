"""What the losses of detectors share: how sure the teacher is of each location, and the mean over a batch's objects."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from limbeck.errors import LimbeckError
from limbeck.losses.numeric import precise


def confidence(logits: Tensor) -> Tensor:
    """The score of the best class at each location or query, (batch, locations), of logits (batch, locations,
    classes); it has no gradient."""
    return precise(logits.detach()).amax(-1).sigmoid()


def with_quality(logits: Tensor, quality: Tensor) -> Tensor:
    """Logits (batch, locations, classes) of √(σ(logits) · σ(quality)), the scores by which FCOS chooses what it finds;
    `quality` is (batch, locations), before the sigmoid."""
    score = (logsigmoid(logits) + logsigmoid(quality).unsqueeze(-1)) / 2
    score = score.clamp(max=-torch.finfo(score.dtype).eps)  # the logit of 1 is infinite
    return score - torch.log(-torch.expm1(score))


def over_objects(values: Tensor, weights: Tensor, where: Tensor | None) -> Tensor:
    """(batch,): what each picture adds to Σ values / max(Σ weights, 1) of the whole batch, times the pictures.

    Their mean is then the loss of the batch, divided by its weights: about as many as it shows objects. Pictures
    without any thus count little, as where losses of detectors are divided by the locations with a box.
    """
    pictures: Tensor | int = len(values)
    if where is not None:
        values, weights = _filled(values, where), _filled(weights, where)
        pictures = where.sum()
    summed = values if values.dim() == 1 else values.flatten(1).sum(1)
    return summed * (pictures / weights.sum().clamp(min=1.0))


def counted(what: str, where: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in full precision, those of pictures that do not count filled with 0, so that not even NaN gets
    through.

    Raises:
        LimbeckError: the mask has not one value a picture.
    """
    full = tuple(precise(each) for each in tensors)
    if where is None:
        return full
    if where.shape != tensors[0].shape[:1]:
        raise LimbeckError(
            f"{what}: expected a mask of shape {tuple(tensors[0].shape[:1])}, one value a picture, got "
            f"{tuple(where.shape)}"
        )
    return tuple(_filled(each, where) for each in full)


def _filled(tensor: Tensor, where: Tensor) -> Tensor:
    return tensor.masked_fill(~where.view(-1, *[1] * (tensor.dim() - 1)), 0.0)


def same_locations(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raises LimbeckError unless both have the same locations, so that one can be compared with the other."""
    if student.shape[:2] != teacher.shape[:2]:
        raise LimbeckError(
            f"{what}: the student has shape {tuple(student.shape)}, the teacher {tuple(teacher.shape)}: these are "
            "other locations, which cannot be compared one by one; give both the same head and `strides`, or let the "
            "teacher teach through boxes: soft-boxes, pseudo_boxes in the recipe, or between sets query-matching"
        )
