"""Sets of faces: pictures whose label is who they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.sources.faces.pairs import Pairs
from limbeck.sources.ids import text_ids
from limbeck.sources.images import ImageSet
from limbeck.sources.splits import LABELLED, SPLIT_SEED
from limbeck.sources.views import keys
from limbeck.types import UNLABELLED


class FaceSet(ImageSet):
    """An ImageSet of faces. `classes` are the names of the persons in it, `labels` who is in a picture (-1: not known),
    and `pairs` what is compared where it is a split to measure on (None where it is one to train on).

    `aligned_on` are training pictures, on which the embeddings of two models may be brought into one space.
    """

    pairs: Pairs | None = None
    aligned_on: ImageSet | None = None

    def paired(self, pairs: Pairs) -> Self:
        """The same pictures with pairs of their positions."""
        return self._changed(pairs=pairs)

    def beside(self, training: ImageSet, most: int) -> Self:
        """The same pictures with up to `most` of a training split to align embeddings on, the same in every run."""
        order = np.argsort(keys(SPLIT_SEED, LABELLED, training.ids.numpy()), kind="stable")[:most]
        name = f"{training.name}, to align on"
        return self._changed(aligned_on=training.without_view().subset(np.sort(order), name))

    def subset(self, indices: NDArray[np.int64] | Tensor | Sequence[int], name: str | None = None) -> Self:
        """The pictures at these positions, with the pairs among them."""
        at = torch.as_tensor(indices, dtype=torch.int64)
        chosen: Self = super().subset(at, name)  # type: ignore[assignment]
        return chosen if self.pairs is None else chosen.paired(self.pairs.among(at, len(self)))

    def knowing(self, labelled: int | float) -> Self:
        """The same pictures, of which only those of some persons are labelled: an integer says of how many, a share
        of which part. Those of fewer are among those of more.

        Raises:
            LimbeckError: fewer than two, or more than there are.
        """
        present = torch.unique(self.labels[self.labels != UNLABELLED])
        wanted = labelled if isinstance(labelled, int) else round(labelled * len(present))
        if not 2 <= wanted <= len(present) or (isinstance(labelled, float) and not 0 < labelled <= 1):
            raise LimbeckError(
                f"{self.name}: labelled: expected from 2 to {len(present)} persons (all that train has), or a share of "
                f"these, got {labelled}"
            )
        drawn = keys(SPLIT_SEED, LABELLED, text_ids([self.classes[at] for at in present]))
        kept = present[torch.from_numpy(np.argsort(drawn, kind="stable").copy())][:wanted].sort().values
        return self._numbered(kept)

    def _numbered(self, kept: Tensor) -> Self:
        """Only the persons of these labels are known, and are 0, 1, 2, …"""
        numbers = torch.full((len(self.classes) + 1,), UNLABELLED)
        numbers[kept] = torch.arange(len(kept))
        # The last entry is that of an unlabelled picture, whose index is -1.
        return self._changed(labels=numbers[self.labels], classes=tuple(self.classes[at] for at in kept))


@dataclass(frozen=True, slots=True, eq=False)
class FaceData:
    """Faces ready for a run; nobody is in two splits. `classes` is empty: a model of faces knows no persons."""

    name: str
    train: FaceSet
    validation: FaceSet
    test: FaceSet
    classes: tuple[str, ...] = ()
