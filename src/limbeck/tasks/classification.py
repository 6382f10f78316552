"""Classes of samples, whatever the samples are: what a model says of a split, and what follows from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from limbeck.checks import labels_in_range
from limbeck.errors import LimbeckError
from limbeck.labelling import keys_of
from limbeck.metrics import agreement, classification_details, classification_metrics, fidelity
from limbeck.models import forward_of, without_answers
from limbeck.sources import collate_samples
from limbeck.teachers import Stored, Teacher
from limbeck.types import UNLABELLED, Batch, Signal, TopK

LOGITS = "logits"

SOFTENED: tuple[Mapping[str, Any], ...] = (
    {"loss": "supervised", "weight": 0.1},
    {"loss": "kd", "weight": 0.9, "temperature": 4.0},
)
"""The objective of a recipe that names none."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """A model's answers to a split, on the CPU, in its order; what cannot be known is None.

    `labels` (samples,) with -1 where unlabelled; `classes` their names; `logits` (samples, classes); `predicted`
    (samples,), the most likely class; `label_log_probs` (samples,), in nats, NaN without a label. `why` says what is
    not known.
    """

    labels: Tensor
    classes: tuple[str, ...] = ()
    logits: Tensor | None = None
    predicted: Tensor | None = None
    label_log_probs: Tensor | None = None
    why: str = ""

    def metrics(self) -> dict[str, float]:
        """All measures of a classifier, or those that follow from what is known."""
        if self.logits is not None:
            return classification_metrics(self.logits, self.labels)
        labelled = self.labels != UNLABELLED
        found = {}
        if self.predicted is not None and labelled.any():
            found["accuracy"] = float((self.predicted == self.labels)[labelled].double().mean())
        if self.label_log_probs is not None and labelled.any():
            nll = -float(self.label_log_probs[labelled].double().mean())
            # A sample that had no label when it was labelled by the teacher leaves no mean over all.
            found |= {"nll": nll} if nll == nll else {}
        return found

    def fidelity(self, taught: Classified) -> dict[str, float]:
        """How near these answers, whose logits are known, are to a teacher's."""
        assert self.logits is not None
        if taught.logits is not None:
            return fidelity(self.logits, taught.logits, self.labels)
        return {} if taught.predicted is None else agreement(self.logits.argmax(-1), taught.predicted, self.labels)

    def details(self) -> dict[str, Any]:
        """Curves, confusion and reliability; nothing without logits."""
        return {} if self.logits is None else classification_details(self.logits, self.labels, self.classes)


def predict(
    read: nn.Module | Teacher,
    split: Any,
    *,
    label: str = "predicting",
    workers: int = 0,
    batch_size: int = 256,
    collate: Callable[[Any], Any] = collate_samples,
    classes: Sequence[str] = (),
    settings: Any = None,
) -> Classified:
    """What a module or a teacher says of a whole split.

    A module is moved to the GPU if there is one and put in eval mode. A label store answers where it keeps all logits
    of all samples; else the live teacher beside it does; where there is none, what follows from the store.

    Args:
        label: what the progress bar and errors call it.
        collate: makes a batch of samples.
        classes: their names; those of the split, if it has some and none are given.
        settings: of no use here.
    """
    names = tuple(classes) or tuple(getattr(split, "classes", ()))
    if isinstance(read, Stored):
        kept = _kept(read, split, label, collate, workers, names)
        if kept.logits is not None or read.fallback is None:
            if kept.why:
                log.warning("%s", kept.why)
            return kept
        read = read.fallback
    if isinstance(read, Teacher):
        try:
            read.require([LOGITS])  # terms on features alone have asked for no logits
        except LimbeckError as error:
            labels = torch.cat([batch["labels"] for batch in DataLoader(split, batch_size, collate_fn=collate)])
            why = f"the teacher was not measured: {error}"
            log.warning("%s", why)
            return Classified(labels, names, why=why)
    logits, labels = _read(read, split, label, workers, batch_size, collate)
    return Classified(labels, names, logits)


def answered(student: Tensor, teacher: Tensor, label: int, classes: Sequence[str]) -> dict[str, Any]:
    """What the report shows of a sample beside itself: its label, and both answers with their confidence, from the
    probabilities (classes,) of student and teacher."""
    mine, theirs = int(student.argmax()), int(teacher.argmax())
    return {
        "label": classes[label] if label != UNLABELLED else "",
        "teacher": classes[theirs],
        "teacher_confidence": teacher[theirs].item(),
        "student": classes[mine],
        "student_confidence": student[mine].item(),
    }


def quick_metrics(predicted: Classified) -> dict[str, float]:
    """Accuracy and negative log-likelihood (nats) of the labelled samples, cheap enough to ask for often."""
    assert predicted.logits is not None
    known = predicted.labels != UNLABELLED
    logits, labels = predicted.logits[known], predicted.labels[known]
    if len(labels) == 0:
        return {}
    return {
        "accuracy": (logits.argmax(-1) == labels).double().mean().item(),
        "nll": nn.functional.cross_entropy(logits, labels).item(),
    }


def width_of(teacher: Teacher, example: Batch) -> int:
    """How many classes a teacher knows.

    Raises:
        LimbeckError: it is a label store without logits.
    """
    if not isinstance(teacher, Stored):
        return int(teacher(example)[LOGITS].shape[-1])
    signal = teacher.store.signals.get(LOGITS)
    if signal is not None:
        return signal.shape[-1]
    if teacher.fallback is not None:
        return width_of(teacher.fallback, example)
    raise LimbeckError(
        f"the label store {teacher.store.folder} keeps no logits, so nobody knows how many classes there are; label "
        "the data with logits as well, or give Stored the live teacher as fallback"
    )


def _read(
    read: nn.Module | Callable[[Batch], Signal], split: Any, label: str, workers: int, batch_size: int,
    collate: Callable[[Any], Any],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Logits (samples, classes) float32 and labels (samples,), on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(read, nn.Module):
        read = forward_of(read.to(device).eval())
    loader = DataLoader(split, batch_size=batch_size, collate_fn=collate, num_workers=workers)
    logits, labels = [], []
    with torch.inference_mode():
        for batch in tqdm(loader, desc=label, leave=False, disable=None):
            moved = {name: tensor.to(device) for name, tensor in without_answers(batch).items()}
            logits.append(read(moved)[LOGITS].float().cpu())
            labels.append(batch["labels"])
    if not logits:
        raise LimbeckError(f"{label}: the split is empty; there is nothing to predict")
    scores, truth = torch.cat(logits), torch.cat(labels)
    if scores.dim() != 2:
        raise LimbeckError(
            f"{label}: the model gives logits of shape {tuple(scores.shape)}; classification needs (batch, classes)"
        )
    if not truth.is_floating_point():
        labels_in_range(truth, scores.shape[1], label)
    return scores, truth


def _kept(
    teacher: Stored, split: Any, label: str, collate: Callable[[Any], Any], workers: int, classes: tuple[str, ...]
) -> Classified:
    """What a label store alone knows of a split."""
    store = teacher.store
    augmented = store.manifest.plan.views is not None
    signal = store.signals.get(LOGITS)
    logits, predicted, log_probs, labels = [], [], [], []
    missing = 0
    if signal is not None:
        teacher.require([LOGITS])
    for batch in DataLoader(split, 256, collate_fn=collate, num_workers=workers):
        labels.append(batch["labels"])
        ids, views, content, _ = keys_of(batch)
        rows = store.rows(ids, views)
        # A sample of the training split when it was labelled is there in its augmented views only.
        other = (store.content[rows.clamp(min=0)] != content) if augmented else torch.zeros_like(rows, dtype=torch.bool)
        missing += int(((rows < 0) | other).sum())
        if missing or signal is None:
            continue
        target = teacher(without_answers(batch)).target(LOGITS)
        if isinstance(target, Tensor):
            logits.append(target)
            continue
        if isinstance(target, TopK):
            predicted.append(target.ids.gather(1, target.log_probs.argmax(1, keepdim=True)).squeeze(1))
        log_probs.append(store.statistics(LOGITS, rows)["label"])
    if not labels:
        raise LimbeckError(f"{label}: the split is empty; there is nothing to predict")
    truth = torch.cat(labels)
    if missing:
        why = (
            f"the teacher was not measured: the label store {store.folder} does not hold {missing} of the "
            f"{len(truth)} samples as they are, and there is no live teacher"
        )
        return Classified(truth, classes, why=why)
    if signal is None:
        why = f"the teacher was not measured: the label store {store.folder} keeps no logits"
        return Classified(truth, classes, why=why)
    if logits:
        return Classified(truth, classes, torch.cat(logits))
    sure = "accuracy and agreement are those of its most likely class" if predicted else "its accuracy is not known"
    why = (
        f"the teacher was measured from the label store {store.folder}, whose codec {signal.codec.name!r} keeps no "
        f"whole distributions: {sure}, NLL is that of the stored log-probability of the label, the rest is left out"
    )
    return Classified(truth, classes, None, torch.cat(predicted) if predicted else None, torch.cat(log_probs), why)
