"""A teacher that nobody trained: right by design, and the same about all other classes."""

from __future__ import annotations

import math

from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput
from limbeck.losses.numeric import at_least_two_classes, class_indices, log_softmax, positive, precise


def tf_kd(
    logits: Tensor,
    labels: Tensor,
    *,
    correct: float = 0.99,
    temperature: float = 20.0,
    student_temperature: float = 1.0,
) -> Tensor:
    """S² · KL(u ‖ q) between a virtual teacher u and the student q = softmax(s/S); 0 where there is no label.

    The virtual teacher gives the right class the probability `correct` and all others the same of the rest; these
    probabilities, taken as if they were logits, are softened: u = softmax(probabilities/T).

    Args:
        logits: (batch, …, classes), at least 2 classes.
        labels: (batch, …) int64 class indices, −1 where unlabelled.
        correct: the virtual teacher's probability of the right class, in (0, 1).
        temperature: T > 0, of the virtual teacher.
        student_temperature: S > 0. The authors' code has 1; T itself is the paper's equation, but for the factor S²,
            which the paper has not.

    Returns:
        (batch, …), in float32 (float64 where the logits are).

    Raises:
        LimbeckError: shapes do not fit, labels are not class indices, or a setting is out of range.

    Yuan et al. 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization", arXiv:1909.11723,
    equation 9 (Tf-KD by a manually designed regularization).
    """
    at_least_two_classes(logits, "tf_kd")
    class_indices(labels, logits, "tf_kd")
    others = logits.shape[-1] - 1
    log_right, log_rest = _virtual_teacher(correct, positive(temperature, "tf_kd temperature"), others)
    right, rest = math.exp(log_right), math.exp(log_rest)
    log_q = log_softmax(precise(logits) / positive(student_temperature, "tf_kd student_temperature"))
    target = log_q.gather(-1, labels.long().clamp(min=0).unsqueeze(-1)).squeeze(-1)
    negative_entropy = right * log_right + others * rest * log_rest
    values = negative_entropy - (right - rest) * target - rest * log_q.sum(-1)
    return (values * student_temperature**2).masked_fill(labels < 0, 0.0)


class TfKD(Loss):
    """`tf_kd` with its virtual teacher."""

    name = "tf-kd"
    inputs: tuple[LossInput, ...] = ("labels",)
    skips_unlabelled = True

    def __init__(self, correct: float = 0.99, temperature: float = 20.0, student_temperature: float = 1.0) -> None:
        super().__init__()
        self.correct = _probability(correct, "TfKD")
        self.temperature = positive(temperature, "TfKD temperature")
        self.student_temperature = positive(student_temperature, "TfKD student_temperature")

    def forward(self, student: Tensor, labels: Tensor | None) -> Tensor:
        """(batch, …) from logits of shape (batch, …, classes) and labels of shape (batch, …)."""
        if labels is None:
            raise LimbeckError("TfKD: the batch has no labels; add them, or leave this term out of the objective")
        return tf_kd(
            student,
            labels,
            correct=self.correct,
            temperature=self.temperature,
            student_temperature=self.student_temperature,
        )


def _virtual_teacher(correct: float, temperature: float, others: int) -> tuple[float, float]:
    """The logarithm of the softened probability of the right class, and of each other one."""
    apart = (_probability(correct, "tf_kd") - (1.0 - correct) / others) / temperature
    odds = math.log(others) - apart  # of the others together, in logarithms
    log_total = max(odds, 0.0) + math.log1p(math.exp(-abs(odds)))
    return -log_total, -apart - log_total


def _probability(correct: float, what: str) -> float:
    if not 0.0 < correct < 1.0:
        raise LimbeckError(f"{what} correct: expected a probability in (0, 1), got {correct}")
    return correct
