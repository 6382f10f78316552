"""Exits: a small head turns an intermediate feature into class logits, which are compared with answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.checks import same_shape
from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss, LossInput, Wants
from limbeck.losses.numeric import (
    at_least_two_classes,
    class_indices,
    fraction,
    log_softmax,
    positive,
    precise,
    target_classes,
    unbuilt,
)
from limbeck.losses.response import KD, kd
from limbeck.losses.supervised import cross_entropy

GRID = 4
"""A map is averaged down to at most so many rows and columns before its convolution, which shallow maps need."""


def ofa(
    exit_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    """−T² · Σ ((p + y)^γ − y) · log q, y the one-hot label: the teacher's answer, its target enhanced where it is sure.

    γ = 1 is the cross-entropy of the teacher's answer p; with γ > 1 a target of larger p counts more, and other
    classes less. A cross-entropy is not 0 where the student equals the teacher.

    Args:
        exit_logits: (batch, …, classes), at least 2 classes. −inf excludes a class, on both sides.
        teacher_logits: the same shape; never receives a gradient.
        labels: (batch, …) int64. A sample without a label (−1, or no labels at all) takes the teacher's top class.
        gamma: the enhancement, positive.
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, labels are not class indices, or a setting is out of range.

    Hao et al. 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
    arXiv:2310.19444, as the authors' code has it.
    """
    _check(exit_logits, teacher_logits, labels, "ofa")
    p = (precise(teacher_logits.detach()) / positive(temperature, "ofa temperature")).softmax(-1)
    log_q = log_softmax(precise(exit_logits) / temperature)
    target = target_classes(teacher_logits, labels).unsqueeze(-1)
    enhanced = (p.gather(-1, target) + 1.0).pow(positive(gamma, "ofa gamma")) - 1.0
    weights = p.pow(gamma).scatter(-1, target, enhanced)
    # Where a class is excluded its weight is 0, and log q −inf: 0 · log 0 = 0.
    log_q = log_q.masked_fill(weights == 0, 0.0)
    return (weights * log_q).sum(-1) * -(temperature**2)


def byot(
    exit_logits: Tensor,
    deepest_logits: Tensor,
    labels: Tensor | None,
    *,
    alpha: float = 0.3,
    temperature: float = 3.0,
) -> Tensor:
    """(1 − α) · cross-entropy of the label + α · T² · KL(p ‖ q) from the network's own last answer p.

    Args:
        exit_logits: (batch, …, classes), at least 2 classes. −inf excludes a class, on both sides.
        deepest_logits: the same shape; never receives a gradient.
        labels: (batch, …) int64. A sample without a label (−1, or no labels at all) has the second part only.
        alpha: in [0, 1].
        temperature: T > 0.

    Returns:
        (batch, …), in float32 (float64 where the student is).

    Raises:
        LimbeckError: shapes do not fit, labels are not class indices, or a setting is out of range.

    Zhang et al. 2019, "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self
    Distillation", arXiv:1905.08094, the loss of a shallow classifier but for its hint (see FeatureMSE).
    """
    _check(exit_logits, deepest_logits, labels, "byot")
    values = fraction(alpha, "byot alpha") * kd(exit_logits, deepest_logits, temperature=temperature)
    return values if labels is None else values + (1.0 - alpha) * cross_entropy(exit_logits, labels)


class ExitHead(nn.Module):
    """Class logits from a feature of the kind that `feature` is.

    A map (batch, channels, height, width) is averaged down, goes through a 1×1 convolution to `width` channels and
    ReLU, is averaged, and through a linear layer; tokens (batch, length, channels) through their mean, a LayerNorm and
    a linear layer; vectors (batch, channels) through a linear layer.
    """

    def __init__(self, feature: Tensor, classes: int, width: int) -> None:
        super().__init__()
        self.kind = feature.dim()
        if self.kind == 4:
            self.first: nn.Module = nn.Conv2d(feature.shape[1], width, kernel_size=1)
            self.last = nn.Linear(width, classes)
        elif self.kind in (2, 3):
            channels = feature.shape[-1]
            self.first = nn.LayerNorm(channels) if self.kind == 3 else nn.Identity()
            self.last = nn.Linear(channels, classes)
        else:
            raise LimbeckError(
                "exit: expected a map (batch, channels, height, width), tokens (batch, length, channels) or vectors "
                f"(batch, channels), got shape {tuple(feature.shape)}; tap another module"
            )

    def forward(self, feature: Tensor, tokens: Tensor | None) -> Tensor:
        """(batch, classes); of a text only the tokens that are there count."""
        if feature.dim() != self.kind:
            raise LimbeckError(f"exit: its head was built for {self.kind} dimensions, got shape {tuple(feature.shape)}")
        if self.kind == 4:
            height, width = feature.shape[-2:]
            small = F.adaptive_avg_pool2d(feature, (min(height, GRID), min(width, GRID)))
            logits: Tensor = self.last(self.first(small).relu().mean((2, 3)))
            return logits
        if self.kind == 3:
            feature = _mean_token(feature, tokens)
        logits = self.last(self.first(feature))
        return logits


class _Exit(Loss):
    """What losses with an exit share: the head, made for the example's feature and the teacher's classes."""

    wants: Wants = "stages"
    aligned = False
    structured = True
    head: ExitHead | None

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = int(positive(width, f"{type(self).__name__} width"))
        self.head = None

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes the exit's head."""
        if not (isinstance(student, Tensor) and isinstance(teacher, Tensor) and teacher.dim() == 2):
            raise LimbeckError(
                f"{self.name}: expected one feature of the student and logits (batch, classes) to compare its exit "
                "with; name them in the term (student='layer2', teacher='logits')"
            )
        self.head = ExitHead(student, teacher.shape[-1], self.width).to(student.device)

    def logits(self, feature: Tensor, tokens: Tensor | None) -> Tensor:
        """The exit's answer, (batch, classes)."""
        if self.head is None:
            raise unbuilt(type(self).__name__)
        answer: Tensor = self.head(precise(feature), tokens)
        return answer


class ExitKD(_Exit):
    """A loss between logits, taken between an exit from a feature of the student and the teacher's answer.

    Args:
        loss: a loss between logits; `KD()` by default.
        width: channels of the head on a map.

    Raises:
        LimbeckError: the loss is not one between logits.
    """

    name = "exit"

    def __init__(self, loss: Loss | None = None, width: int = 256) -> None:
        super().__init__(width)
        self.loss = KD() if loss is None else loss
        if "teacher" not in self.loss.inputs or self.loss.wants != "logits":
            raise LimbeckError(
                f"ExitKD: {type(self.loss).__name__} compares no logits with a teacher's; "
                "wrap a loss between logits, such as KD"
            )
        self.inputs = (*self.loss.inputs, "tokens")
        self.skips_unlabelled = self.loss.skips_unlabelled

    def build(self, student: Tensor | tuple[Tensor, ...], teacher: Tensor | tuple[Tensor, ...] | None) -> None:
        """Makes the exit's head, and the wrapped loss's learned parts."""
        super().build(student, teacher)
        assert isinstance(teacher, Tensor)
        self.loss.build(teacher, teacher)

    def forward(self, student: Tensor, *inputs: Tensor | None) -> Tensor:
        """(batch,) from a feature (ExitHead says which) and what the wrapped loss takes."""
        *given, tokens = inputs
        values: Tensor = self.loss(self.logits(student, tokens), *given)
        return values


class OFA(_Exit):
    """`ofa` of an exit from a feature of the student: the teacher may be of another architecture.

    The paper has a term for each stage of the student, and one on its own answer.
    """

    name = "ofa"
    inputs: tuple[LossInput, ...] = ("teacher", "labels", "tokens")

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, width: int = 256) -> None:
        super().__init__(width)
        self.gamma = positive(gamma, "OFA gamma")
        self.temperature = positive(temperature, "OFA temperature")

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None, tokens: Tensor | None = None) -> Tensor:
        """(batch,) from a feature (ExitHead says which) and logits of shape (batch, classes)."""
        answer = self.logits(student, tokens)
        return ofa(answer, teacher, labels, gamma=self.gamma, temperature=self.temperature)


class BYOT(_Exit):
    """`byot` of an exit from a feature of the student, meant for `Term(BYOT(), own=True, teacher="logits")`."""

    name = "byot"
    inputs: tuple[LossInput, ...] = ("teacher", "labels", "tokens")

    def __init__(self, alpha: float = 0.3, temperature: float = 3.0, width: int = 256) -> None:
        super().__init__(width)
        self.alpha = fraction(alpha, "BYOT alpha")
        self.temperature = positive(temperature, "BYOT temperature")

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None, tokens: Tensor | None = None) -> Tensor:
        """(batch,) from a feature (ExitHead says which) and logits of shape (batch, classes)."""
        answer = self.logits(student, tokens)
        return byot(answer, teacher, labels, alpha=self.alpha, temperature=self.temperature)


def _check(student: Tensor, teacher: Tensor, labels: Tensor | None, what: str) -> None:
    same_shape(student, teacher, what)
    at_least_two_classes(student, what)
    if labels is not None:
        class_indices(labels, student, what)


def _mean_token(feature: Tensor, tokens: Tensor | None) -> Tensor:
    """(batch, channels), the mean of the tokens that are there."""
    if tokens is None:
        return feature.mean(1)
    there = tokens.unsqueeze(-1)
    summed = torch.where(there, feature, 0.0).sum(1)
    return summed / there.sum(1).clamp(min=1)
