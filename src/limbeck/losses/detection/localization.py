"""Localisation distillation: where the teacher thinks that the edges of a box may be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.detection.confidence import confidence, counted, over_objects, same_locations
from limbeck.losses.numeric import positive


def localization(
    student_distribution: Tensor,
    teacher_distribution: Tensor,
    teacher_logits: Tensor,
    where: Tensor | None = None,
    *,
    temperature: float = 10.0,
) -> Tensor:
    """Σ over locations of w · T² · the mean over edges of KL(p ‖ q), divided by Σ w of the whole batch; p and q are the
    teacher's and the student's distributions of an edge over T, w the teacher's best score.

    Args:
        student_distribution: (batch, locations, 4, bins), logits.
        teacher_distribution: the same shape; never receives a gradient.
        teacher_logits: (batch, locations, classes), before the sigmoid.
        where: (batch,) boolean, True where a picture counts; None where all do.
        temperature: T > 0.

    Returns:
        (batch,), in float32 (float64 where the student is). The divisor, at least 1, couples the pictures of a batch.

    Raises:
        LimbeckError: shapes do not fit (other locations, other bins), or the temperature is not positive.

    Zheng et al. 2022, "Localization Distillation for Dense Object Detection", arXiv:2102.12252. The paper teaches where
    the student's own matching finds a box, and near it; here each location counts as much as the teacher is sure of it,
    which needs no boxes.
    """
    same_locations(student_distribution, teacher_distribution, "localization")
    if student_distribution.shape != teacher_distribution.shape:
        raise LimbeckError(
            f"localization: the student's distributions have shape {tuple(student_distribution.shape)}, the teacher's "
            f"{tuple(teacher_distribution.shape)}; build both with the same number of bins (the option `distribution`)"
        )
    positive(temperature, "localization temperature")
    given = student_distribution, teacher_distribution.detach(), teacher_logits.detach()
    student, teacher, logits = counted("localization", where, *given)
    weights = confidence(logits)
    values = edge_divergence(student, softmax(teacher / temperature, -1), temperature)
    return over_objects(weights * values, weights, where)


def edge_divergence(distribution: Tensor, probabilities: Tensor, temperature: float) -> Tensor:
    """T² times the mean over a box's edges of the KL divergence of the student's distribution, logits (…, 4, bins) over
    T, from probabilities of that shape; (…)."""
    log_q = log_softmax(distribution / temperature, -1)
    entropy: Tensor = torch.special.entr(probabilities)
    return (-temperature * temperature) * (entropy + probabilities * log_q).sum(-1).mean(-1)


def projected(probabilities: Tensor, positions: Tensor, onto: Tensor) -> Tensor:
    """A distribution over positions, as one over others: (…, 4, bins of the student).

    The mass at each position is shared by the two of `onto` that it lies between, as near as it is to them, so that the
    mean stays; what lies outside goes to the outermost one.

    Args:
        probabilities: (…, 4, bins).
        positions: where these are, in pixels, (…, 4, bins), left and top edges falling and right and bottom ones
            rising, or the reverse.
        onto: (…, 4, other bins), in the same order as `positions`.
    """
    rising = (onto[..., -1:] >= onto[..., :1]).to(onto.dtype) * 2.0 - 1.0
    places = (onto * rising).contiguous()
    values = (positions * rising).contiguous().clamp(min=places[..., :1], max=places[..., -1:])
    above = torch.searchsorted(places, values).clamp(1, places.shape[-1] - 1)
    low, high = places.gather(-1, above - 1), places.gather(-1, above)
    share = (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
    target = torch.zeros_like(places, dtype=probabilities.dtype)
    target = target.scatter_add(-1, above - 1, probabilities * (1.0 - share))
    return target.scatter_add(-1, above, probabilities * share)


class Localization(Loss):
    """`localization` with its temperature."""

    name = "localization"
    inputs: tuple[LossInput, ...] = ("teacher", "where")
    student_signals = "distribution"
    teacher_signals = ("distribution", "logits")
    aligned = False

    def __init__(self, temperature: float = 10.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "Localization temperature")

    def forward(self, student: Tensor, teacher: Sequence[Tensor], where: Tensor | None = None) -> Tensor:
        """(batch,) from distributions (batch, locations, 4, bins), and the teacher's distributions and logits."""
        return localization(student, teacher[0], teacher[1], where, temperature=self.temperature)
