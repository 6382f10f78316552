"""An old model's gallery searched with a new model's queries, and the linear map that may be needed for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.files import staged_file

FILE = "gallery.safetensors"
"""What an alignment is called beside a saved student."""

ALIGNED = 0.5
"""The mean cosine from which on embeddings are taken to be of one space as they are: that of strangers is near 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """A linear map of the student's directions into the teacher's space: `matrix` (student width, teacher width)."""

    matrix: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        """(n, teacher width) of embeddings (n, student width) of any length."""
        mapped: Tensor = F.normalize(embeddings.float(), dim=1) @ self.matrix.to(embeddings.device)
        return mapped

    def save(self, folder: Path) -> None:
        """Writes the map as `gallery.safetensors`, whole or not at all."""
        with staged_file(folder / FILE) as staging:
            save_file({"matrix": self.matrix.contiguous()}, staging)

    @classmethod
    def read(cls, folder: Path) -> Alignment:
        """What `save` wrote. Raises LimbeckError where it is not there or broken."""
        path = folder / FILE
        try:
            return cls(load_file(path)["matrix"])
        except (FileNotFoundError, KeyError, SafetensorError, OSError) as error:
            raise LimbeckError(f"{path}: no alignment to a gallery ({error}); run the recipe again") from None


def fit_alignment(student: Tensor, teacher: Tensor, ridge: float = 1e-3) -> Alignment:
    """The map W that brings directions of the student nearest to the teacher's of the same pictures:
    argmin ‖S · W − T‖² + r ‖W‖², where r is `ridge` times the mean eigenvalue of SᵀS.

    Args:
        student, teacher: (n, width), each of its own width: of pictures that students train on.

    Raises:
        LimbeckError: not as many of both.
    """
    if len(student) != len(teacher) or len(student) == 0:
        raise LimbeckError(
            f"alignment: expected embeddings of the same pictures, got {len(student)} of the student and "
            f"{len(teacher)} of the teacher"
        )
    mine, theirs = F.normalize(student.double(), dim=1), F.normalize(teacher.double(), dim=1)
    squares = mine.t() @ mine
    floor = ridge * squares.diagonal().mean()
    solved = torch.linalg.solve(squares + floor * torch.eye(len(squares), dtype=squares.dtype), mine.t() @ theirs)
    return Alignment(solved.float())


def alignment_needed(student: Tensor, teacher: Tensor) -> bool:
    """Whether the student's embeddings (n, width) cannot be compared with the teacher's of the same pictures as they
    are."""
    if student.shape[1] != teacher.shape[1]:
        return True
    return float(F.cosine_similarity(student.double(), teacher.double(), dim=1).mean()) < ALIGNED
