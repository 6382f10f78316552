"""Embeddings of faces: what a model gives for a split, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from limbeck.errors import LimbeckError
from limbeck.labelling import keys_of
from limbeck.metrics.gallery import Alignment, alignment_needed, fit_alignment
from limbeck.metrics.verification import Verified, identification, pair_scores
from limbeck.models import forward_of, without_answers
from limbeck.models.embeddings import EMBEDDING
from limbeck.sources import ImageSet, collate_samples
from limbeck.sources.faces import FaceSet, Pairs
from limbeck.tasks.task import Unmeasured, log, unmeasured
from limbeck.teachers import Stored, Teacher
from limbeck.types import Batch, Signal

BATCH = 256


@dataclass(frozen=True, eq=False)
class Recognised:
    """A model's embeddings (n, width) of a split, on the CPU, in its order; and those of the training pictures on which
    models are aligned, None where they are not known."""

    split: FaceSet
    embeddings: Tensor
    training: Tensor | None = None
    why: str = ""

    @property
    def pairs(self) -> Pairs:
        """The split's pairs."""
        if self.split.pairs is None:
            raise LimbeckError(f"{self.split.name}: has no pairs to verify; take the test or the validation split")
        return self.split.pairs

    @cached_property
    def verified(self) -> Verified:
        """The pairs with their scores."""
        return self._against(self.embeddings)

    def _against(self, others: Tensor) -> Verified:
        """The pairs, the first picture's embedding compared with the second's among `others`."""
        pairs = self.pairs
        scores = pair_scores(self.embeddings[pairs.first], others[pairs.second])
        return Verified(scores, pairs.same.numpy(), pairs.folds.numpy())

    def metrics(self) -> dict[str, float]:
        """Verification of the pairs, and identification among the split's pictures."""
        for doubt in self.verified.doubts():
            log.warning("%s: %s", self.split.name, doubt)
        return self.verified.metrics() | identification(self.embeddings, self.embeddings, self.split.labels)

    def fidelity(self, taught: Recognised | Unmeasured) -> dict[str, float]:
        """How often a pair is decided as the teacher does, and how well the teacher's gallery is searched with these
        embeddings: as they are, or through a linear map fitted on training pictures where they are of another space
        (`gallery_map` is then 1)."""
        if isinstance(taught, Unmeasured):
            return {}
        found = {"agreement": float((self.verified.accepted == taught.verified.accepted).mean())}
        mapped = self.in_space_of(taught)
        if mapped is None:
            log.warning("the teacher's gallery was not searched: no training pictures are known of both models")
            return found
        own = Recognised(self.split, mapped)
        gallery = own._against(taught.embeddings).metrics()
        found |= {"gallery_tar_far2": gallery["tar_far2"]}
        among = identification(mapped, taught.embeddings, self.split.labels)
        found |= {"gallery_rank1": among["rank1"]} if among else {}
        cosines = F.cosine_similarity(mapped.double(), taught.embeddings.double(), dim=1)
        return found | {"teacher_cosine": float(cosines.mean()), "gallery_map": float(mapped is not self.embeddings)}

    def in_space_of(self, taught: Recognised) -> Tensor | None:
        """These embeddings in a teacher's space, None where no way there is known."""
        if self.training is None or taught.training is None:
            return self.embeddings if self.embeddings.shape == taught.embeddings.shape else None
        if not alignment_needed(self.training, taught.training):
            return self.embeddings
        return fit_alignment(self.training, taught.training)(self.embeddings)

    def details(self) -> dict[str, Any]:
        """The ROC curve."""
        return {"roc": self.verified.drawn()}


def predict(
    read: nn.Module | Teacher, split: FaceSet, *, label: str = "predicting", workers: int = 0, settings: Any = None
) -> Recognised | Unmeasured:
    """What a module or a teacher gives for a whole split, and for the training pictures beside it.

    A module is moved to the GPU if there is one and put in eval mode. A label store answers where it holds the pictures
    as they are; else the live teacher beside it does.
    """
    if isinstance(read, Stored) and read.fallback is not None:
        read = read.fallback
    if isinstance(read, Stored) and (missing := _missing(read, split, workers)):
        return unmeasured(
            f"{label}: the teacher was not measured: the label store {read.store.folder} does not hold {missing} of "
            f"the {len(split)} pictures as they are, and there is no live teacher"
        )
    run = reader(read)
    embeddings = embedded(run, split, label, workers)
    beside = split.aligned_on
    if beside is None or (isinstance(read, Stored) and _missing(read, beside, workers)):
        return Recognised(split, embeddings)
    return Recognised(split, embeddings, embedded(run, beside, f"{label}: training pictures", workers))


def align(student: nn.Module, teacher: Teacher, pictures: ImageSet) -> Alignment | None:
    """The map of a student's embeddings into its teacher's space, fitted on training pictures; None where they are of
    one space."""
    mine, theirs = (embedded(reader(each), pictures, "aligning") for each in (student, teacher))
    return fit_alignment(mine, theirs) if alignment_needed(mine, theirs) else None


def reader(read: nn.Module | Teacher) -> Callable[[Batch], Signal]:
    """How a module or a teacher gives embeddings of a batch."""
    if isinstance(read, Teacher):
        read.require([EMBEDDING])
        return read
    return forward_of(read.to(_device()).eval())


def embedded(run: Callable[[Batch], Signal], split: Any, label: str, workers: int = 0) -> Tensor:
    """The embeddings (n, width) float32 of a whole split, on the CPU.

    Raises:
        LimbeckError: what is run gives none.
    """
    loader = DataLoader(split, batch_size=BATCH, collate_fn=collate_samples, num_workers=workers)
    parts: list[Tensor] = []
    device = _device()
    with torch.inference_mode():
        for batch in tqdm(loader, desc=label, leave=False, disable=None):
            signal = run({name: tensor.to(device) for name, tensor in without_answers(batch).items()})
            if EMBEDDING not in signal or signal[EMBEDDING].dim() != 2:
                given = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in signal.items())
                raise LimbeckError(
                    f"{label}: the model gives {given}; faces are recognised by {EMBEDDING!r}, (batch, width): take a "
                    "model embedding:BACKBONE, or give a dict with it"
                )
            parts.append(signal[EMBEDDING].float().cpu())
    return torch.cat(parts).clone()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _missing(teacher: Stored, split: ImageSet, workers: int) -> int:
    """How many pictures of a split a label store does not hold as they are."""
    store, missing = teacher.store, 0
    for batch in DataLoader(split, BATCH, collate_fn=collate_samples, num_workers=workers):
        ids, views, content, _ = keys_of(batch)
        rows = store.rows(ids, views)
        missing += int(((rows < 0) | (store.content[rows.clamp(min=0)] != content)).sum())
    return missing
