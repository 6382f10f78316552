"""The loss that a detector makes of its own answers and the boxes of the data."""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import precise


def model_loss(values: Tensor, where: Tensor | None = None) -> Tensor:
    """The values as they are, 0 where a picture does not count.

    Args:
        values: (batch,), what a detector gives as its `model_loss`: the loss of its family, with its own matching.
        where: (batch,) boolean, True where a picture counts; None where all do.

    Returns:
        (batch,), in float32 (float64 where the values are).

    Raises:
        LimbeckError: there is not one value a picture.

    Tian et al. 2019, "FCOS", arXiv:1904.01355; Lin et al. 2017, "Focal Loss for Dense Object Detection",
    arXiv:1708.02002; Carion et al. 2020, "End-to-End Object Detection with Transformers", arXiv:2005.12872.
    """
    if values.dim() != 1 or (where is not None and where.shape != values.shape):
        raise LimbeckError(f"model_loss: expected one value a picture, (batch,), got shape {tuple(values.shape)}")
    return precise(values) if where is None else precise(values).masked_fill(~where, 0.0)


class ModelLoss(Loss):
    """`model_loss`."""

    name = "model-loss"
    inputs: tuple[LossInput, ...] = ("where",)
    skips_unlabelled = True
    student_signals = "model_loss"

    def forward(self, student: Tensor, where: Tensor | None = None) -> Tensor:
        """(batch,) from a detector's own loss of each picture, (batch,)."""
        return model_loss(student, where)
