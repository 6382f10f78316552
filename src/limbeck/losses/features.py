"""Losses between features inside the models."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.numeric import precise


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of (s − t)² over everything but the batch.

    The paper halves and sums it over the feature; the mean keeps one weight usable across feature sizes.

    Args:
        student: (batch, …), of any shape; a projector makes it the teacher's.
        teacher: the same shape; never receives a gradient.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ, or there is no batch dimension.

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.
    """
    same_shape(student, teacher, "feature_mse")
    if student.dim() == 0:
        raise LimbeckError(
            "feature_mse: expected features of shape (batch, …), got one number; keep the batch dimension"
        )
    squares = (precise(student) - precise(teacher.detach())).square()
    return squares.flatten(1).mean(1) if squares.dim() > 1 else squares


class FeatureMSE(Loss):
    """`feature_mse`."""

    name = "feature-mse"
    wants = "last-stage"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch,) from features of shape (batch, …)."""
        return feature_mse(student, teacher)


def feature_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cos(s, t): the directions of features, whatever their length; the mean over positions of a map.

    Args:
        student: (batch, width), (batch, tokens, width), or (batch, channels, height, width): a vector at each position.
        teacher: the same shape; never receives a gradient.

    Returns:
        (batch,), in float32 (float64 where the student is). A vector of zeros is at a right angle to all others.

    Raises:
        LimbeckError: the shapes differ, or there is no dimension behind the batch.

    Sanh et al. 2019, "DistilBERT, a distilled version of BERT", arXiv:1910.01108, section 3.
    """
    same_shape(student, teacher, "feature_cosine")
    if student.dim() < 2:
        raise LimbeckError(
            f"feature_cosine: expected features of shape (batch, …, width), got {tuple(student.shape)}; a direction "
            "needs more than one number"
        )
    along = 1 if student.dim() > 3 else -1
    values = 1.0 - cosine_similarity(precise(student), precise(teacher.detach()), dim=along)
    return values.flatten(1).mean(1) if values.dim() > 1 else values


class FeatureCosine(Loss):
    """`feature_cosine`."""

    name = "feature-cosine"
    wants = "embedding"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch,) from features of shape (batch, …)."""
        return feature_cosine(student, teacher)
