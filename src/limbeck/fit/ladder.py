"""The models that are tried: the recipe's student wider, narrower, deeper, at fewer pixels, its kin, and the teacher
cut down."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from limbeck.chains import copy_of_teacher
from limbeck.compress import prune
from limbeck.errors import LimbeckError
from limbeck.models.builtin import BUILT_IN, TEXT_MODELS
from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import is_transformers
from limbeck.models.iresnet import BLOCKS
from limbeck.models.resolution import RESOLUTION
from limbeck.recipe import ModelRecipe, Recipe, StudentRecipe
from limbeck.session import Session
from limbeck.students import build_student
from limbeck.teachers import Teacher

TEACHER = "teacher"

WIDTHS = ("widths", "width", "units", "channels", "deconvolution", "hidden", "dense")
"""Options that say how wide a model is."""
FACTORS = (0.5, 0.75, 1.5, 2.0)
RESOLUTIONS = (0.75, 0.5)
FEWEST_PIXELS = 8
LONGEST = 60
"""Letters of a name."""
SHARES = (0.5, 0.25, 0.12)
"""Of the teacher's FLOPs, what pruning leaves."""

FAMILIES: tuple[tuple[str, ...], ...] = (
    ("mobilenetv3_small_050", "mobilenetv3_small_075", "mobilenetv3_small_100", "mobilenetv3_large_075",
     "mobilenetv3_large_100"),
    ("lcnet_035", "lcnet_050", "lcnet_075", "lcnet_100", "lcnet_150"),
    ("resnet10t", "resnet14t", "resnet18", "resnet26", "resnet34", "resnet50"),
    ("efficientnet_lite0", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
    ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    ("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet8x4", "resnet32x4"),
    ("wrn-16-1", "wrn-16-2", "wrn-40-1", "wrn-40-2"),
    ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
    tuple(sorted(BLOCKS, key=lambda name: sum(BLOCKS[name]))),
)  # fmt: skip
"""Models of one kind, of timm and of limbeck, the smallest first."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A model to try: a student, or the teacher pruned to a share of its FLOPs (1: as it is).

    Attributes:
        name: as folders and tables have it.
        student: what builds it; None of what is made of the teacher.
        share: of the teacher's FLOPs.
    """

    name: str
    student: StudentRecipe | None = None
    share: float = 1.0

    @property
    def is_teacher(self) -> bool:
        """Whether it is the teacher as it is, which needs no training."""
        return self.student is None and self.share == 1.0


def ladder(session: Session, teacher: Teacher) -> list[Rung]:
    """The rungs of a recipe: those of its `fit.students` where it names some, else what follows from its student and
    its teacher. Whether they can be built is not known yet."""
    recipe = session.recipe
    students = recipe.fit.students or [recipe.student, *_kin(session, teacher)]
    rungs, seen = [], set()
    for student in students:
        name = name_of(student)
        if name not in seen:
            rungs.append(Rung(name, student))
            seen.add(name)
    shares = recipe.fit.prune if recipe.fit.prune is not None else SHARES
    return [*rungs, *(Rung(f"teacher-pruned-{share:g}", None, share) for share in shares), Rung(TEACHER)]


def name_of(student: StudentRecipe) -> str:
    """A student's name: its model's, and the options that set it apart."""
    options = student.options if student.model else student.sizes
    said = [f"{key}{_text(value)}" for key, value in sorted(options.items()) if key != "pretrained"]
    whole = "-".join([student.model or "smaller-teacher", *said])
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", whole).strip("-.")
    hidden = {"pretrained": student.options.get("pretrained"), "start": student.start, "lora": student.lora}
    if len(name) <= LONGEST and not any(value is not None for value in hidden.values()):
        return name
    return f"{name[:LONGEST]}-{hashlib.sha256(student.model_dump_json().encode()).hexdigest()[:6]}"


def untrained(session: Session, teacher: Teacher, rung: Rung) -> nn.Module:
    """A rung's model before training.

    Raises:
        LimbeckError: it cannot be made.
    """
    if rung.student is not None:
        with torch.random.fork_rng():
            return build_student(session, rung.student, lambda: teacher)
    model = copy_of_teacher(session, teacher)
    if rung.is_teacher:
        return model
    wanted = session.recipe.prune
    by = wanted.by if wanted.by != "taylor" else "magnitude"
    options: dict[str, Any] = {"scope": wanted.scope, "keep": wanted.keep, "round_to": wanted.round_to}
    return prune(model, session.samples([0, 1]), by=by, flops=rung.share, **options).module


def wanted_of(session: Session, rung: Rung) -> ModelRecipe:
    """What builds a rung's model again."""
    return rung.student if rung.student is not None else session.recipe.teacher[0]


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _kin(session: Session, teacher: Teacher) -> Iterator[StudentRecipe]:
    """Students like the recipe's own."""
    own = session.recipe.student
    if own.source is not None:
        yield from _smaller_teachers(own, teacher)
        return
    for name in _relatives(own.model):
        yield own.model_copy(update={"model": name})
    defaults = _defaults(own.model)
    for factor in FACTORS:
        wider = _scaled({**defaults, **own.options}, factor)
        if wider:
            yield own.model_copy(update={"options": {**own.options, **wider}})
    side = min(getattr(session.task.shape(session.data), "image_size", (0,)))
    if session.task.name in ("image-classification", "face-recognition") and side:
        for share in RESOLUTIONS:
            pixels = max(FEWEST_PIXELS, round(side * share / 4) * 4)
            if pixels < side:
                for factor in (1.0, 2.0):
                    wider = _scaled({**defaults, **own.options}, factor)
                    yield own.model_copy(update={"options": {**own.options, **wider, RESOLUTION: pixels}})
    live = next(iter(teacher.modules()), None)
    if live is not None and is_transformers(unwrapped(live)) and own.start is None:
        yield from _smaller_teachers(StudentRecipe.model_validate({"from": "teacher", "layers": 1}), teacher)


def _relatives(model: str) -> Iterator[str]:
    """The other members of the family of a name, whatever stands before it (`fcos:timm:`)."""
    prefix, _, last = model.rpartition(":")
    for family in FAMILIES:
        if last in family:
            for name in family:
                if name != last:
                    yield f"{prefix}:{name}" if prefix else name


def _defaults(model: str) -> dict[str, Any]:
    """How wide a built-in model is where nobody says it."""
    builder = {**BUILT_IN, **TEXT_MODELS}.get(model)
    if builder is None:
        return {}
    fixed = builder.keywords if isinstance(builder, partial) else {}
    parameters = inspect.signature(builder).parameters
    return {
        name: each.default for name, each in parameters.items()
        if name in WIDTHS and name not in fixed and each.default is not each.empty
    }  # fmt: skip


def _scaled(options: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """The options that say a width, so many times as large, in steps of four."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name in WIDTHS and name != "hidden" and value and factor != 1.0:
            several = isinstance(value, list | tuple)
            wider = [max(4, round(each * factor / 4) * 4) for each in (value if several else [value])]
            found[name] = wider if several else wider[0]
    return found


def _smaller_teachers(own: StudentRecipe, teacher: Teacher) -> Iterator[StudentRecipe]:
    """A transformers teacher with fewer layers, and with fewer and half as wide."""
    live: Any = next(iter(teacher.modules()), None)
    config = None if live is None else getattr(unwrapped(live), "config", None)
    layers = getattr(config, "num_hidden_layers", None)
    width = getattr(config, "hidden_size", None)
    if not isinstance(layers, int):
        return
    both = bool(getattr(config, "is_encoder_decoder", False))
    for count in sorted({max(1, layers // part) for part in (1, 2, 3, 6)}):
        taken: Any = {"encoder": count, "decoder": count} if both else count
        for share in (1, 2):
            narrower = None if share == 1 or not isinstance(width, int) else width // share
            if (count < layers or narrower is not None) and (share == 1 or narrower is not None):
                yield own.model_copy(
                    update={"layers": taken, "width": narrower, "heads": None, "feed_forward": None}
                )  # fmt: skip


def check_students(recipe: Recipe) -> None:
    """Raises LimbeckError where two of the recipe's own students have one name."""
    names = [name_of(student) for student in recipe.fit.students]
    for name in names:
        if names.count(name) > 1:
            raise LimbeckError(f"fit.students: two are called {name}; name each once")
