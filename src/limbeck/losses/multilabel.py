"""Distillation where each class is a yes or no of its own."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from limbeck.checks import same_shape
from limbeck.losses.base import Loss
from limbeck.losses.numeric import positive, precise


def sigmoid_kd(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T² · mean over classes of KL(Bernoulli σ(t/T) ‖ Bernoulli σ(s/T)), in nats.

    The binary cross-entropy against the teacher's probabilities less their entropy, so that it is 0 where
    both agree.

    Args:
        student_logits: (batch, …, classes), finite.
        teacher_logits: the same shape; never receives a gradient.
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: the shapes differ, or the temperature is not positive.

    Yang et al. 2023, "Multi-Label Knowledge Distillation", arXiv:2308.06453 (its one-versus-all divergence,
    with Hinton et al.'s temperature).
    """
    same_shape(student_logits, teacher_logits, "sigmoid_kd")
    positive(temperature, "sigmoid_kd temperature")
    student, teacher = precise(student_logits) / temperature, precise(teacher_logits.detach()) / temperature
    # Both halves apart: 1 − σ(z) as σ(−z) keeps the small probabilities that a subtraction would round away.
    yes = teacher.sigmoid() * (logsigmoid(teacher) - logsigmoid(student))
    no = (-teacher).sigmoid() * (logsigmoid(-teacher) - logsigmoid(-student))
    return (temperature * temperature) * (yes + no).mean(-1)


class SigmoidKD(Loss):
    """`sigmoid_kd` with its temperature."""

    name = "sigmoid-kd"

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = positive(temperature, "SigmoidKD temperature")

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes)."""
        return sigmoid_kd(student, teacher, temperature=self.temperature)
