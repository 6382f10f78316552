"""Teachers that know some of the classes each, put together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.teachers.base import Teacher


def share_of_classes(teachers: Sequence[Teacher], shares: Sequence[float]) -> Tensor | None:
    """What each teacher's logit counts in a class, (teachers, classes), which adds up to 1 over those that know it;
    None where all teachers know all classes.

    Raises:
        LimbeckError: teachers were mapped onto different classes, or a class is known to none.
    """
    lists = {teacher.onto for teacher in teachers if teacher.onto is not None}
    if not lists:
        return None
    if len(lists) > 1:
        sizes = sorted(len(each) for each in lists)
        raise LimbeckError(
            f"the ensemble's teachers are mapped onto different class lists (of {sizes} classes); map all of them onto "
            "the student's classes, in one order"
        )
    (classes,) = lists
    if all(teacher.onto is None or teacher.known.issuperset(classes) for teacher in teachers):
        return None
    rows = [
        [share if teacher.onto is None or name in teacher.known else 0.0 for name in classes]
        for teacher, share in zip(teachers, shares, strict=True)
    ]
    table = torch.tensor(rows)
    total = table.sum(0)
    missing = [name for name, weight in zip(classes, total.tolist(), strict=True) if weight <= 0]
    if missing:
        raise LimbeckError(
            f"none of the ensemble's teachers knows {shortened(missing)}; add one that does, or take those classes out "
            "of the student"
        )
    return table / total


def shortened(names: Sequence[str]) -> str:
    """The first few names, as a message gives them."""
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def assembled(logits: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Each class's logit averaged over the teachers that know it, (batch, …, classes)."""
    shares = shares.to(logits[0].device)
    # A class that a teacher does not know has −inf there, and −inf · 0 is no number.
    parts = [torch.where(share > 0, each, 0.0) * share.to(each) for each, share in zip(logits, shares, strict=True)]
    return torch.stack(parts).sum(0)
