"""Losses between embeddings: their directions, whatever their length."""

from __future__ import annotations

from torch import Tensor

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.numeric import positive, precise
from limbeck.losses.vectors import unit


def embedding_cosine(student: Tensor, teacher: Tensor, *, power: float = 2.0) -> Tensor:
    """(1 − cos(s, t))ᵖ, of two embeddings.

    Args:
        student: (batch, width); a projector makes it the teacher's width.
        teacher: the same shape; never receives a gradient.
        power: p, 1 or more; 1 is `feature_cosine`.

    Returns:
        (batch,), in float32 (float64 where the student is). A vector of zeros is at a right angle to all others.

    Raises:
        LimbeckError: the shapes differ or are of something else, or the power is out of range.

    Duong et al. 2019, "ShrinkTeaNet: Million-scale Lightweight Face Recognition via Shrinking Teacher-Student
    Networks", arXiv:1905.10620, whose p is 2.
    """
    mine, theirs = _both(student, teacher, "embedding_cosine")
    # Rounding may bring the cosine above 1, and a negative number has no broken power.
    apart = (1.0 - (unit(mine) * unit(theirs)).sum(1)).clamp(min=0.0)
    return apart if _power(power) == 1.0 else apart.pow(power)


def embedding_l2(student: Tensor, teacher: Tensor, *, normalize: bool = True) -> Tensor:
    """‖s / ‖s‖ − t / ‖t‖‖², of two embeddings, which is 2 − 2 cos(s, t); or ‖s − t‖².

    Args:
        student: (batch, width); a projector makes it the teacher's width.
        teacher: the same shape; never receives a gradient.
        normalize: whether both are brought to length 1 first.

    Returns:
        (batch,), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ or are of something else.

    Yan et al. 2019, "VarGFaceNet: An Efficient Variable Group Convolutional Neural Network for Lightweight Face
    Recognition", arXiv:1910.04985.
    """
    mine, theirs = _both(student, teacher, "embedding_l2")
    apart = unit(mine) - unit(theirs) if normalize else mine - theirs
    return apart.square().sum(1)


class EmbeddingCosine(Loss):
    """`embedding_cosine` with its power."""

    name = "embedding-cosine"
    wants = "embedding"

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = _power(power)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch,) from embeddings of shape (batch, width)."""
        return embedding_cosine(student, teacher, power=self.power)


class EmbeddingL2(Loss):
    """`embedding_l2` of directions, or of the embeddings as they are."""

    name = "embedding-l2"
    wants = "embedding"

    def __init__(self, normalize: bool = True) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch,) from embeddings of shape (batch, width)."""
        return embedding_l2(student, teacher, normalize=self.normalize)


def _power(power: float) -> float:
    if positive(power, "embedding_cosine power") < 1.0:
        raise LimbeckError(
            f"embedding_cosine power: expected 1 or more, got {power}; less has no slope at the teacher's"
        )
    return power


def _both(student: Tensor, teacher: Tensor, what: str) -> tuple[Tensor, Tensor]:
    same_shape(student, teacher, what)
    if student.dim() != 2:
        raise LimbeckError(
            f"{what}: expected embeddings of shape (batch, width), got {tuple(student.shape)}; tap what gives a vector"
        )
    return precise(student), precise(teacher.detach())
