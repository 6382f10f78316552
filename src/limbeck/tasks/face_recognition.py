"""Face recognition: models whose embeddings tell persons apart that they have never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from limbeck.errors import LimbeckError
from limbeck.losses import ArcFace, ClassCentres, CosFace
from limbeck.losses.vectors import unit
from limbeck.models import Shape, forward_of, without_answers
from limbeck.models.embeddings import EMBEDDING
from limbeck.sources import build_augmentation, collate_samples
from limbeck.sources.faces import FaceData, FaceSet, load_faces
from limbeck.store import LabelStore
from limbeck.tasks.face_pairs import flipped
from limbeck.tasks.image_classification import expected_preprocessing
from limbeck.tasks.recognised import BATCH, Recognised, align, predict, reader
from limbeck.tasks.stored_views import in_labelled_views
from limbeck.tasks.task import LabelledSettings, Opening, Task, Unmeasured, annotated, log
from limbeck.teachers import Adapter, Stored, Teacher, adapter
from limbeck.terms import Term
from limbeck.types import UNLABELLED, Preprocessing

TERMS: tuple[Mapping[str, Any], ...] = (
    {"loss": "arcface", "weight": 0.1},
    {"loss": "embedding-cosine", "weight": 10.0, "power": 1},
)
"""The objective of a recipe that names none."""

PER_PERSON = 10
"""Pictures of a person that a class centre is the mean of, at most."""


class FaceSettings(LabelledSettings):
    """Which pictures of persons, as of `limbeck.sources.faces.load_faces`; `validation` is a share of the persons.

    `labelled` keeps all labels of that many persons (an integer; below 1: a share of them; `all`) and none of the
    others, whose pictures only the teacher speaks of. `augment` is as in image classification, without mixing.
    """

    size: int | None = Field(default=None, ge=16)
    validation: float = Field(default=0.1, gt=0, lt=1)
    test: str | None = None
    pairs: str | None = None
    augment: Any = "none"
    image_column: str | None = None
    label_column: str | None = None

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: Any) -> Any:
        if build_augmentation(value, 16, "data.augment")[1] is not None:
            raise LimbeckError("data.augment: a mixture of two faces is nobody's; leave MixUp and CutMix out")
        return value


def _load(settings: FaceSettings, _opening: Opening) -> FaceData:
    return load_faces(settings.source, **settings.model_dump(exclude={"source", "augment", "labelled"}))


def _view(augment: Any, data: FaceData, where: str) -> Any:
    return build_augmentation(augment, data.train.preprocessing.size[0], where)[0]


def _training(settings: FaceSettings, data: FaceData, seed: int, store: LabelStore | None) -> FaceSet:
    """Persons hidden as the recipe says, augmented; where the teacher's labels are stored, the views are those that
    were labelled, in every seed."""
    split = data.train if settings.labelled == "all" else data.train.knowing(settings.labelled)
    view = _view(settings.augment, data, "data.augment")
    return split.with_view(view, seed) if store is None else in_labelled_views(split, view, store)


def _teaching(settings: FaceSettings, data: FaceData, augment: Any) -> FaceSet:
    view = _view(settings.augment if augment is None else augment, data, "teacher.augment")
    return data.train.with_view(view, seed=0)


def _labelled(settings: FaceSettings, data: FaceData, views: int) -> list[FaceSet]:
    view = _view(settings.augment, data, "data.augment")
    return [data.train.with_view(view, 0, count=views if view is not None else None), data.test]


def _describe(split: FaceSet, data: FaceData) -> str:
    known = int((split.labels != UNLABELLED).sum())
    return (
        f"{len(split):,} pictures, {known:,} of them of {len(split.classes):,} known persons; tested on "
        f"{len(data.test.classes):,} others"
    )


def _expected(data: FaceData, said: Mapping[str, Any]) -> Preprocessing | None:
    """How a teacher wants its pixels: as its recipe says, else its saved folder."""
    given = data.train.preprocessing
    return expected_preprocessing(said.get("normalize"), said.get("size"), given) or said.get("preparation")


def _shape(data: FaceData) -> Shape:
    return _shaped(data.train.preprocessing)


def _shaped(pixels: Preprocessing) -> Shape:
    return Shape(0, pixels.channels, pixels.size, EMBEDDING)


def _adapter(data: FaceData, _model: nn.Module | None, said: Mapping[str, Any]) -> Adapter | None:
    return adapter(data.train.preprocessing, _expected(data, said))


def _validate(module: nn.Module, split: FaceSet, _settings: Any) -> dict[str, float]:
    found = predict(module, split, label="validation")
    assert isinstance(found, Recognised)
    return found.verified.metrics()


def _examples(test: Any, distilled: Any, teacher: Any, alone: Any) -> dict[str, Any] | None:
    if isinstance(teacher, Unmeasured) or not isinstance(test, FaceSet):
        return None
    return flipped(test, distilled, teacher, alone)


def _fitted(terms: Sequence[Term], split: FaceSet, teacher: Teacher | None) -> list[Term]:
    """Terms on embeddings say so, margin losses know how many persons there are, and class centres where these are."""
    done = []
    for term in terms:
        if isinstance(term.loss, ArcFace | CosFace) and term.loss.classes is None:
            term.loss.classes = len(split.classes)
        if isinstance(term.loss, ClassCentres) and teacher is not None:
            term.loss.remember(_centres(teacher, split))
        if term.loss.wants == EMBEDDING:
            theirs = term.teacher or (EMBEDDING if "teacher" in term.loss.inputs else "")
            term = replace(term, student=term.student or EMBEDDING, teacher=theirs)
        done.append(term)
    return done


_known: WeakKeyDictionary[Teacher, tuple[Tensor, Tensor]] = WeakKeyDictionary()
"""The class centres that a teacher had last, beside the labels they are of: the students of all seeds share them."""


def _centres(teacher: Teacher, split: FaceSet) -> Tensor:
    """The mean direction of a teacher's embeddings of each known person, (persons, width)."""
    if teacher in _known and torch.equal(_known[teacher][0], split.labels):
        return _known[teacher][1]
    order = split.labels.argsort(stable=True)
    ranked = split.labels[order]
    nth = torch.arange(len(ranked)) - torch.searchsorted(ranked, ranked)
    chosen = order[(ranked != UNLABELLED) & (nth < PER_PERSON)]
    # A label store holds views and not the pictures as they are.
    seen = split.in_view(0) if isinstance(teacher, Stored) else split.without_view()
    run, device = reader(teacher), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sums: Tensor | None = None
    with torch.inference_mode():
        # A generator of its own: whether the centres are known already must not change what is drawn after.
        own = torch.Generator()
        for batch in DataLoader(seen.subset(chosen), BATCH, collate_fn=collate_samples, generator=own):
            signal = run({name: tensor.to(device) for name, tensor in without_answers(batch).items()})
            directions = unit(signal[EMBEDDING].float().cpu())
            sums = directions.new_zeros(len(split.classes), directions.shape[1]) if sums is None else sums
            sums.index_add_(0, batch["labels"], directions)
    assert sums is not None
    centres = unit(sums).clone()
    _known[teacher] = (split.labels, centres)
    return centres


def _beside(student: nn.Module, teacher: Teacher, data: FaceData, folder: Path) -> None:
    """Writes the map into the teacher's space, where there is need of one, so that its gallery goes on working."""
    pictures = data.test.aligned_on
    if isinstance(teacher, Stored) and teacher.fallback is not None:
        teacher = teacher.fallback
    if pictures is None or isinstance(teacher, Stored):
        log.warning("no map into the teacher's space was saved beside the student: it needs the live teacher")
        return
    alignment = align(student, teacher, pictures)
    if alignment is not None:
        alignment.save(folder)


FACE_RECOGNITION = Task(
    name="face-recognition",
    settings=FaceSettings,
    teacher_keys=frozenset({"normalize", "size", "augment"}),
    main_metric="tar_far2",
    claimed=("tar_far2", "accuracy", "auc", "rank1", "gallery_rank1"),
    selection=lambda _data: "auc",
    terms=lambda _settings: TERMS,
    load=_load,
    training=_training,
    alone=annotated,
    teaching=_teaching,
    labelled=_labelled,
    describe=_describe,
    shape=_shape,
    teacher_shape=lambda data, said: _shaped(_expected(data, said) or data.train.preprocessing),
    adapter=_adapter,
    preparation=lambda data: data.train.preprocessing,
    predict=predict,
    validate=_validate,
    examples=_examples,
    run=forward_of,
    fitted=_fitted,
    beside=_beside,
)
