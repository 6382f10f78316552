"""What `limbeck pair` shows: the pairs of two models, the projector that each needs, and how a recipe names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import nn

from limbeck import projectors as kinds
from limbeck.errors import LimbeckError
from limbeck.models.by_name import image_model, text_model
from limbeck.models.spec import Shape
from limbeck.pairing import Pairing, Survey, opened, pair, paired, survey
from limbeck.projectors import projector_between
from limbeck.recipe import Recipe
from limbeck.session import Session, open_data, preview_teacher
from limbeck.students import build_student
from limbeck.terms import Names, names_of
from limbeck.types import Batch

LENGTH = 16
"""Tokens of the text that text models are tried on."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One pair: what it is, the taps with what they give (without the batch), the projector, and the keys of a recipe's
    term."""

    what: str
    student: str
    teacher: str
    projector: str
    keys: str


def pair_models(teacher: str, student: str, shape: Shape, *, trust_code: bool = False) -> Pairing:
    """The pairing of two models by name, as a recipe names them; transformers models may be of texts.

    They are built untrained, which their shapes do not depend on.

    Raises:
        LimbeckError: a model cannot be built, or does not run on inputs of that size; one is of texts, the other of
            images.
    """
    (theirs, of_texts), (mine, of_texts_too) = (
        _looked_at(name, owner, shape, trust_code) for name, owner in ((teacher, "teacher"), (student, "student"))
    )
    if of_texts != of_texts_too:
        raise LimbeckError(f"pair: {teacher if of_texts else student} reads texts, the other model images")
    return paired(mine, theirs)


def pair_recipe(recipe: Recipe, *, trust_code: bool = False) -> Pairing:
    """The pairing of a recipe's models, on its data.

    Raises:
        LimbeckError: what would stop the run as well, or several teachers.
    """
    data = open_data(recipe, lambda _line: None)
    session = Session(recipe, data, Path("runs") / recipe.name, trust_code, lambda _line: None)
    taught = preview_teacher(session).teacher
    teacher, prepare = opened(taught)
    example = data.train.__getitems__(list(range(min(2, len(data.train)))))
    return pair(build_student(session, recipe.student, lambda: taught), teacher, example, prepare(example))


def proposals(pairing: Pairing) -> list[Proposal]:
    """The pairs, the deepest stage last."""
    found: list[tuple[str, Names, Names]] = []
    for number, (here, there) in enumerate(pairing.stages, 1):
        found.append((f"stage {number}" if number < len(pairing.stages) else "last stage", here, there))
    if pairing.embedding is not None:
        found.append(("embedding", *pairing.embedding))
    if pairing.attention is not None:
        found.append(("attention", *pairing.attention))
    if pairing.values is not None:
        found.append(("values", *pairing.values))
    return [_proposal(pairing, *each) for each in found]


def _proposal(pairing: Pairing, what: str, student: Names, teacher: Names) -> Proposal:
    here, there = (
        [(name, shapes[name]) for name in names_of(names)]
        for names, shapes in ((student, pairing.student_shapes), (teacher, pairing.teacher_shapes))
    )
    return Proposal(
        what=what,
        student="\n".join(_shown(*each) for each in here),
        teacher="\n".join(_shown(*each) for each in there),
        # Losses on attention and values compare what needs no projector.
        projector=_projector(here[0][1], there[0][1]) if what not in ("attention", "values") else "–",
        keys=f"student: {_yaml(student)}, teacher: {_yaml(teacher)}",
    )


def _shown(tap: str, shape: tuple[int, ...]) -> str:
    return f"{tap} {'×'.join(map(str, shape[1:]))}"


def _yaml(names: Names) -> str:
    if not isinstance(names, str):
        return f"[{', '.join(map(_yaml, names))}]"
    # The path of a Sequential's member may look like a number.
    return names if yaml.safe_load(names) == names else f'"{names}"'


def _projector(here: tuple[int, ...], there: tuple[int, ...]) -> str:
    """The projector that the Distiller builds, in words; only losses that need equal shapes have it."""
    try:
        projector = projector_between(torch.empty(here, device="meta"), torch.empty(there, device="meta"), "pair")
    except LimbeckError:
        return "none leads"
    if projector is None:
        return "not needed"
    if isinstance(projector, nn.Linear):
        return f"linear {projector.in_features} → {projector.out_features}"
    says: dict[type[nn.Module], str] = {
        kinds.MapProjector: "1×1 convolution, resized",
        kinds.TokenProjector: "linear, grid resized",
        kinds.TokensToMap: "tokens as a map, 1×1 convolution, resized",
        kinds.MapToTokens: "1×1 convolution, resized, positions as tokens",
        kinds.PooledProjector: "mean over positions, linear",
        kinds.SpreadProjector: "linear, the same at every position",
    }
    weight = next(projector.parameters())
    return f"{says[type(projector)]}, {weight.shape[1]} → {weight.shape[0]}"


def _looked_at(name: str, owner: str, shape: Shape, trust_code: bool) -> tuple[Survey, bool]:
    """A model's places, and whether it reads texts."""
    if name.startswith("hf:") and (
        made := text_model(name, shape.num_classes, "name its taps yourself", trust_code=trust_code)
    ):
        ids = torch.arange(LENGTH).expand(2, -1).contiguous()
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        try:
            with torch.device("meta"):  # no memory for a large model
                model = made()
            seen = survey(model, {key: each.to("meta") for key, each in batch.items()}, owner)
        except (RuntimeError, NotImplementedError):
            seen = _surveyed(name, made(), batch, owner)
        return seen, True
    model, size = image_model(name, shape, trust_code=trust_code)
    return _surveyed(name, model, {"inputs": torch.zeros(2, *size)}, owner), False


def _surveyed(name: str, model: nn.Module, batch: Batch, owner: str) -> Survey:
    try:
        return survey(model, batch, owner)
    except LimbeckError:
        raise
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        given = next(iter(batch.values()))
        reason = str(error).strip().split("\n")[0]
        raise LimbeckError(
            f"pair: {name} does not run on a batch of shape {tuple(given.shape)} ({reason}); choose another --size"
        ) from None
