"""Object detection: what is where in a picture, by any detector that gives boxes with scores and classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from limbeck.errors import LimbeckError
from limbeck.losses import METHODS
from limbeck.metrics.detection import CocoScores, coco_scores, missed, recall_curves, teacher_ap50
from limbeck.models import Shape, forward_of, unwrapped, without_answers
from limbeck.models.detection import Detections, SetDetector
from limbeck.models.detection.dense import DenseDetector
from limbeck.pictures import Fit
from limbeck.processes import processes
from limbeck.sources import collate_samples
from limbeck.sources.boxes import DetectionData, DetectionSet, Found, build_box_view, load_boxes
from limbeck.sources.boxes.hub import BoxForm
from limbeck.sources.splits import kept_mask
from limbeck.store import LabelStore
from limbeck.tasks.drawn_boxes import compared_pictures
from limbeck.tasks.image_classification import NORMALIZATIONS, NormalizeRecipe, expected_preprocessing
from limbeck.tasks.stored_views import in_labelled_views
from limbeck.tasks.task import LabelledSettings, Opening, Say, Task, Unmeasured, annotated, unmeasured
from limbeck.teachers import Adapter, Live, Stored, Teacher, adapter
from limbeck.types import UNLABELLED, Batch, Preprocessing

LEARNING: tuple[Mapping[str, Any], ...] = ({"loss": "model-loss"}, {"loss": "soft-boxes"})
"""The objective of a recipe that names none: a detector's own loss, and what a teacher of any family finds."""


class DetectionSettings(LabelledSettings):
    """Which pictures, with which boxes; `source` as of `limbeck.sources.boxes.load_boxes`.

    `size` is the height and width, or the one of both, that pictures are brought to, by `fit`: `letterbox` or
    `stretch`. `augment` is `none`, `flip`, `flip-crop`, or a list of torchvision.transforms.v2 names with their
    options. `normalize` is `imagenet`, `inception`, or a mean and std. `box_form` says what the four numbers of a box
    are in a Hugging Face data set. `labelled` keeps the annotations of that many training pictures.
    """

    size: tuple[int, int] = (320, 320)
    fit: Fit = "letterbox"
    validation: float = Field(default=0.1, gt=0, lt=1)
    augment: Any = "flip"
    normalize: str | NormalizeRecipe = "imagenet"
    box_form: BoxForm = "xywh"

    @field_validator("size", mode="before")
    @classmethod
    def _both(cls, value: Any) -> Any:
        sides = [value, value] if type(value) is int else value
        known = (
            isinstance(sides, Sequence) and len(sides) == 2 and all(type(each) is int and each > 0 for each in sides)
        )
        if not known:
            raise LimbeckError(f"data.size: expected a height and width in pixels, or one for both, got {value!r:.60}")
        return sides

    @field_validator("augment")
    @classmethod
    def _augment(cls, value: Any) -> Any:
        build_box_view(value, (64, 64), "data.augment")
        return value

    @field_validator("normalize")
    @classmethod
    def _normalize(cls, value: Any) -> Any:
        pixels = Preprocessing((1, 1), 3, *NORMALIZATIONS["imagenet"])
        expected = expected_preprocessing(value, None, pixels)
        if expected is not None and expected.channels != 3:
            raise LimbeckError(f"data.normalize: expected 3 means and deviations, got {expected.channels}")
        return value


@dataclass(frozen=True, eq=False)
class Detected:
    """What a model finds in each picture of a split, in pixels of the picture on disk."""

    found: Sequence[Detections]
    split: DetectionSet
    why: str = ""

    @cached_property
    def scores(self) -> CocoScores:
        """COCO's evaluation."""
        return coco_scores(self.found, self.truths, len(self.split.classes))

    @property
    def truths(self) -> list[Any]:
        """What people drew into the pictures."""
        return [self.split.truth(index) for index in range(len(self.split))]

    def metrics(self) -> dict[str, float]:
        """COCO's average precision and recall."""
        return self.scores.metrics()

    def fidelity(self, taught: Detected | Unmeasured) -> dict[str, float]:
        """AP50 with the teacher's boxes as the truth, and the share of what it finds that is missed."""
        if isinstance(taught, Unmeasured):
            return {}
        near = teacher_ap50(self.found, taught.found, len(self.split.classes))
        lost = missed(self.found, taught.found, self.truths)
        return ({} if near is None else {"teacher_ap50": near}) | ({"missed": lost.share} if lost.found else {})

    def details(self) -> dict[str, Any]:
        """Precision against recall by class; of each class the best F1 on its curve, and its AP."""
        classes = list(self.split.classes)
        curves = recall_curves(self.found, self.truths, classes)
        precision = self.scores.per_class(classes)
        parts = [
            {"name": name, "annotated": count, "share": precision[name]["ap50"] if name in precision else None}
            for name, count in zip(classes, curves["support"], strict=True)
        ]
        return {
            "classes": classes,
            "pr_curves": {"micro": curves["micro"], "per_class": curves["per_class"]},
            "per_class": {"f1": curves["f1"], "support": curves["support"]},
            "average_precision": precision,
            "breakdown": {
                "title": "AP50 by class",
                "note": "Average precision of boxes that overlap by half, in percent, averaged over the seeds.",
                "what": "class",
                "parts": parts,
            },
        }


@dataclass(frozen=True, slots=True)
class OnlyPictures:
    """Brings a batch to a teacher without the truth, of which it would make a loss that nobody asks for."""

    pixels: Adapter | None

    def __call__(self, batch: Batch) -> Batch:
        batch = without_answers(batch)
        return batch if self.pixels is None else self.pixels(batch)


def _load(settings: DetectionSettings, _opening: Opening) -> DetectionData:
    given = Preprocessing(settings.size, 3, *NORMALIZATIONS["imagenet"])
    wanted = expected_preprocessing(settings.normalize, None, given) or given
    (red, green, blue), (r, g, b) = wanted.mean, wanted.std
    return load_boxes(
        settings.source,
        settings.size,
        mean=(red, green, blue),
        std=(r, g, b),
        fit=settings.fit,
        validation=settings.validation,
        box_form=settings.box_form,
    )


def _training(settings: DetectionSettings, data: DetectionData, seed: int, store: LabelStore | None) -> DetectionSet:
    """Annotations hidden as the recipe says, augmented; where the teacher's labels are stored, the views are those that
    were labelled, in every seed."""
    split = data.train
    if settings.labelled != "all":
        known = split.labels.numpy() != UNLABELLED
        split = split.with_labels(kept_mask(known, split.ids.numpy(), settings.labelled) & known)
    view = build_box_view(settings.augment, settings.size, "data.augment")
    return split.with_view(view, seed) if store is None else in_labelled_views(split, view, store)


def _teaching(settings: DetectionSettings, data: DetectionData, augment: Any) -> DetectionSet:
    wanted = settings.augment if augment is None else augment
    return data.train.with_view(build_box_view(wanted, settings.size, "teacher.augment"), seed=0)


def _labelled(settings: DetectionSettings, data: DetectionData, views: int) -> list[DetectionSet]:
    view = build_box_view(settings.augment, settings.size, "data.augment")
    return [data.train.with_view(view, 0, count=None if view is None else views), data.test]


def _describe(split: DetectionSet, data: DetectionData) -> str:
    known = [index for index, count in enumerate(split.labels.tolist()) if count != UNLABELLED]
    counts = torch.zeros(len(data.classes), dtype=torch.int64)
    for index in known:
        truth = split.truth(index)
        counts += torch.bincount(truth.classes[~truth.crowds], minlength=len(data.classes))
    named = sorted(zip(counts.tolist(), data.classes, strict=True), reverse=True)
    most = ", ".join(f"{count:,} {name}" for count, name in named[:5]) + (", …" if len(named) > 5 else "")
    return (
        f"{len(split):,} pictures, {len(known):,} of them annotated, with {int(counts.sum()):,} boxes of "
        f"{len(data.classes)} classes ({most})"
    )


def _shape(data: DetectionData) -> Shape:
    return Shape(len(data.classes), 3, data.train.preprocessing.size, "detection")


def _same_classes(model: nn.Module | None, classes: Sequence[str]) -> None:
    """Raises LimbeckError where a teacher of the hub has a class of the data under another number. Names that the data
    does not have may be other words for the same (`aeroplane`)."""
    inner = None if model is None else unwrapped(model)
    named = inner.class_names if isinstance(inner, SetDetector) else ()
    place = {name.strip().casefold(): index for index, name in enumerate(named)}
    for index, name in enumerate(classes):
        theirs = place.get(name.strip().casefold(), index)
        if theirs != index:
            raise LimbeckError(
                f"teacher: {name!r} is its class {theirs} and class {index} of the data, and classes are compared by "
                "number; give the data's classes the teacher's order, or train the teacher on the data"
            )


def _adapter(data: DetectionData, model: nn.Module | None, said: Mapping[str, Any]) -> Adapter:
    """From the student's pixels to the teacher's normalisation: as its recipe says, else its saved folder."""
    if said.get("as_it_is"):
        _same_classes(model, data.classes)
    given = data.train.preprocessing
    expected = expected_preprocessing(said.get("normalize"), None, given) or said.get("preparation")
    if expected is not None and expected.size != given.size:
        raise LimbeckError(
            f"teacher: it was trained on pictures of {expected.size[0]}×{expected.size[1]}, the student sees "
            f"{given.size[0]}×{given.size[1]}, and boxes are in pixels of these; give data.size that of the teacher"
        )
    return OnlyPictures(adapter(given, expected))


def _found(read: Any, split: DetectionSet, label: str, workers: int) -> list[Detections]:
    """What a module, or a teacher that runs one, finds in each picture, in pixels of the input, on the CPU.

    Raises:
        LimbeckError: there is nothing that runs.
    """
    if isinstance(read, Stored):
        read = read.fallback
    prepare: Callable[[Batch], Batch] = read.prepare if isinstance(read, Live) else without_answers
    module = read.model if isinstance(read, Live) else read
    if not isinstance(module, nn.Module):
        raise LimbeckError(f"{label}: it runs as no single detector, so nobody can say what it finds")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = _detecting(module.to(device).eval())
    found: list[Detections] = []
    loader = DataLoader(split, batch_size=32, collate_fn=collate_samples, num_workers=workers)
    with torch.inference_mode():
        for batch in tqdm(loader, desc=label, leave=False, disable=None):
            moved = {name: tensor.to(device) for name, tensor in without_answers(batch).items()}
            found += [
                Detections(each.boxes.float().cpu(), each.scores.float().cpu(), each.classes.cpu())
                for each in run(prepare(moved))
            ]
    return found


def _smallest_score(module: nn.Module) -> float:
    """From which score on a detector gives a box at all."""
    inner = unwrapped(module)
    return inner.selection.score if isinstance(inner, DenseDetector) else 0.0


def _detecting(module: nn.Module) -> Callable[[Batch], list[Detections]]:
    """A detector's whole way from pictures to boxes."""
    forward, inner = forward_of(module), unwrapped(module)
    choose: Any = getattr(inner, "detections", None)
    if choose is None:
        raise LimbeckError(f"{type(inner).__name__} finds no objects; take a detector, such as fcos:timm:resnet18")
    return lambda batch: choose(forward(batch))


def predict(
    read: Any, split: DetectionSet, *, label: str, workers: int = 0, settings: DetectionSettings | None = None
) -> Detected | Unmeasured:
    """What a module or a teacher finds in a split; a label store alone keeps no detections."""
    try:
        found = _found(read, split, label, workers)
    except LimbeckError as error:
        if isinstance(read, nn.Module | Live):
            raise
        return unmeasured(f"{label}: the teacher was not measured: {error}")
    return Detected(
        [Detections(split.restored(index, each.boxes), each.scores, each.classes) for index, each in enumerate(found)],
        split,
    )


def pseudo_boxes(teacher: Teacher, split: DetectionSet, threshold: float, path: Path, say: Say) -> Found:
    """What a teacher finds in pictures as they are, with a score of at least `threshold`, kept in a file; read from it
    where it is there."""
    if not path.exists() and processes().is_main_process:
        if (own := max(map(_smallest_score, teacher.modules()), default=0.0)) > threshold:
            say(
                f"pseudo-boxes: the threshold {threshold:g} changes nothing: the teacher's own `score` leaves out what "
                f"is below {own:g}; lower that in its options too"
            )
        objects = _found(teacher, split.without_view(), "the teacher looks for objects", 0)
        found = Found.of(split.ids, objects, threshold)
        found.write(path)
        say(
            f"pseudo-boxes: the teacher finds {len(found.regions.boxes):,} objects in {len(split):,} training "
            f"pictures, with a score of at least {threshold:g}"
        )
    processes().wait_for_everyone()
    return Found.read(path)


def _validate(module: nn.Module, split: DetectionSet, _settings: Any) -> dict[str, float]:
    said = predict(module, split, label="validation")
    measured = said.metrics()
    return {key: measured[key] for key in ("ap50", "ap") if key in measured}


def _examples(
    test: DetectionSet, student: Detected, teacher: Detected | Unmeasured, alone: Detected | None
) -> dict[str, Any] | None:
    """Pictures on which student and teacher differ most, with all boxes drawn."""
    if isinstance(teacher, Unmeasured):
        return None
    others = {} if alone is None else {"alone": alone.found}
    return {"compared": compared_pictures(test, teacher.found, {**others, "distilled": student.found})}


def _check(_data: DetectionData, terms: Sequence[Mapping[str, Any]]) -> None:
    losses = {method.name: method.module for method in METHODS}
    for index, term in enumerate(terms):
        if "labels" in losses[term["loss"]].inputs:
            raise LimbeckError(
                f"terms.{index}: the loss {term['loss']!r} learns the class of a whole picture; for boxes take "
                "{loss: model-loss}, the detector's own"
            )


OBJECT_DETECTION = Task(
    name="object-detection",
    settings=DetectionSettings,
    teacher_keys=frozenset({"normalize", "augment"}),
    main_metric="ap50",
    claimed=("ap50", "ap", "ap75"),
    selection=lambda _data: "ap50",
    terms=lambda _settings: LEARNING,
    load=_load,
    training=_training,
    alone=annotated,
    teaching=_teaching,
    labelled=_labelled,
    describe=_describe,
    shape=_shape,
    adapter=_adapter,
    preparation=lambda data: data.train.preprocessing,
    predict=predict,
    validate=_validate,
    examples=_examples,
    needs={"faster_coco_eval": "detection"},
    check=_check,
    run=_detecting,
)
