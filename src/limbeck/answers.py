"""What a teacher says of a split, as far as it can be known: all of its logits, or what a label store has kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limbeck.checks import LimbeckError
from limbeck.content import content_ids
from limbeck.metrics import agreement
from limbeck.sources import collate_samples
from limbeck.tasks import ImageClassification
from limbeck.teachers import Stored, Teacher
from limbeck.types import UNLABELLED, TopK

LOGITS = "logits"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """A teacher's answers to a split, on the CPU, in its order; what cannot be known is None.

    `labels` (samples,) with -1 where unlabelled; `logits` (samples, classes); `predicted` (samples,), the most likely
    class; `label_log_probs` (samples,), in nats, NaN without a label. `why` says what is not known.
    """

    labels: Tensor
    logits: Tensor | None = None
    predicted: Tensor | None = None
    label_log_probs: Tensor | None = None
    why: str = ""

    def metrics(self, task: ImageClassification) -> dict[str, float]:
        """The task's metrics, or those that follow from what is known."""
        if self.logits is not None:
            return task.metrics(self.logits, self.labels)
        labelled = self.labels != UNLABELLED
        found = {}
        if self.predicted is not None and labelled.any():
            found["accuracy"] = float((self.predicted == self.labels)[labelled].double().mean())
        if self.label_log_probs is not None and labelled.any():
            nll = -float(self.label_log_probs[labelled].double().mean())
            # A sample that had no label when it was labelled by the teacher leaves no mean over all.
            found |= {"nll": nll} if nll == nll else {}
        return found

    def fidelity(self, task: ImageClassification, logits: Tensor) -> dict[str, float]:
        """How near a student's logits (samples, classes) are to these answers."""
        if self.logits is not None:
            return task.fidelity(logits, self.logits, self.labels)
        return {} if self.predicted is None else agreement(logits.argmax(-1), self.predicted, self.labels)


def answers_of(
    task: ImageClassification,
    teacher: Teacher,
    split: Dataset[Any],
    *,
    label: str,
    collate: Callable[[Any], Any] = collate_samples,
    workers: int = 0,
) -> Answers:
    """What a teacher says of a split: from its label store where that keeps all logits of all samples, else from the
    live teacher beside it; where there is none, what follows from the store."""
    if isinstance(teacher, Stored):
        kept = _kept(teacher, split, label, collate, workers)
        if kept.logits is not None or teacher.fallback is None:
            if kept.why:
                log.warning("%s", kept.why)
            return kept
        teacher = teacher.fallback
    try:
        teacher.require([LOGITS])  # terms on features alone have asked for no logits
    except LimbeckError as error:
        labels = torch.cat([batch["labels"] for batch in DataLoader(split, 256, collate_fn=collate)])
        why = f"the teacher was not measured: {error}"
        log.warning("%s", why)
        return Answers(labels, why=why)
    logits, labels = task.predict(teacher, split, label=label, collate=collate, workers=workers)
    return Answers(labels, logits)


def width_of(teacher: Teacher, example: Any) -> int:
    """How many classes a teacher knows; `example` is a batch.

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


def _kept(teacher: Stored, split: Dataset[Any], label: str, collate: Callable[[Any], Any], workers: int) -> Answers:
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
        content = content_ids(batch["inputs"])
        ids = batch.get("ids", content)
        rows = store.rows(ids, batch.get("views", torch.zeros_like(ids)))
        # A sample of the training split when it was labelled is there in its augmented views only.
        other = (store.content[rows.clamp(min=0)] != content) if augmented else torch.zeros_like(rows, dtype=torch.bool)
        missing += int(((rows < 0) | other).sum())
        if missing or signal is None:
            continue
        target = teacher({name: tensor for name, tensor in batch.items() if name != "labels"}).target(LOGITS)
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
        return Answers(
            truth, why=f"the teacher was not measured: the label store {store.folder} does not hold {missing} of the "
            f"{len(truth)} samples as they are, and there is no live teacher",
        )  # fmt: skip
    if signal is None:
        return Answers(truth, why=f"the teacher was not measured: the label store {store.folder} keeps no logits")
    if logits:
        return Answers(truth, torch.cat(logits))
    sure = "accuracy and agreement are those of its most likely class" if predicted else "its accuracy is not known"
    why = (
        f"the teacher was measured from the label store {store.folder}, whose codec {signal.codec.name!r} keeps no "
        f"whole distributions: {sure}, NLL is that of the stored log-probability of the label, the rest is left out"
    )
    return Answers(truth, None, torch.cat(predicted) if predicted else None, torch.cat(log_probs), why)
