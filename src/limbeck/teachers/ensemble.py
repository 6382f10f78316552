"""Several teachers as one, and what passes for a teacher."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.losses import Loss
from limbeck.losses.numeric import positive, precise
from limbeck.shortcuts import SHORTCUTS
from limbeck.store import LabelStore
from limbeck.teachers.assembly import assembled, share_of_classes
from limbeck.teachers.base import Teacher, dense
from limbeck.teachers.fingerprint import combined
from limbeck.teachers.live import Live
from limbeck.teachers.onnx import Onnx
from limbeck.teachers.reliability import by_class, by_confidence, mixture
from limbeck.teachers.stored import Stored
from limbeck.types import Batch, Signal

LOGITS = "logits"

Combine = Literal["mean", "confidence", "per-class"]

Weights = Sequence[float] | Sequence[Sequence[float]] | Tensor


class Ensemble(Teacher):
    """Several teachers as one: the weighted mean of their signals, logits included.

    The teachers must know the same classes in the same order; each may have a preparation of its own
    (`Live(adapt=…)`). Teachers of other class sets come as `Mapped`: the logit of a class is then the mean over those
    that know it, and logits of different teachers are taken as comparable, as in knowledge amalgamation (Shen et al.
    2019, arXiv:1811.02796).

    How much a teacher counts, by `combine`:

    * `mean`: its weight. The mean of logits is the geometric mean of the teachers' distributions at every temperature
      (Hinton et al. 2015, arXiv:1503.02531, section 2).
    * `confidence`: (1 − softmax over teachers of their cross-entropy at the label) / (teachers − 1), in each sample, as
      in CA-MKD (Zhang et al. 2022, arXiv:2201.00007). A sample without a label has the softmax over
      teachers of their negative entropy instead. The paper weights each teacher's KL divergence, which is, but for a
      constant, the divergence from the mixture Σ w · softmax(z / T). No logits are that mixture at every temperature,
      so those given are at `temperature`, and a loss with another is refused; of a divergence that is not linear in
      the teacher (`reverse-kl`, say) it is the mixture's. Features are the weighted mean, which is the same for
      squared errors. The batch's `labels` decide: limbeck measures teachers without them, and a label store of such an
      ensemble must hold training data only.
    * `per-class`: Σ over classes of `weights` (teachers, classes) · the mean of the teachers' probabilities, in each
      sample: with accuracies by class, how far each may be trusted with what they take the sample for.

    Args:
        teachers: anything that `as_teacher` takes.
        weights: one a teacher, in the mean (and as a factor of `confidence`); (teachers, classes) for `per-class`.
        temperature: of the loss that `confidence` serves.

    Raises:
        LimbeckError: weights do not fit, or no teacher knows a class; when called, teachers give other shapes, or
            logits that are not a dense tensor.
    """

    def __init__(
        self,
        teachers: Sequence[TeacherLike],
        weights: Weights | None = None,
        combine: Combine = "mean",
        *,
        temperature: float = 4.0,
    ) -> None:
        if not teachers:
            raise LimbeckError("an ensemble needs at least one teacher")
        if combine not in ("mean", "confidence", "per-class"):
            raise LimbeckError(f"combine: expected mean, confidence or per-class, got {combine!r}")
        self.teachers = tuple(as_teacher(teacher).as_part() for teacher in teachers)
        self.combine = combine
        self.temperature = positive(temperature, "Ensemble temperature")
        self._shares = [1.0 / len(teachers)] * len(teachers)
        self._by_class: Tensor | None = None
        if combine == "per-class":
            self._by_class = _class_weights(weights, len(teachers))
        elif weights is not None:
            self._shares = _shares(weights, len(teachers))
        self._assembly = share_of_classes(self.teachers, self._shares)
        if self._assembly is not None and combine != "mean":
            raise LimbeckError(
                f"combine={combine!r} compares teachers that know the same classes; those that know some only "
                "(Mapped) combine by their mean"
            )

    def require(self, names: Collection[str]) -> None:
        # How far a teacher is trusted is read from its logits, whatever the terms ask for.
        wanted = names if self.combine == "mean" else {*names, LOGITS}
        for teacher in self.teachers:
            teacher.require(wanted)

    def offers(self, name: str) -> bool:
        return all(teacher.offers(name) for teacher in self.teachers)

    def refuses(self, name: str, loss: Loss) -> str:
        if self.combine == "confidence" and name == LOGITS:
            for module in loss.modules():
                other = getattr(module, "temperature", self.temperature)
                if isinstance(other, float | int) and other != self.temperature:
                    return (
                        f"the ensemble mixes its teachers for temperature {self.temperature:g}, the loss has "
                        f"{other:g}; give Ensemble temperature={other:g}"
                    )
        return next((why for teacher in self.teachers if (why := teacher.refuses(name, loss))), "")

    def identity(self) -> str:
        parts = [*(teacher.identity() for teacher in self.teachers), repr(self._shares)]
        if self.combine != "mean":
            table = [] if self._by_class is None else self._by_class.tolist()
            parts.append(f"{self.combine} {self.temperature} {table}")
        return combined(*parts)

    def modules(self) -> Iterable[nn.Module]:
        return (module for teacher in self.teachers for module in teacher.modules())

    def update(self, student: nn.Module) -> None:
        for teacher in self.teachers:
            teacher.update(student)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{i}.{k}": v for i, teacher in enumerate(self.teachers) for k, v in teacher.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for i, teacher in enumerate(self.teachers):
            own = f"{i}."
            teacher.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})

    def __call__(self, batch: Batch) -> Signal:
        signals = [dense(teacher(batch), "an ensemble") for teacher in self.teachers]
        shares = self._sample_shares(signals, batch)
        means: dict[str, Tensor] = {}
        for name in signals[0]:
            parts = [signal[name] for signal in signals if name in signal]
            if len(parts) < len(signals):
                continue  # one teacher's own, such as a second entry of its dict
            shapes = {tuple(part.shape[1:]) for part in parts}
            if len(shapes) > 1:
                raise LimbeckError(
                    f"the ensemble's teachers give {name} of different shapes {sorted(shapes)}; they must know the "
                    "same classes in the same order (limbeck.Mapped maps classes by name)"
                )
            if name == LOGITS and self._assembly is not None:
                means[name] = assembled(parts, self._assembly)
            elif name == LOGITS and self.combine == "confidence" and isinstance(shares, Tensor):
                means[name] = mixture(parts, shares, self.temperature)
            else:
                means[name] = reduce(torch.add, [_weighted(part, w) for part, w in zip(parts, shares, strict=True)])
        return Signal(means, signals[0].masks)

    def _sample_shares(self, signals: Sequence[Signal], batch: Batch) -> Sequence[float] | Tensor:
        """How much each teacher counts: one number each, or (teachers, batch)."""
        if self.combine == "mean":
            return self._shares
        logits = [precise(signal[LOGITS]) for signal in signals]
        if logits[0].dim() != 2:
            raise LimbeckError(
                f"combine={self.combine!r} weighs teachers in each sample: expected logits of shape (batch, classes), "
                f"got {tuple(logits[0].shape)}"
            )
        stacked = torch.stack(logits)
        if self._by_class is not None:
            return by_class(stacked, self._by_class.to(stacked))
        return by_confidence(stacked, batch.get("labels"), stacked.new_tensor(self._shares))


def _weighted(part: Tensor, share: float | Tensor) -> Tensor:
    if isinstance(share, Tensor):
        share = share.to(part.dtype).view(-1, *[1] * (part.dim() - 1))
    return part * share


def _shares(weights: Weights, teachers: int) -> list[float]:
    """One weight a teacher, so that they add up to 1."""
    given: list[Any] = weights.tolist() if isinstance(weights, Tensor) else list(weights)
    fits = len(given) == teachers and all(isinstance(each, float | int) for each in given)
    if not fits or sum(given) <= 0 or min(given) < 0:
        raise LimbeckError(
            f"an ensemble of {teachers} teachers needs as many weights, none negative, not all zero; got {given}"
        )
    return [float(each) / sum(given) for each in given]


def _class_weights(weights: Weights | None, teachers: int) -> Tensor:
    """The table of (teachers, classes) as float32."""
    try:
        table = torch.as_tensor([] if weights is None else weights, dtype=torch.float32).detach().cpu()
    except (TypeError, ValueError):
        table = torch.empty(0)  # rows of different lengths
    if table.dim() != 2 or len(table) != teachers or not bool((table >= 0).all()) or not bool((table.sum(0) > 0).all()):
        raise LimbeckError(
            f"combine='per-class' of {teachers} teachers needs weights of shape ({teachers}, classes), such as "
            f"accuracies by class, none negative and in each class one above 0; got {weights}"
        )
    return table


TeacherLike = Teacher | nn.Module | LabelStore | str | Path | Sequence[Any]


def as_teacher(teacher: TeacherLike, shortcuts: Collection[str] = SHORTCUTS) -> Teacher:
    """A Teacher as it is; a module as Live, with these shortcuts; the path of an .onnx file as Onnx; a label store
    or its folder as Stored; a list of those as an Ensemble."""
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, LabelStore):
        return Stored(teacher)
    if isinstance(teacher, str | Path):
        if Path(teacher).is_dir():
            return Stored(teacher)
        if Path(teacher).suffix != ".onnx":
            raise LimbeckError(
                f"teacher {str(teacher)!r}: a path must be of an .onnx file or a label store; load other models first"
            )
        return Onnx(teacher)
    if isinstance(teacher, Sequence) and not isinstance(teacher, nn.Module):
        return Ensemble([as_teacher(each, shortcuts) for each in teacher])
    return Live(teacher, shortcuts=shortcuts)
